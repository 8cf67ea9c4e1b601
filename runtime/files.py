"""Folders that are there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_var.errors import OutputError


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder that takes the place of ``out`` when the block ends well, and disappears when it does not.

    Raises:
        OutputError: for what the operating system refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.building-"))
        try:
            yield folder
            folder.chmod(0o755)
            _put_in_place(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename a finished folder; an older one steps aside first and goes when the new one is there."""
    if not out.exists():
        folder.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.replaced-"))
    out.rename(aside / out.name)
    try:
        folder.rename(out)
    except OSError:
        (aside / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
