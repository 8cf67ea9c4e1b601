"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trt_var.errors import OutputError

SHOWN = 40  # characters of a name that a temporary one begins with, so that it is never too long itself


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` when the block ends well, and disappears when it does not.

    Raises:
        OutputError: for what the operating system refuses.
    """
    partial: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:SHOWN]}.", delete=False) as file:
            partial = file.name
            yield file
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(path)
        partial = None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial:
            Path(partial).unlink(missing_ok=True)


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder that takes the place of ``out`` when the block ends well, and disappears when it does not.

    Raises:
        OutputError: for what the operating system refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:SHOWN]}.building-"))
        try:
            yield folder
            folder.chmod(0o755)
            _put_in_place(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename a finished folder; an older one steps aside first, goes when the new one is there, and else comes back."""
    if not out.exists():
        folder.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:SHOWN]}.replaced-"))
    try:
        out.rename(aside / "old")
        folder.rename(out)
    except BaseException:  # Ctrl-C may come between the two
        if not out.exists():
            (aside / "old").rename(out)
        shutil.rmtree(aside, ignore_errors=True)  # empty, or the new one is there
        raise
    shutil.rmtree(aside, ignore_errors=True)
