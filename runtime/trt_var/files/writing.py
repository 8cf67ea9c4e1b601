"""Files and folders that are there whole or not at all.

Nothing here asks for permissions, locks or hard links, which not every file system has: files and folders are made with the
mode that they are to have, and the system takes the umask off.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from trt_var.errors import OutputError
from trt_var.files import placing
from trt_var.files.paths import UNFINISHED, AnyPath, expanded, followed, followed_file

SHOWN = 40  # characters of a name that a temporary one begins with, so that it is never too long itself


@contextmanager
def replacing(path: AnyPath, *, follow: bool = True) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` when the block ends well, and disappears when it does not.

    Args:
        path: a link is followed, and what it leads to is written; ``~`` is written out.
        follow: False to put the file in the link's own place.

    Raises:
        OutputError: for what the operating system refuses. If that is the last step, the message says where the content is.
    """
    path, partial, whole = expanded(path), None, False
    try:
        place = followed_file(path) if follow else path
        partial, file = _created(place)
        with file:
            yield file
        whole = True
        _put_file(partial, place)
    except OSError as error:
        kept = f"; its whole content is in {partial}" if whole else ""
        raise OutputError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    except BaseException:
        whole = False  # an interrupted last step leaves nothing
        raise
    finally:
        if partial and not (whole and partial.exists()):
            partial.unlink(missing_ok=True)


@contextmanager
def appearing(out: AnyPath, last: str = "") -> Iterator[Path]:
    """A folder that takes the place of ``out`` when the block ends well, and disappears when it does not.

    A folder that is there stays the same folder, which may be a mount point: its contents are exchanged.

    Args:
        out: a link is followed; ``~`` is written out.
        last: the file that makes the folder whole: the first to go and the last to come.

    Raises:
        OutputError: for what the operating system refuses. If that is the last step, the message says where the result is.
    """
    out = expanded(out)
    with scratch(out) as folder:
        yield folder
        try:
            placing.put(folder, followed(out), last)
        except OSError as error:
            kept = folder.with_name(folder.name.replace(UNFINISHED, ".finished-").lstrip("."))
            folder.rename(kept)
            raise OutputError(f"cannot write {out}: {error.strerror or error}; what was made is whole in {kept}") from error


@contextmanager
def scratch(out: AnyPath) -> Iterator[Path]:
    """A temporary folder on the file system of ``out``: inside it if it is there, else beside it.

    Raises:
        OutputError: for what the operating system refuses, in the block too.
    """
    out = expanded(out)
    try:
        place = followed(out)
        home = place if place.is_dir() else place.parent
        home.mkdir(parents=True, exist_ok=True)
        folder = home / _temporary(place)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _temporary(place: Path) -> str:
    """A name that nothing has, no longer than a file system takes."""
    shown = os.fsencode(place.name)[:SHOWN].decode("utf-8", "ignore")
    return f".{shown}{UNFINISHED}{secrets.token_hex(4)}"


def _created(place: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside another, with the permissions of that one if it is there.

    A file may be writable where its folder is not, for one as the mount point of a container: then the new one lies in the
    system's folder for temporary files.
    """
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else None
    try:
        return _opened(place.with_name(_temporary(place)), mode)
    except OSError:
        if mode is None or not os.access(place, os.W_OK):
            raise
        return _opened(Path(tempfile.gettempdir()) / _temporary(place), mode)


def _opened(partial: Path, mode: int | None) -> tuple[Path, IO[bytes]]:
    wanted = 0o666 if mode is None else mode
    file = open(partial, "x+b", opener=lambda name, flags: os.open(name, flags, wanted))  # noqa: SIM115 - the opener
    if mode is not None and stat.S_IMODE(partial.stat().st_mode) != mode:
        with suppress(OSError):  # a file system without permissions has none to keep
            partial.chmod(mode)
    return partial, file


def _put_file(partial: Path, place: Path) -> None:
    """Rename a finished file; where the place is a mount point, and cannot be renamed over, write its content there."""
    try:
        partial.replace(place)
    except OSError:
        if not place.is_file():
            raise
        shutil.copyfile(partial, place)
        partial.unlink()
