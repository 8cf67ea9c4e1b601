"""Where results go, looked at before anything is computed: hours of work shall not end at a name that cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from trt_var.errors import OutputError, UsageError
from trt_var.files.paths import expanded, followed_file

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MOVING = {**PICTURES, ".gif": "GIF"}
LARGEST = {"PNG": 2**31 - 1, "JPEG": 65500, "WEBP": 16383, "GIF": 65535}  # pixels a side
Target = Path | None


def picture_format(path: Path, moving: bool = False) -> str:
    """Pillow's format for a file name; with ``moving``, one that may be an animation.

    Raises:
        OutputError: a suffix that is no picture format.
    """
    known = MOVING if moving else PICTURES
    if path.suffix.lower() not in known:
        raise OutputError(f"cannot write {path}: {path.suffix!r} is no picture format here; use {', '.join(known)}")
    return known[path.suffix.lower()]


def check_targets(
    pictures: Iterable[Target] = (),
    moving: Iterable[Target] = (),
    files: Iterable[Target] = (),
    folders: Iterable[Target] = (),
) -> None:
    """Look at all outputs of a command; None stands for one that was not asked for.

    Args:
        pictures, moving: files whose suffix says the format; ``moving`` may be .gif too.
        files: of other kinds.
        folders: made if they are not there.

    Raises:
        OutputError: what cannot be written: no such folder, not permitted, a folder or a device of that name, a name that is
            too long, a suffix that is no picture format.
        UsageError: two outputs in one place.
    """
    still, animated = [path for path in pictures if path], [path for path in moving if path]
    for path in still:
        picture_format(path)
    for path in animated:
        picture_format(path, moving=True)
    checks = {_check_file: [*still, *animated, *(path for path in files if path)], _check_folder: filter(None, folders)}
    places: dict[Path, Path] = {}
    for check, paths in checks.items():
        for path in paths:
            place = _looked_at(path, check)
            if place in places:
                raise UsageError(f"{places[place]} and {path} are the same place; give every output its own")
            places[place] = path


def _looked_at(path: Path, check: Callable[[Path, Path], None]) -> Path:
    """Where a checked path leads."""
    path = expanded(path)
    try:
        place = followed_file(path)
        check(path, place)
        return place
    except (OSError, ValueError) as error:  # too long a name; a NUL in it; links in a circle
        raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def _check_file(path: Path, place: Path) -> None:
    if place.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if place.exists() and not place.is_file():
        raise OutputError(f"cannot write {path}: it is no ordinary file")
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {place.parent if path.is_symlink() else path.parent}")
    if not (place.exists() and os.access(place, os.W_OK)):  # else it can be written, whatever its folder is
        _try(path, place.parent)


def _check_folder(path: Path, place: Path) -> None:
    there = place
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"cannot write {path}: {there.name if there != place else path} is no folder")
    _try(path, there)


def _try(path: Path, folder: Path) -> None:
    """Make a file in a folder, which goes at once: permissions, read-only and full file systems all show in it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except PermissionError as error:
        raise OutputError(f"cannot write {path}: not permitted in the folder {folder}") from error
