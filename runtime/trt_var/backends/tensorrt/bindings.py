"""The seam to the driver through cuda-core alone, which comes as wheels, and through PyCUDA, compiled where it is installed.

Captured work goes through cuda-core in both: PyCUDA has no CUDA graphs.
"""

from __future__ import annotations

import ctypes
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from trt_var.backends.forks import in_this_process
from trt_var.backends.installed import check_whole
from trt_var.backends.tensorrt.device import Bytes, Memory, cuda_errors
from trt_var.backends.tensorrt.record import Kind
from trt_var.errors import BackendError


class _Streams(ABC):
    """Two streams of either binding; which one is in use."""

    stream: int
    _stream: Any
    _second: Any

    @contextmanager
    def aside(self) -> Iterator[None]:
        self._order(self._stream, self._second)
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def join(self) -> None:
        self._order(self._second, self._stream)

    @abstractmethod
    def _order(self, first: Any, then: Any) -> None:
        """Let a stream wait for what is enqueued on another."""

    def _swap(self) -> None:
        self._stream, self._second = self._second, self._stream
        self.stream = int(self._stream.handle)


class CudaCore(_Streams):
    """cuda-core and the driver bindings that it comes with."""

    kinds: tuple[Kind, ...] = ("tensorrt", "rtx")

    def __init__(self) -> None:
        from cuda import core  # one of two bindings, whichever is installed
        from cuda.bindings import driver

        check_whole(core, "Device", "LegacyPinnedMemoryResource")
        check_whole(driver, "CUresult", "cuMemAlloc", "cuMemFree", "cuMemGetInfo", "cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync")
        with cuda_errors():
            self._core, self._driver = core, driver
            self._device = core.Device(0)
            self._device.set_current()
            self._stream, self._second = self._device.create_stream(), self._device.create_stream()
            capability = self._device.compute_capability
            self.target = f"sm{capability.major}{capability.minor}"
            self.description = f"{self._device.name} (cuda-core)"
            self.stream = int(self._stream.handle)

    def active(self) -> AbstractContextManager[object]:
        with cuda_errors():
            self._device.set_current()
        return nullcontext()

    def _order(self, first: Any, then: Any) -> None:
        with cuda_errors():
            then.wait(first)

    def free_memory(self) -> int:
        free, _ = self._call(self._driver.cuMemGetInfo())
        return int(free)

    def allocate(self, size: int) -> Memory:
        # not cuda-core's pool: it frees in the order of the stream, which a captured graph may still need
        (address,) = self._call(self._driver.cuMemAlloc(size))
        return Memory(int(address), size, lambda: self._driver.cuMemFree(address))

    def pinned(self, size: int) -> Bytes:
        with cuda_errors():
            buffer = self._core.LegacyPinnedMemoryResource().allocate(size)
        return _pinned_array(int(buffer.handle), size, buffer.close)

    def to_device(self, address: int, host: Bytes) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync(address, host.ctypes.data, host.nbytes, self._stream.handle))

    def to_host(self, host: Bytes, address: int) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync(host.ctypes.data, address, host.nbytes, self._stream.handle))

    def synchronize(self) -> None:
        with cuda_errors():
            self._stream.sync()
            self._second.sync()

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        return _capture(self._stream, work)

    def _call(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        status, *values = answer
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"CUDA failed: {status.name}")
        return tuple(values)


class PyCuda(_Streams):
    """PyCUDA for memory, copies and the stream; the device's primary context, which TensorRT uses too."""

    kinds: tuple[Kind, ...] = ("tensorrt", "rtx")

    def __init__(self) -> None:
        import pycuda.driver as cuda  # one of two bindings, whichever is installed
        from cuda import core

        check_whole(cuda, "Context", "Device", "Event", "Stream", "init", "mem_alloc", "mem_get_info", "pagelocked_empty")
        check_whole(core, "Device", "Stream")
        with cuda_errors():
            self._cuda = cuda
            cuda.init()
            self._device = cuda.Device(0)
            self._context = self._device.retain_primary_context()
            major, minor = self._device.compute_capability()
            self.target = f"sm{major}{minor}"
            self.description = f"{self._device.name()} (PyCUDA)"
        with self.active(), cuda_errors():
            core.Device(0).set_current()  # the same primary context
            self._stream, self._second = cuda.Stream(), cuda.Stream()
            self.stream = int(self._stream.handle)
            self._core_stream = core.Stream.from_handle(self.stream)

    @contextmanager
    def active(self) -> Iterator[None]:
        with cuda_errors():
            self._context.push()  # PyCUDA counts: what is pushed must be popped before the thread ends
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def _order(self, first: Any, then: Any) -> None:
        with cuda_errors():
            event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
            event.record(first)
            then.wait_for_event(event)

    def free_memory(self) -> int:
        with cuda_errors():
            free, _ = self._cuda.mem_get_info()
            return int(free)

    def allocate(self, size: int) -> Memory:
        with cuda_errors():
            allocation = self._cuda.mem_alloc(size)
            return Memory(int(allocation), size, allocation.free)

    def pinned(self, size: int) -> Bytes:
        with cuda_errors():
            array: Bytes = self._cuda.pagelocked_empty(size, np.uint8)
            return array

    def to_device(self, address: int, host: Bytes) -> None:
        with cuda_errors():
            self._cuda.memcpy_htod_async(address, host, self._stream)

    def to_host(self, host: Bytes, address: int) -> None:
        with cuda_errors():
            self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def synchronize(self) -> None:
        with cuda_errors():
            self._stream.synchronize()
            self._second.synchronize()

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        return _capture(self._core_stream, work)


def _capture(stream: Any, work: Callable[[], object]) -> Callable[[], None]:
    """Capture on a cuda-core stream. Other threads may allocate meanwhile: only this one's calls are watched."""
    with cuda_errors():
        builder = stream.create_graph_builder()
        builder.begin_building("thread_local")
        try:
            work()
        except BaseException:
            builder.close()
            raise
        graph = builder.end_building().complete()
        builder.close()

    def launch() -> None:
        with cuda_errors():
            graph.launch(stream)

    return launch


def _pinned_array(address: int, size: int, free: Callable[[], object]) -> Bytes:
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, in_this_process(free))
    return np.ctypeslib.as_array(memory)
