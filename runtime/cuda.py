"""The one seam to NVIDIA's driver: a device with memory, one stream, pinned memory and captured work.

Two implementations: cuda-core alone, which comes as wheels, and PyCUDA, which is compiled where it is installed. Captured
work goes through cuda-core in both: PyCUDA has no CUDA graphs. ``TRT_VAR_CUDA`` chooses; without it PyCUDA is taken where
it is installed, else cuda-core.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from trt_var.engines import Kind
from trt_var.errors import BackendError, UsageError

VARIABLE = "TRT_VAR_CUDA"
Bytes = NDArray[np.uint8]


class Memory:
    """An allocation on a device, freed with the last reference to it.

    Attributes:
        address: of its first byte, at least 256-byte aligned.
        size: in bytes.
    """

    def __init__(self, address: int, size: int, free: Callable[[], object]) -> None:
        self.address, self.size = address, size
        self._finalizer = weakref.finalize(self, free)

    def free(self) -> None:
        """Free it now; again does nothing."""
        self._finalizer()


class Device(Protocol):
    """One GPU and one stream on it, for use by one thread at a time; everything below is in the stream's order.

    Attributes:
        kinds: of engines that it runs, the preferred first.
        description: the seam and the GPU's name, for people.
        target: its compute capability, ``sm90``.
        stream: handle of the stream, for engines to enqueue on.
    """

    kinds: tuple[Kind, ...]
    description: str
    target: str
    stream: int

    def active(self) -> AbstractContextManager[object]:
        """A block in which the device is current in the calling thread; every other call must be in one."""
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
        """Wait for everything enqueued.

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


class CudaCore:
    """cuda-core and the driver bindings that it comes with."""

    kinds: tuple[Kind, ...] = ("tensorrt", "rtx")

    def __init__(self) -> None:
        from cuda import core
        from cuda.bindings import driver

        with cuda_errors():
            self._core, self._driver = core, driver
            self._device = core.Device(0)
            self._device.set_current()
            self._stream = self._device.create_stream()
            capability = self._device.compute_capability
            self.target = f"sm{capability.major}{capability.minor}"
            self.description = f"{self._device.name} (cuda-core)"
            self.stream = int(self._stream.handle)

    def active(self) -> AbstractContextManager[object]:
        with cuda_errors():
            self._device.set_current()
        return nullcontext()

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

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        return _capture(self._stream, work)

    def _call(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        status, *values = answer
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"CUDA failed: {status.name}")
        return tuple(values)


class PyCuda:
    """PyCUDA for memory, copies and the stream; the device's primary context, which TensorRT uses too."""

    kinds: tuple[Kind, ...] = ("tensorrt", "rtx")

    def __init__(self) -> None:
        import pycuda.driver as cuda
        from cuda import core

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
            self._stream = cuda.Stream()
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
    weakref.finalize(memory, free)
    return np.ctypeslib.as_array(memory)


def _simulated() -> Device:
    from trt_var.simulated_device import SimulatedDevice

    return SimulatedDevice()


SEAMS: dict[str, Callable[[], Device]] = {"pycuda": PyCuda, "cuda-core": CudaCore, "simulated": _simulated}


def create() -> Device:
    """The device through the seam that ``TRT_VAR_CUDA`` names, else PyCUDA or cuda-core, whichever is installed.

    Raises:
        UsageError: an unknown name.
        BackendError: no seam is installed, or there is no usable driver or device.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted and wanted not in SEAMS:
        raise UsageError(f"{VARIABLE} is {wanted!r}; expected {', '.join(SEAMS)}")
    missing = []
    for name in [wanted] if wanted else ["pycuda", "cuda-core"]:
        try:
            return SEAMS[name]()
        except ImportError as error:
            missing.append(f"{name}: {error}")
    raise BackendError(f"no access to a GPU ({'; '.join(missing)}): pip install 'trt-var[gpu]' or 'trt-var[rtx]'")
