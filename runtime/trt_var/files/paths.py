"""Paths as people give them: ``~``, links, folders that hold nothing of theirs yet."""

from __future__ import annotations

import errno
import os
from pathlib import Path

AnyPath = str | os.PathLike[str]
ANY_WRITES = 0o222
UNFINISHED = ".unfinished-"
# what file systems and desktops put into folders that are empty otherwise
OF_THE_SYSTEM = {"lost+found", ".snapshot", ".zfs", ".Trashes", ".DS_Store", "System Volume Information"}


def expanded(path: AnyPath) -> Path:
    """The path with ``~`` and ``~user`` written out as a shell does it: an unknown user stays as given."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for unknown users


def followed(path: Path) -> Path:
    """Where a path leads once its links are followed, whether anything is there or not.

    Raises:
        OSError: links in a circle, a name that is too long.
    """
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    place.exists()  # raises for a name that no file system takes
    return place


def followed_file(path: Path) -> Path:
    """As ``followed``, for a file to write.

    Raises:
        OSError: also a link into a store that protects what it holds (DVC, git-annex).
    """
    place = followed(path)
    if path.is_symlink() and place.is_file() and not place.stat().st_mode & ANY_WRITES:
        raise OSError(
            errno.EACCES, f"it is a link to {place}, which is write-protected; remove the link or name another file"
        )
    return place


def contents(folder: Path) -> list[str]:
    """The names in a folder, sorted, without those of the system and of runs that were killed or are under way.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(path.name for path in folder.iterdir() if not (path.name in OF_THE_SYSTEM or is_unfinished(path.name)))


def is_unfinished(name: str) -> bool:
    """Whether this package gave a file or folder its name while it was being made."""
    return name.startswith(".") and UNFINISHED in name
