"""Folders of real pictures, looked at as torch-fidelity will: before hours of drawing, not after them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_var.errors import DataError, UsageError
from trt_var.pictures.checking import unreadable

SUFFIXES = (".png", ".jpg", ".jpeg")  # what torch-fidelity takes; it does not look further
SHOWN = 3
Size = tuple[int, int]


@dataclass(frozen=True)
class References:
    """A folder of real pictures.

    Attributes:
        count: how many.
        deep: whether they lie in folders below, such as one a class.
        sizes: width and height → how many have them.
    """

    count: int
    deep: bool
    sizes: Counter[Size]

    @property
    def largest(self) -> int:
        """Pixels of the largest picture."""
        return max(width * height for width, height in self.sizes)

    def __str__(self) -> str:
        sizes = ", ".join(f"{count} of {width}×{height}" for (width, height), count in self.sizes.most_common(SHOWN))
        more = f", {len(self.sizes) - SHOWN} other sizes" if len(self.sizes) > SHOWN else ""
        return f"{self.count} pictures{' in folders' if self.deep else ''}: {sizes}{more}"


def look(folder: Path, progress: Callable[[int], object] | None = None) -> References:
    """Look at every picture's header and end.

    Args:
        folder: pictures, or folders of pictures, at any depth.
        progress: called with how many more have been looked at.

    Raises:
        UsageError: no such folder.
        DataError: fewer than two pictures, pictures both in the folder and in folders below it, hidden ones, or ones that
            cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; --fidelity takes a folder of real pictures")
    found = sorted(_pictures(folder))
    above = [path for path in found if path.parent == folder]
    if above and len(above) < len(found):
        raise DataError(
            f"{folder} holds {len(above)} pictures itself and {len(found) - len(above)} in folders below, of which the "
            "metric takes the former alone; give a folder with one kind"
        )
    if len(found) < 2:
        raise DataError(f"{folder} holds {len(found)} pictures ({', '.join(SUFFIXES)}); a distance takes 2 or more")
    hidden = [path for path in found if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if hidden:
        raise DataError(
            f"{folder} holds {len(hidden)} hidden pictures, e.g. {hidden[0]}, which the metric takes: remove them"
        )
    sizes: Counter[Size] = Counter()
    broken = unreadable(found, progress=progress, sizes=sizes)
    if broken:
        raise DataError(f"{len(broken)} of {len(found)} pictures cannot be read: {'; '.join(broken[:SHOWN])}; remove them")
    return References(len(found), not above, sizes)


def _pictures(folder: Path) -> Iterator[Path]:
    """As torch-fidelity walks: links to folders are not followed."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names if Path(name).suffix.lower() in SUFFIXES)
