"""A folder for one process alone, also on file systems without locks."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trt_var.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
HOLDER = ".holder"
_held: set[Path] = set()  # by this process
_guard = threading.Lock()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The folder of a lock file for this process alone, until the block ends.

    Where the file system has no locks (some of NFS, FUSE, Lustre and cloud storage), a file that names the holder stands for
    one. It outlives a process that is killed; one of this machine that is gone loses it.

    Raises:
        OutputError: another process has it, or is said to.
        OSError: the file cannot be written.
    """
    with path.open("w") as file:
        refused = _lock(file, path.parent)
        if refused is None:
            yield
            return
        log.warning("%s has no file locks (%s): the file %s keeps other processes out", path.parent, refused, HOLDER)
        with _holding(path.with_name(HOLDER)):
            yield


def _lock(file: IO[str], folder: Path) -> str | None:
    """Take the lock, which goes when the file is closed; or what the file system says against locks."""
    if fcntl is None:
        return "none on this system"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another process is writing to {folder}; wait for it, or choose another folder") from error
    except OSError as error:
        return error.strerror or str(error)
    return None


@contextmanager
def _holding(path: Path) -> Iterator[None]:
    path = path.resolve()
    with _guard:
        if path in _held:
            raise OutputError(f"this process is writing to {path.parent} already; wait for it, or choose another folder")
        _create(path)
        _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    """Make the file, which one process alone can; what a process left that is no more goes first."""
    if path.exists() and _is_gone(path.read_text(errors="replace")):
        log.warning("%s was left by a process that is no more: removed", path)
        path.unlink(missing_ok=True)
    try:
        with path.open("x") as file:
            file.write(f"{os.getpid()} {socket.gethostname()}")
    except FileExistsError as error:
        number, _, machine = path.read_text(errors="replace").partition(" ")
        raise OutputError(
            f"process {number} of {machine} is writing to {path.parent}; wait for it, choose another folder, or, if that "
            f"process is no more, remove {path}"
        ) from error


def _is_gone(holder: str) -> bool:
    """Whether a holder was a process of this machine that no longer runs; of other machines nothing is known."""
    number, _, machine = holder.partition(" ")
    if machine != socket.gethostname() or not number.isdecimal():
        return False
    if int(number) == os.getpid():
        return True  # not held here: an earlier process had this number, as the first one of every container has
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
