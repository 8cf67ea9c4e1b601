"""Which of ONNX Runtime's providers runs a bundle here."""

from __future__ import annotations

import onnxruntime as ort

from trt_var.backends.base import NO_WISHES, Backend, Wishes
from trt_var.backends.failures import reason
from trt_var.backends.installed import check_whole
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.backends.onnxruntime.cuda import CUDA, OnnxRuntimeCuda
from trt_var.backends.threads import checked
from trt_var.bundle.manifest import grids
from trt_var.bundle.opening import Bundle

USED = ("InferenceSession", "OrtValue", "RunOptions", "SessionOptions", "__version__", "get_available_providers")


def create(bundle: Bundle | None = None, wishes: Wishes = NO_WISHES) -> Backend:
    """The CUDA provider where the installed package and the machine have it, else the CPU provider, saying why."""
    check_whole(ort, *USED)
    # weights of 8 bits are multiplied by activations that ONNX Runtime rounds to 8 bits, in blocks of 32
    int8 = bundle is not None and not grids(bundle.manifest).isdisjoint(("int8", "weights"))
    threads = checked(wishes.threads)
    if CUDA not in ort.get_available_providers():
        return OnnxRuntime(int8=int8, threads=threads)
    try:
        return OnnxRuntimeCuda()
    except Exception as error:  # ONNX Runtime raises bare RuntimeErrors and its own unrelated classes
        return OnnxRuntime(f" (CUDA not usable: {reason(error)})", int8, threads)
