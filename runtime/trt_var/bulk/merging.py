"""Parts of a series, drawn in different places, joined to what one process would have drawn."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from trt_var.bulk.recipe import LOCK, OWN, RECIPE, Bulk, Part, Recipe, Series, differences, read_recipe, write_recipe
from trt_var.bulk.shards import Progress, Shape, Shards
from trt_var.errors import DataError, UsageError
from trt_var.files.locking import locked
from trt_var.files.paths import AnyPath, contents, expanded
from trt_var.files.writing import appearing

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def merge(parts: Sequence[AnyPath], out: AnyPath, progress: Progress | None = None) -> list[Path]:
    """Join all parts of a series to a folder that is byte for byte that of one unbroken run.

    Every shard is copied and the copy read through; the folder appears when all are there, or not at all.

    Args:
        parts: folders that ``sample`` drew with ``Bulk.part``, all of them, in any order. They stay as they are.
        out: a new or an empty folder.
        progress: called with the number of images joined at once.

    Returns:
        The shards, in order.

    Raises:
        UsageError: no parts, parts of different series or machines, one twice, one missing; or something lies in ``out``.
        DataError: a part that is not finished, or damaged.
        OutputError: a part is being drawn, or the disk is full; nothing is left behind.

    Example:
        >>> import tempfile
        >>> from trt_var import Pipeline, bulk
        >>> with tempfile.TemporaryDirectory() as home, Pipeline.load("digits") as pipeline:
        ...     for part in (1, 2):  # elsewhere, at the same time
        ...         drawn = bulk.sample(pipeline, bulk.Bulk(num=20, shard=10, part=(part, 2)), f"{home}/{part}")
        ...     [path.name for path in bulk.merge([f"{home}/1", f"{home}/2"], f"{home}/whole")]
        ['shard-00000.npz', 'shard-00001.npz']
    """
    out = expanded(out)
    if out.is_dir() and contents(out):
        raise UsageError(f"{out} holds {contents(out)[0]}; choose an empty or a new folder")
    ordered = _ordered([expanded(part) for part in parts])
    first, of_first = next(iter(ordered.values()))
    bulk = first.bulk(None)
    with appearing(out, last=RECIPE) as folder:
        series = Series(bulk, of_first.classes, first.order)
        shards = Shards(folder, Shape(of_first.side, of_first.length))
        for part, (recipe, of) in ordered.items():
            with _still(part):
                _join(part, recipe.bulk((of.place, of.of)), series, shards, progress)
        (folder / LOCK).touch()  # as a run leaves it
        write_recipe(folder, msgspec.structs.replace(first, part=None))
    whole = Shards(out, Shape(of_first.side, of_first.length))
    return [whole.path(index) for index in bulk.own]


def _ordered(folders: list[Path]) -> dict[Path, tuple[Recipe, Part]]:
    """The parts with their recipes, which are compared with the first one's."""
    if not folders:
        raise UsageError("no parts; give the folders that trt-var sample --part drew")
    found: dict[int, Path] = {}
    parts: dict[Path, tuple[Recipe, Part]] = {}
    for folder in folders:
        recipe, part = _read(folder)
        if part.place in found:
            raise UsageError(f"{found[part.place]} and {folder} are both part {part}; give each part once")
        found[part.place], parts[folder] = folder, (recipe, part)
    (first, of_first), *_ = parts.values()
    for folder, (recipe, part) in parts.items():
        _check_same(folders[0], first, folder, recipe)
        if msgspec.structs.replace(part, place=of_first.place) != of_first:
            raise UsageError(f"{folder} is part {part}, {folders[0]} is part {of_first}; they are not of one division")
    missing = [f"{place}/{of_first.of}" for place in range(1, of_first.of + 1) if place not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UsageError(f"missing: part {', '.join(missing[:5])}{more}; give all {of_first.of} parts")
    return parts


def _read(folder: Path) -> tuple[Recipe, Part]:
    recipe = read_recipe(folder)
    part = recipe.part
    if part is None:
        raise UsageError(f"{folder} holds a whole series, not a part of one; nothing is to be merged")
    if min(part.classes, part.side, part.length) < 1 or recipe.form != "shards":
        raise UsageError(f"{folder / RECIPE} is not a valid recipe of shards; draw the part again")
    recipe.bulk((part.place, part.of))  # checks the numbers
    return recipe, part


def _check_same(first_folder: Path, first: Recipe, folder: Path, recipe: Recipe) -> None:
    different = differences(recipe, first, but=("part", "probe"), asked=f"in {first_folder}")
    if different:
        raise UsageError(f"{folder} is of another series: {different}")
    if recipe.probe != first.probe:
        raise UsageError(
            f"{folder} and {first_folder} were drawn by machines that round differently (probe {str(recipe.probe)[:12]} and "
            f"{str(first.probe)[:12]}); draw one of them again on a machine like the other's"
        )


def _join(part: Path, bulk: Bulk, series: Series, shards: Shards, progress: Progress | None) -> None:
    """Copy and check the shards of one part."""
    own = {shards.path(index).name: index for index in bulk.own}
    strangers = [name for name in contents(part) if name not in (*own, *OWN, RECIPE) and not name.startswith(".")]
    if strangers:
        raise UsageError(f"{part} holds {strangers[0]}, which is not of this part; take it out")
    for name, index in own.items():
        source, labels_seeds = part / name, series[index]
        if not source.is_file():
            raise DataError(f"{part} has no {name}; draw the part to its end with the command that began it")
        copy = shards.path(index)
        shutil.copyfile(source, copy)
        fault = shards.fault(copy, *labels_seeds)
        if fault is not None:
            raise DataError(f"{source} is damaged ({fault}); the command that drew the part draws it again")
        if progress:
            progress(len(labels_seeds[1]))


@contextmanager
def _still(part: Path) -> Iterator[None]:
    """A part that nobody writes to meanwhile; where nobody here may write, nothing needs to be locked."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(part / LOCK))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
        yield
