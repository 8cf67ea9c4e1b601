"""What a folder of many images holds: asked for, written down beside them, compared when a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.numbers import whole
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.files.locking import HOLDER
from trt_var.files.paths import contents
from trt_var.files.writing import replacing
from trt_var.requests.checking import MAX_IMAGES, Run
from trt_var.requests.mixing import by_class, mixed
from trt_var.schedule import Schedule

log = logging.getLogger(__name__)
RECIPE, LOCK = "recipe.json", ".lock"
OWN = (LOCK, HOLDER)
MAX_NUM = 1_000_000
Form = Literal["shards", "pictures"]
Order = Literal["class", "mixed"]


@dataclass(frozen=True)
class Bulk:
    """What to draw: a series of images of all classes, of each as many as of any other, or one more.

    Image i of the series has seed S + i and class i·classes/num. The folder holds the series in the order of
    ``requests.mixing``, so that any stretch of it is a fair sample.

    Attributes:
        num: how many images.
        seed: of the first of the series.
        n_draft: how many scales the drafter draws; see ``Pipeline.generate``.
        sampling: settings, or a preset's name.
        batch_size: images drawn together.
        shard: images a file.
        part: (i, n) to draw only every n-th shard, from the i-th on, i = 1 to n; all together are the series.

    Example:
        >>> Bulk(num=1000, shard=256).shards, list(Bulk(num=1000, shard=256, part=(1, 2)).own)
        (4, [0, 2])
    """

    num: int
    seed: int = 0
    n_draft: int | None = None
    sampling: Sampling | str = "default"
    batch_size: int = 8
    shard: int = 256
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "num", "shard"):
            object.__setattr__(self, name, whole(getattr(self, name), name))  # NumPy's would overflow
        if not 1 <= self.num <= MAX_NUM:
            raise UsageError(f"num is {self.num}; expected 1 to {MAX_NUM}")
        if not 1 <= self.shard <= MAX_IMAGES:
            raise UsageError(f"shard is {self.shard}; expected 1 to {MAX_IMAGES} images a file")
        if self.part is not None:
            self._check_part(*(whole(number, "a number of part") for number in self.part))

    def _check_part(self, place: int, of: int) -> None:
        if not 1 <= place <= of:
            raise UsageError(f"part is {place}/{of}; expected i/n with i = 1 to n")
        if of > self.shards:
            raise UsageError(
                f"part is {place}/{of}, but the series has only {self.shards} shards of {self.shard} images; "
                "ask for fewer parts or a smaller shard"
            )

    def positions(self, classes: int) -> NDArray[np.int64]:
        """Where in the series every image of the folder stands [num]."""
        return mixed(self.num, classes)

    def labels(self, classes: int) -> NDArray[np.int64]:
        """The class of every image of the folder [num]."""
        return by_class(self.num, classes)[self.positions(classes)]

    @property
    def shards(self) -> int:
        """How many the whole series has."""
        return -(-self.num // self.shard)

    @property
    def own(self) -> range:
        """The shards to draw, by index: those of the part, or all."""
        return range(self.shards) if self.part is None else range(self.part[0] - 1, self.shards, self.part[1])

    @property
    def images(self) -> int:
        """How many images these hold."""
        return sum(min(self.shard, self.num - index * self.shard) for index in self.own)


class Series:
    """The labels and seeds of a series, shard by shard, in the order of a folder."""

    def __init__(self, bulk: Bulk, classes: int, order: Order = "mixed") -> None:
        self._bulk = bulk
        self._positions = bulk.positions(classes) if order == "mixed" else np.arange(bulk.num)
        self._labels = by_class(bulk.num, classes)[self._positions]

    def __getitem__(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Labels and seeds of a shard, [n] each."""
        span = slice(index * self._bulk.shard, (index + 1) * self._bulk.shard)
        seeds = [self._bulk.seed + place for place in self._positions[span].tolist()]  # NumPy's would overflow
        return self._labels[span], np.array(seeds, np.uint64)


class Part(msgspec.Struct, frozen=True):
    """Which shards of its series a folder holds, and what it takes to check them where the bundle is not at hand.

    Attributes:
        place, of: every ``of``-th shard, from the ``place``-th on, the first being 1.
        classes: of the model.
        side: pixels of an image.
        length: tokens of an image.
    """

    place: int
    of: int
    classes: int
    side: int
    length: int

    def __str__(self) -> str:
        return f"{self.place}/{self.of}"


