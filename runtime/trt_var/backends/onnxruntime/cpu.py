"""ONNX Runtime's CPU provider, the embedded default.

Inputs and outputs are bound by address, so no tensor is copied between scales, on the host or on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from trt_var.backends import forks
from trt_var.backends.base import Buffer, DeviceArray, Graph, HostMemory, int8_products
from trt_var.backends.failures import failure
from trt_var.bundle import external
from trt_var.errors import BackendError

forks.prepare()  # the package starts a thread when it is imported


class OnnxGraph(forks.Native):
    """A session; every run has a binding of its own, so threads may share it."""

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        super().__init__()
        self._session, self._device = session, device

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self.run_with(inputs, outputs)

    def run_with(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        also: Iterable[str] = (),
        options: ort.RunOptions | None = None,
    ) -> list[Any]:
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
            self._session.run_with_iobinding(binding, options)
            return list(binding.get_outputs()) if also else []
        except Exception as error:  # ONNX Runtime raises bare RuntimeErrors and its own unrelated classes
            raise failure("ONNX Runtime failed", error) from error


class OnnxRuntime(HostMemory):
    """The CPU provider."""

    name = "onnxruntime"
    rank = 1

    def __init__(self, remark: str = "", int8: bool = False, threads: int | None = None) -> None:
        self.threads = threads
        self.description = f"ONNX Runtime {ort.__version__}, CPU, {int8_products(int8)}float32 arithmetic{remark}"

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        return OnnxGraph(session(path, ("CPUExecutionProvider", {}), self.threads), "cpu")


def session(path: Path, provider: tuple[str, dict[str, str]], threads: int | None = None) -> ort.InferenceSession:
    """Load a graph on a provider.

    Raises:
        BackendError: it cannot be read, or would run on another provider.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # every session has a pool of its own, whose threads would spin against those of the next one
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_cpu_mem_arena = False  # the arena keeps every scale's peak: 0.6 GB at d30+d16, and no faster
    source: Path | bytes = path
    if linked := external.through_link(path):
        data, weights = linked
        source = external.relocated(data, weights.name)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
    try:
        made = ort.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # as above
        raise failure(f"ONNX Runtime cannot load {path}", error) from error
    used, wanted = made.get_providers()[0], provider[0]
    if used != wanted:
        raise BackendError(f"ONNX Runtime fell back to {used}; its log says why {wanted} failed")
    return made


def _address(buffer: Buffer) -> int:
    if isinstance(buffer, DeviceArray):
        return buffer.address
    if not (isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous):
        raise BackendError("buffers must be contiguous arrays")
    return int(buffer.ctypes.data)
