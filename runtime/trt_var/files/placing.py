"""Putting a finished folder where it belongs."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from trt_var.files.paths import contents


def put(folder: Path, place: Path, last: str) -> None:
    """Rename a folder that lies beside ``place``; of one that lies inside it, exchange the contents for those of ``place``.

    Raises:
        OSError: refused; then ``folder`` is whole, and what was in ``place`` is there again.
    """
    if folder.parent == place:
        _exchange(folder, place, last)
    else:
        folder.rename(place)  # over nothing or an empty folder; all else refuses


def _exchange(folder: Path, place: Path, last: str) -> None:
    """Old contents step aside, the new ones move in, and only then the old ones go; interrupted, they come back.

    ``last`` is the first to go and the last to come, so that a reader finds all of the old, all of the new, or no whole one.
    """
    old = sorted(contents(place), key=lambda name: name != last)
    new = sorted((path.name for path in folder.iterdir()), key=lambda name: name == last)
    aside = folder.with_name(f"{folder.name}-old")
    aside.mkdir()
    try:
        for name in old:
            _move(place / name, aside / name)
        for name in new:
            _move(folder / name, place / name)
    except BaseException:  # Ctrl-C may come between any two
        if any(folder.iterdir()):
            for name in new:
                if not (folder / name).exists() and (place / name).exists():
                    _move(place / name, folder / name)
            for path in aside.iterdir():
                _move(path, place / path.name)
        shutil.rmtree(aside, ignore_errors=True)  # empty, or the new ones are all there
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        # the layers of a container's image: their folders cannot be renamed, but copied
        if error.errno != errno.EXDEV or not path.is_dir():
            raise
        shutil.move(path, target)