class Recipe(msgspec.Struct, frozen=True):
    """What makes the images of a folder what they are; a run goes on only where all of it is the same.

    ``batch_size`` is there where rounding depends on it: everywhere but in float32, or where images are drawn alone.
    ``order`` is missing where the images lie sorted by class, as they once did. ``part`` is null where the folder holds all
    shards. ``probe`` is what ``probing.probe`` found on the machine that began the folder; earlier versions have none.
    """

    num: int
    seed: int
    n_draft: int | None
    sampling: Sampling | str
    shard: int
    bundle: str
    backend: str
    batch_size: int | None = None
    batch_invariant: bool = False
    order: Order = "class"
    form: Form = "shards"
    part: Part | None = None
    probe: str | None = None

    def bulk(self, part: tuple[int, int] | None) -> Bulk:
        """The series, or a part of it.

        Raises:
            UsageError: a number out of range.
        """
        return Bulk(self.num, self.seed, self.n_draft, self.sampling, self.batch_size or 1, self.shard, part)


@dataclass(frozen=True)
class Drawer:
    """What draws, as far as a recipe is concerned.

    Attributes:
        engine: version, device and arithmetic.
        exact: whether all is computed in float32.
        batch_invariant: whether every image is drawn by itself.
    """

    engine: str
    exact: bool
    batch_invariant: bool

    @property
    def any_batch(self) -> bool:
        """Whether the batch size does not matter, but for the last step of a pixel."""
        return self.exact or self.batch_invariant


def recipe_of(manifest: Manifest, drawer: Drawer, bulk: Bulk, checked: Run, form: Form) -> Recipe:
    """What a folder will hold, but for its probe, which has to be drawn first."""
    length = Schedule(manifest.schedule).length
    recipe = Recipe(
        bulk.num,
        bulk.seed,
        checked.n_draft,
        checked.sampling,
        bulk.shard,
        manifests.identity(manifest),
        drawer.engine,
        None if drawer.any_batch else bulk.batch_size,
        drawer.batch_invariant,
        "mixed",
        form,
        None if bulk.part is None else Part(*bulk.part, manifest.classes, manifest.image_side, length),
    )
    data = msgspec.json.encode(recipe, enc_hook=lambda number: number.item())  # NumPy's numbers
    return msgspec.json.decode(data, type=Recipe)


def agreed(out: Path, wanted: Recipe, probe: Callable[[], str]) -> Recipe:
    """Write the recipe of a new folder, with what ``probe`` finds, or compare that of an older one, which is returned.

    Raises:
        UsageError: the folder holds other images, or something else.
    """
    if not (out / RECIPE).exists():
        check_new(out)
        written = msgspec.structs.replace(wanted, probe=probe())
        write_recipe(out, written)
        return written
    found = read_recipe(out)
    different = differences(found, wanted, but=("order", "probe"))
    if different:
        raise UsageError(f"{out} holds other images: {different}; choose another folder")
    if found.order != "mixed":
        log.warning(
            "%s was begun by an earlier version, which sorted by class, and stays in that order; "
            "the same images lie in mixed order in a new folder, and in a file of --adm-npz",
            out,
        )
    return found


def check_new(out: Path) -> None:
    """Look whether a folder without a recipe may get one.

    Raises:
        UsageError: something lies in it.
    """
    strangers = [name for name in contents(out) if name not in OWN and not name.startswith(f".{RECIPE}")]
    if strangers:
        raise UsageError(f"{out} holds {strangers[0]} and no {RECIPE}; choose an empty or a new folder")


def differences(found: Recipe, wanted: Recipe, but: tuple[str, ...], asked: str = "asked for") -> str:
    """In what two recipes differ, for people; nothing where they do not."""
    names = [name for name in wanted.__struct_fields__ if name not in but]
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in names]
    return "; ".join(f"{name} {there} there, {here} {asked}" for name, there, here in pairs if there != here)


def read_recipe(out: Path) -> Recipe:
    """The recipe of a folder.

    Raises:
        UsageError: there is none, or no valid one.
    """
    path = out / RECIPE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}; give a folder of trt-var sample") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a valid recipe ({error}); choose another folder") from error


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Put a recipe into its folder.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(out / RECIPE) as file:
        file.write(msgspec.json.format(msgspec.json.encode(recipe)) + b"\n")
