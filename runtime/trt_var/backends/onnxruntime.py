"""ONNX Runtime: the embedded default on CPUs, and NVIDIA GPUs through its CUDA provider.

Inputs and outputs are bound by address, so no tensor is copied between scales, on the host or on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from trt_var.backends import forks
from trt_var.backends.base import NO_WISHES, Backend, Buffer, DeviceArray, Graph, HostMemory, Wishes, int8_products
from trt_var.backends.failures import failure, reason
from trt_var.backends.installed import check_whole
from trt_var.backends.threads import checked
from trt_var.bundle import external
from trt_var.bundle.memory import DECODER_BATCH
from trt_var.bundle.opening import Bundle
from trt_var.errors import BackendError

CUDA = "CUDAExecutionProvider"
USED = ("InferenceSession", "OrtValue", "SessionOptions", "__version__", "get_available_providers")
forks.prepare()  # the package starts a thread when it is imported


class OnnxGraph(forks.Native):
    """A session; every run has a binding of its own, so threads may share it."""

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        super().__init__()
        self._session, self._device = session, device

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._run(inputs, outputs)

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], also: Iterable[str] = ()) -> list[Any]:
        """All outputs, those in buffers first; ``also`` are in memory that ONNX Runtime allocates."""
        self.check_process()
        try:
            binding = self._session.io_binding()
            for name, buffer in inputs.items():
                binding.bind_input(name, self._device, 0, buffer.dtype.type, buffer.shape, _address(buffer))
            for name, buffer in outputs.items():
                binding.bind_output(name, self._device, 0, buffer.dtype.type, buffer.shape, _address(buffer))
            for name in also:
                binding.bind_output(name, self._device)
            self._session.run_with_iobinding(binding)
            return list(binding.get_outputs()) if also else []
        except Exception as error:  # ONNX Runtime raises bare RuntimeErrors and its own unrelated classes
            raise failure("ONNX Runtime failed", error) from error


class OnnxRuntime(HostMemory):
    """The CPU provider."""

    name = "onnxruntime"
    rank = 1
    _providers: tuple[Any, ...] = ("CPUExecutionProvider",)
    _device = "cpu"

    def __init__(self, remark: str = "", quantised: bool = False, threads: int | None = None) -> None:
        self.threads = threads
        self.description = f"ONNX Runtime {ort.__version__}, CPU, {int8_products(quantised)}float32 arithmetic{remark}"

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        # every session has a pool of its own, whose threads would spin against those of the next one
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_cpu_mem_arena = False  # the arena keeps every scale's peak: 0.6 GB at d30+d16, and no faster
        source: Path | bytes = path
        if linked := external.through_link(path):
            data, weights = linked
            source = external.relocated(data, weights.name)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
        try:
            session = ort.InferenceSession(source, options, providers=list(self._providers))
        except Exception as error:  # as above
            raise failure(f"ONNX Runtime cannot load {path}", error) from error
        used = session.get_providers()[0]
        if used != self._provider_name():
            raise BackendError(f"ONNX Runtime fell back to {used}; its log says why {self._provider_name()} failed")
        return OnnxGraph(session, self._device)

    def _provider_name(self) -> str:
        first = self._providers[0]
        return str(first[0] if isinstance(first, tuple) else first)


class OnnxRuntimeCuda(OnnxRuntime, forks.Native):
    """The CUDA provider, on device 0; buffers stay on the device until downloaded."""

    rank = 3
    piece = DECODER_BATCH
    loads_aside = False
    _device = "cuda"
    threads: int | None = None
    # TF32 would round float32 products to 10 bits; graphs are either exact or float16 by their own types
    _providers = ((CUDA, {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}),)

    def __init__(self) -> None:
        forks.Native.__init__(self)
        ort.preload_dlls()
        self.description = f"ONNX Runtime {ort.__version__}, CUDA device 0, arithmetic of the graph's own types"

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        self.check_process()
        return super().load(path, exact=exact, images=images)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        self.check_process()
        held = tuple(max(size, 1) for size in shape)  # an empty buffer still needs an address
        value = ort.OrtValue.ortvalue_from_shape_and_type(held, np.dtype(dtype).type, "cuda", 0)
        return DeviceArray(value, value.data_ptr(), shape, np.dtype(dtype))

    def upload(self, array: NDArray[Any]) -> Buffer:
        self.check_process()
        if not array.size:
            return self.empty(array.shape, array.dtype)
        value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
        return DeviceArray(value, value.data_ptr(), array.shape, array.dtype)

    def download(self, buffer: Buffer) -> NDArray[Any]:
        if not isinstance(buffer, DeviceArray) or buffer.address != buffer.owner.data_ptr():
            raise BackendError("only whole buffers can be downloaded")
        return np.asarray(buffer.owner.numpy()).reshape(buffer.shape)


def _address(buffer: Buffer) -> int:
    if isinstance(buffer, DeviceArray):
        return buffer.address
    if not (isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous):
        raise BackendError("buffers must be contiguous arrays")
    return int(buffer.ctypes.data)


def create(bundle: Bundle | None = None, wishes: Wishes = NO_WISHES) -> Backend:
    """The CUDA provider where the installed package and the machine have it, else the CPU provider, saying why."""
    check_whole(ort, *USED)
    quantised, threads = bundle is not None and bundle.manifest.quantised is not None, checked(wishes.threads)
    if CUDA not in ort.get_available_providers():
        return OnnxRuntime(quantised=quantised, threads=threads)
    try:
        backend = OnnxRuntimeCuda()
        backend.empty((1,), np.float32)  # the only sign of a missing driver or device before a session is made
    except Exception as error:  # as above
        return OnnxRuntime(f" (CUDA not usable: {reason(error)})", quantised, threads)
    return backend
