"""The one seam to NVIDIA's driver: a device with memory, two streams, pinned memory and captured work.

Two implementations are in ``bindings``, one in host memory, for tests, in ``simulated``; ``devices`` chooses.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.forks import in_this_process
from trt_var.backends.tensorrt.record import Kind
from trt_var.errors import BackendError

Bytes = NDArray[np.uint8]


class Memory:
    """An allocation on a device, freed with the last reference to it.

    Attributes:
        address: of its first byte, at least 256-byte aligned.
        size: in bytes.
    """

    def __init__(self, address: int, size: int, free: Callable[[], object]) -> None:
        self.address, self.size = address, size
        self._finalizer = weakref.finalize(self, in_this_process(free))

    def free(self) -> None:
        """Free it now; again does nothing."""
        self._finalizer()


class Device(Protocol):
    """One GPU and two streams on it, for use by one thread at a time; everything below is in the order of ``stream``.

    Attributes:
        kinds: of engines that it runs, the preferred first.
        description: the seam and the GPU's name, for people.
        target: its compute capability, ``sm90``.
        stream: handle of the stream in use, for engines to enqueue on: the first, in an ``aside`` block the second.
    """

    kinds: tuple[Kind, ...]
    description: str
    target: str

    @property
    def stream(self) -> int: ...

    def active(self) -> AbstractContextManager[object]:
        """A block in which the device is current in the calling thread; every other call must be in one."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """A block that enqueues on the second stream, after everything that was enqueued on the first."""
        ...

    def join(self) -> None:
        """What is enqueued next comes after everything that was enqueued aside."""
        ...

    def free_memory(self) -> int:
        """Bytes that can still be allocated."""
        ...

    def allocate(self, size: int) -> Memory:
        """Memory with undefined content; not while capturing.

        Raises:
            BackendError: there is not so much.
        """
        ...

    def pinned(self, size: int) -> Bytes:
        """Host memory [size] that copies can reach without the host waiting; not while capturing."""
        ...

    def to_device(self, address: int, host: Bytes) -> None:
        """Enqueue a copy. The host array must stay as it is until ``synchronize``, or for a captured copy, be pinned."""
        ...

    def to_host(self, host: Bytes, address: int) -> None:
        """Enqueue a copy; the host array is valid after ``synchronize``."""
        ...

    def synchronize(self) -> None:
        """Wait for everything enqueued, aside too.

        Raises:
            BackendError: a kernel failed; the process has then lost the device.
        """
        ...

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Record what ``work`` enqueues, without doing it; the result enqueues all of it at once."""
        ...


@contextmanager
def cuda_errors() -> Iterator[None]:
    """Turn the bindings' own exceptions into the project's."""
    try:
        yield
    except (BackendError, KeyboardInterrupt):
        raise
    except Exception as error:  # both bindings raise families of their own, without a common base
        raise BackendError(f"CUDA failed: {str(error).strip() or type(error).__name__}") from error
