"""Bundles inside the package, also where that was installed as a zip archive."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_folders: dict[str, Path] = {}


def packaged(name: str) -> Path:
    """The folder of a bundle inside the package; from an archive it is copied out, once a process.

    Engines map files by path, so reading them through the importer is not enough.

    Raises:
        OSError: the copy cannot be written.
    """
    if name not in _folders:
        inside = files(__package__) / name
        _folders[name] = _copied_out(inside, name) if inside.is_dir() and not isinstance(inside, Path) else Path(str(inside))
    return _folders[name]


def is_packaged(path: Path, name: str) -> bool:
    """Whether a bundle was opened as the one inside the package."""
    return _folders.get(name) == path


def _copied_out(inside: Traversable, name: str) -> Path:
    """A folder that goes when the process ends; a forked child leaves it to its parent."""
    folder, process = tempfile.mkdtemp(prefix="trt-var-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == process else None)
    copy = Path(folder) / name
    copy.mkdir()
    for entry in inside.iterdir():
        if entry.is_file():
            with entry.open("rb") as source, (copy / entry.name).open("wb") as target:
                shutil.copyfileobj(source, target)
    return copy
