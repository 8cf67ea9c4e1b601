"""Work that is done again and again with the same sizes: memory that stays where it is, and one CUDA graph for all of it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Buffer, DeviceArray, Work
from trt_var.backends.tensorrt.device import Device, Memory
from trt_var.errors import BackendError

CAPTURED = 2  # runs before work is launched as a graph
TIMED = 3
ALIGNMENT = 1024  # of scratch and of inputs: engines want 512 for scratch, less elsewhere


class Owner(Protocol):
    """What a replay needs of its backend."""

    device: Device
    scratch: dict[int, Memory]

    def held_by(self, arena: Arena, /) -> AbstractContextManager[None]: ...


class Arena:
    """Memory that stays where it is from one run of the same work to the next."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: list[Memory] = []
        self._next = 0

    def restart(self) -> Arena:
        self._next = 0
        return self

    def take(self, size: int) -> Memory:
        if self._next == len(self._held):
            self._held.append(self._device.allocate(size))
        memory = self._held[self._next]
        if memory.size != size:
            raise BackendError(f"work asked for {size} bytes where it asked for {memory.size} before: it cannot be replayed")
        self._next += 1
        return memory


class Replay:
    """One size of work: its inputs in one block of memory, its buffers, and its CUDA graph once it is captured."""

    def __init__(self, backend: Owner, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._backend, device = backend, backend.device
        offsets = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays.values())]).tolist()
        self._staging, self._block = device.pinned(offsets[-1]), device.allocate(offsets[-1])
        self._host, self._inputs = {}, {}
        for offset, (name, array) in zip(offsets, arrays.items(), strict=False):
            piece = self._staging[offset : offset + array.nbytes]
            self._host[name] = piece.view(array.dtype).reshape(array.shape)
            self._inputs[name] = DeviceArray(self._block, self._block.address + offset, array.shape, array.dtype)
        self._arena = Arena(device)
        self._results: dict[str, NDArray[Any]] = {}
        self._runs = 0
        self._launch: Callable[[], None] | None = None
        self._scratch: list[Memory] = []  # of the captured graph, which knows its address
        self.way: Literal["plain", "shadowed"] | None = None  # None until both have been considered

    def run(self, arrays: Mapping[str, NDArray[Any]], work: Work) -> dict[str, NDArray[Any]]:
        device = self._backend.device
        for name, array in arrays.items():
            self._host[name][...] = array
        if self._launch:
            self._launch()
        else:
            self._enqueue(work)
        device.synchronize()
        found = {name: array.copy() for name, array in self._results.items()}
        self._runs += 1
        if self._runs == CAPTURED:
            self._capture(work)
        return found

    def seconds(self) -> float:
        """The least time of a few launches of the captured graph on the inputs of the latest run."""
        if self._launch is None:
            raise BackendError("nothing was captured yet")
        times = []
        for _ in range(TIMED):
            started = time.perf_counter()
            self._launch()
            self._backend.device.synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    @property
    def launched(self) -> bool:
        """Whether the latest run was one launch."""
        return self._runs > CAPTURED

    def _capture(self, work: Work) -> None:
        self._scratch = [*self._backend.scratch.values()]
        collecting = gc.isenabled()
        gc.disable()  # memory must not be freed on this thread while its calls are recorded
        try:
            self._launch = self._backend.device.capture(lambda: self._enqueue(work))
        finally:
            if collecting:
                gc.enable()

    def _enqueue(self, work: Work) -> None:
        device = self._backend.device
        device.to_device(self._block.address, self._staging)
        with self._backend.held_by(self._arena.restart()):
            outputs = work(self._inputs)
        for name, buffer in outputs.items():
            if name not in self._results:
                landing = device.pinned(math.prod(buffer.shape) * buffer.dtype.itemsize)
                self._results[name] = landing.view(buffer.dtype).reshape(buffer.shape)
            device.to_host(self._results[name].reshape(-1).view(np.uint8), address_of(buffer))


def address_of(buffer: Buffer) -> int:
    """Where a buffer of this backend lies."""
    if not isinstance(buffer, DeviceArray):
        raise BackendError("buffers must be on the device")
    return buffer.address
