"""Which device: ``TRT_VAR_CUDA`` chooses the seam; without it PyCUDA is taken where it is installed, else cuda-core."""

from __future__ import annotations

import os
from collections.abc import Callable

from trt_var.backends.installed import BROKEN, trouble
from trt_var.backends.tensorrt.bindings import CudaCore, PyCuda
from trt_var.backends.tensorrt.device import Device
from trt_var.backends.tensorrt.simulated.device import SimulatedDevice
from trt_var.errors import BackendError, TrtVarError, UsageError

VARIABLE = "TRT_VAR_CUDA"


PACKAGES = {"pycuda": ("pycuda",), "cuda-core": ("cuda", "cuda.core", "cuda.bindings"), "simulated": ("onnxruntime",)}
INSTALL = "pip install 'trt-var[gpu]' or 'trt-var[rtx]'"
SEAMS: dict[str, Callable[[], Device]] = {"pycuda": PyCuda, "cuda-core": CudaCore, "simulated": SimulatedDevice}


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
        except TrtVarError:
            raise
        except BROKEN as error:
            missing.append(f"{name} {trouble(error, PACKAGES[name], INSTALL)}")
    raise BackendError(f"no access to a GPU: {'; '.join(missing)}")
