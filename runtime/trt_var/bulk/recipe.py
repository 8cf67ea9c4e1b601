"""What a folder of many images holds: asked for, written down beside them, compared when a run goes on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle import manifest as manifests
from trt_var.decoding.numbers import whole
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.files.locking import HOLDER
from trt_var.files.paths import contents
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import MAX_IMAGES, Run
from trt_var.requests.mixing import by_class, mixed

log = logging.getLogger(__name__)
RECIPE, LOCK = "recipe.json", ".lock"
OWN = (LOCK, HOLDER)
MAX_NUM = 1_000_000
Form = Literal["shards", "pictures"]


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
    """

    num: int
    seed: int = 0
    n_draft: int | None = None
    sampling: Sampling | str = "default"
    batch_size: int = 8
    shard: int = 256

    def __post_init__(self) -> None:
        for name in ("seed", "num", "shard"):
            object.__setattr__(self, name, whole(getattr(self, name), name))  # NumPy's would overflow
        if not 1 <= self.num <= MAX_NUM:
            raise UsageError(f"num is {self.num}; expected 1 to {MAX_NUM}")
        if not 1 <= self.shard <= MAX_IMAGES:
            raise UsageError(f"shard is {self.shard}; expected 1 to {MAX_IMAGES} images a file")

    def positions(self, classes: int) -> NDArray[np.int64]:
        """Where in the series every image of the folder stands [num]."""
        return mixed(self.num, classes)

    def labels(self, classes: int) -> NDArray[np.int64]:
        """The class of every image of the folder [num]."""
        return by_class(self.num, classes)[self.positions(classes)]

    def spans(self) -> list[slice]:
        """The images of every shard."""
        return [slice(start, min(start + self.shard, self.num)) for start in range(0, self.num, self.shard)]


class Recipe(msgspec.Struct, frozen=True):
    """What makes the images of a folder what they are; a run goes on only where all of it is the same.

    ``batch_size`` is there where rounding depends on it: everywhere but in float32, or where images are drawn alone.
    ``order`` is missing where the images lie sorted by class, as they once did.
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
    order: Literal["class", "mixed"] = "class"
    form: Form = "shards"


def agreed_positions(pipeline: Pipeline, bulk: Bulk, checked: Run, form: Form, out: Path) -> NDArray[np.int64]:
    """Write the recipe of a new folder or compare that of an older one; where in the series its images stand [num].

    Raises:
        UsageError: the folder holds other images, or something else.
    """
    recipe = _recipe(pipeline, bulk, checked, form)
    path = out / RECIPE
    if not path.exists():
        strangers = [name for name in contents(out) if name not in OWN and not name.startswith(f".{RECIPE}")]
        if strangers:
            raise UsageError(f"{out} holds {strangers[0]} and no {RECIPE}; choose an empty or a new folder")
        with replacing(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(recipe)) + b"\n")
        return bulk.positions(pipeline.manifest.classes)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a valid recipe ({error}); choose another folder") from error
    names = [name for name in recipe.__struct_fields__ if name != "order"]
    pairs = [(name, getattr(found, name), getattr(recipe, name)) for name in names]
    different = [f"{name} {there} there, {asked} asked for" for name, there, asked in pairs if there != asked]
    if different:
        raise UsageError(f"{out} holds other images: {'; '.join(different)}; choose another folder")
    if found.order == "mixed":
        return bulk.positions(pipeline.manifest.classes)
    log.warning(
        "%s was begun by an earlier version, which sorted by class, and stays in that order; "
        "the same images lie in mixed order in a new folder, and in a file of --adm-npz",
        out,
    )
    return np.arange(bulk.num)


def _recipe(pipeline: Pipeline, bulk: Bulk, checked: Run, form: Form) -> Recipe:
    recipe = Recipe(
        bulk.num,
        bulk.seed,
        checked.n_draft,
        checked.sampling,
        bulk.shard,
        manifests.identity(pipeline.manifest),
        pipeline.engine,
        None if pipeline.exact or pipeline.batch_invariant else bulk.batch_size,
        pipeline.batch_invariant,
        "mixed",
        form,
    )
    data = msgspec.json.encode(recipe, enc_hook=lambda number: number.item())  # NumPy's numbers
    return msgspec.json.decode(data, type=Recipe)
