"""Folders of pictures: what of them counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trt_var.errors import DataError
from trt_var.files.paths import OF_THE_SYSTEM
from trt_var_export.weights.checkpoint import shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_PICTURES = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jxl", ".tif", ".tiff")
# what systems and programs put beside the folders of people; hidden ones begin with a dot
SYSTEM = {
    *(name.casefold() for name in OF_THE_SYSTEM),
    *("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin"),
}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass
class Listing:
    """The pictures of every class's folder, and what was left out.

    Attributes:
        pictures: folder → its pictures, sorted.
        left_out: sentences for people.
    """

    pictures: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def counts(name: str) -> bool:
    """Whether a file or folder is one of people's, neither hidden nor of the system."""
    return not name.startswith(".") and name.casefold() not in SYSTEM


def check_there(root: Path) -> None:
    """Before anything is fetched for it.

    Raises:
        DataError: no such folder.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give a folder with one folder of pictures a class")


def list_folders(root: Path) -> Listing:
    """List a folder of folders of pictures; a class's pictures may lie in folders below its own.

    Raises:
        DataError: no such folder, one that cannot be read, no pictures at all, or splits instead of classes.
    """
    try:
        check_there(root)
        return _listed(root)
    except OSError as error:
        name = shown(str(error.filename or root))
        raise DataError(f"cannot read the folder {name}: {error.strerror or error}") from error


def _listed(root: Path) -> Listing:
    found = Listing()
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    strange = [name for name in folders if not counts(name)]
    if strange:
        found.left_out.append(f"hidden and system folders: {_some(strange)}")
    hidden: list[Path] = []
    other: Counter[str] = Counter()
    for name in folders:
        if name in strange:
            continue
        own: list[Path] = []
        below: list[Path] = []
        for path in _files(root / name):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES and not counts(path.name):
                hidden.append(path)
            elif suffix in SUFFIXES:
                (own if path.parent == root / name else below).append(path)
            other[suffix] += suffix in OTHER_PICTURES
        found.pictures[name] = sorted(own or below)
        if own and below:
            found.left_out.append(f"{len(below)} pictures in folders below {shown(name)}, which has pictures itself")
    if hidden:
        found.left_out.append(f"{len(hidden)} hidden files, e.g. {hidden[0].relative_to(root)}")
    found.left_out += [f"{count} {suffix} files" for suffix, count in sorted(other.items()) if count]
    _check(root, found)
    return found


def _check(root: Path, found: Listing) -> None:
    if not any(found.pictures.values()):
        raise DataError(f"no pictures ({', '.join(SUFFIXES)}) in folders below {root}")
    if {name.casefold() for name in found.pictures} <= SPLITS:
        first = next(iter(found.pictures))
        raise DataError(f"the folders in {root} are splits ({', '.join(found.pictures)}), not classes; give {root / first}")


def _files(folder: Path) -> list[Path]:
    """All files below a folder, links followed, each folder once."""
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        raise error

    for place, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place).stat()
        if (here.st_dev, here.st_ino) in seen:
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        below[:] = sorted(name for name in below if counts(name))
        found += [Path(place, name) for name in names]
    return found


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
