"""OpenVINO on CPUs, in bfloat16 where the processor multiplies it natively, else in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from trt_var.backends.base import Backend, Buffer, Graph, HostMemory
from trt_var.bundle import Bundle
from trt_var.errors import BackendError


class OpenVinoGraph:
    """A compiled model; every run has a request of its own, so threads may share it."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self._model = model

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        try:
            request = self._model.create_infer_request()
            for name, buffer in {**inputs, **outputs}.items():
                request.set_tensor(name, ov.Tensor(np.asarray(buffer), shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {str(error).splitlines()[-1]}") from error


class OpenVino(HostMemory):
    """The CPU plugin."""

    name = "openvino"

    def __init__(self, bfloat16: bool) -> None:
        self._core = ov.Core()
        self._precision = "bf16" if bfloat16 else "f32"
        self.rank = 2 if bfloat16 else 0  # in float32, ONNX Runtime is a little faster and needs half the memory
        version = ov.get_version().split("-")[0]
        self.description = f"OpenVINO {version}, CPU, {'bfloat16' if bfloat16 else 'float32'} arithmetic"

    def load(self, path: Path, *, exact: bool = False) -> Graph:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if exact else self._precision,
        }
        try:
            return OpenVinoGraph(self._core.compile_model(path, "CPU", options))
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {path}: {str(error).splitlines()[-1]}") from error


def multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 products (AMX or AVX512-BF16)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def create(bundle: Bundle | None = None) -> Backend:
    """The CPU plugin in the fastest precision that the processor has."""
    return OpenVino(multiplies_bfloat16())
