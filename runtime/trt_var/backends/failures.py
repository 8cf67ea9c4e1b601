"""What engines raise, in the project's words: one line, and what to do where memory is the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from trt_var.errors import BackendError

MORE = "give the process more (ulimit -v, the container's limit)"
_MEMORY = re.compile(
    r"bad_alloc|out.of.memory|(cannot|can't|could not|failed to|unable to) (re)?(alloc|map)|allocation failed"
    r"|Resource temporarily unavailable|failed to map segment",
    re.IGNORECASE,
)


def failure(what: str, error: BaseException, *, last: bool = False) -> BackendError:
    """A BackendError that begins with what was done, and gives the first or last line of what the engine said.

    Engines raise bare RuntimeErrors, families of their own, and MemoryErrors without a word.
    """
    said = reason(error, last=last)
    if out_of_memory(error):
        return BackendError(f"{what}: out of memory ({said}); ask for a smaller batch_size, or {MORE}")
    return BackendError(f"{what}: {said}")


@contextmanager
def starving(what: str) -> Iterator[None]:
    """Around work on arrays of the host: NumPy's MemoryError is told as an engine's."""
    try:
        yield
    except MemoryError as error:
        raise failure(what, error) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an engine, or the system's loader, failed for want of memory or threads."""
    return isinstance(error, MemoryError) or _MEMORY.search(str(error)) is not None


def reason(error: BaseException, *, last: bool = False) -> str:
    """The first or last line of an error; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1 if last else 0] if lines else type(error).__name__
