"""OpenVINO on CPUs, in bfloat16 where the processor multiplies it natively, else in float32."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from platformdirs import user_cache_path

from trt_var.backends import forks
from trt_var.backends.base import NO_WISHES, Backend, Buffer, Graph, HostMemory, Wishes, int8_products
from trt_var.backends.failures import failure
from trt_var.backends.installed import UnusablePackageError, check_whole
from trt_var.backends.openvino import rewriting
from trt_var.backends.openvino.pages import give_back
from trt_var.backends.threads import checked
from trt_var.bundle import external
from trt_var.bundle.manifest import grids
from trt_var.bundle.opening import Bundle
from trt_var.bundle.staging import beside_weights

USED = ("Core", "Tensor", "Type", "get_version")
BFLOAT16 = np.dtype(np.uint16)  # NumPy has no such type; no graph has inputs of uint16


SETTLING = 0.2  # seconds until OpenVINO's idle threads have left their work


def _settle() -> None:
    """Before a fork: threads that are about to leave are counted, and a child would wait for them at its end for ever."""
    time.sleep(SETTLING)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_settle)


class _Threads:
    """OpenVINO's thread pool, which all models of a process share: a child that inherits it at work would wait for ever."""

    def __init__(self) -> None:
        self.started = self.lost = False
        forks.follow(self)

    def _after_fork(self) -> None:
        self.lost = self.lost or self.started

    def check(self) -> None:
        if self.lost:
            raise UnusablePackageError(
                "OpenVINO had models loaded before this process was forked, and cannot work in it; generate nothing before "
                "the fork, start processes by spawn, or take the backend onnxruntime (docs/embedding.md)"
            )


_threads = _Threads()
_reading = threading.Lock()  # two threads that use OpenVINO's bindings for the first time may wait for each other for ever


class _Core(forks.Native):
    """OpenVINO's own state in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.native = ov.Core()


class OpenVinoGraph(forks.Native):
    """A compiled model; every run has a request of its own, so threads may share it."""

    def __init__(self, model: ov.CompiledModel, weights: Collection[Path] = ()) -> None:
        super().__init__()
        self._model, self._unpacked = model, weights

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self.check_process()
        try:
            request = self._model.create_infer_request()
            for name, buffer in {**inputs, **outputs}.items():
                request.set_tensor(name, _tensor(np.asarray(buffer)))
            request.infer()
            if self._unpacked:
                packed, self._unpacked = self._unpacked, ()
                give_back(packed)
        except Exception as error:  # RuntimeErrors, MemoryErrors, and TypeErrors of its bindings
            raise failure("OpenVINO failed", error, last=True) from error


class OpenVino(HostMemory):
    """The CPU plugin."""

    name = "openvino"

    def __init__(self, bfloat16: bool, rounded: Collection[str] = (), wishes: Wishes = NO_WISHES) -> None:
        self._core, self.threads = _Core(), checked(wishes.threads)
        self._kept = user_cache_path("trt-var", appauthor=False) / "openvino" if wishes.keep_compiled else None
        self._precision = "bf16" if bfloat16 else "f32"
        self.cache_dtype = BFLOAT16 if bfloat16 else None
        self.rank = 2 if bfloat16 or rounded else 0  # in float32, ONNX Runtime is as fast and needs half the memory
        version, floats = ov.get_version().split("-")[0], "bfloat16" if bfloat16 else "float32"
        self.description = f"OpenVINO {version}, CPU, {int8_products('int8' in rounded)}{floats} arithmetic"

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if exact else self._precision,
            "INFERENCE_NUM_THREADS": str(self.threads),
        }
        if self._kept and not exact:
            options["CACHE_DIR"] = str(self._kept)
        _threads.check()
        if self._core.orphaned:
            self._core = _Core()
        core, _threads.started = self._core.native, True
        try:
            with _reading:
                model = self._read(core, path, images)
                weights = {path.parent / name for name in external.locations(path.read_bytes())}
            compiled = core.compile_model(model, "CPU", options)
            return OpenVinoGraph(compiled, [*weights, *(self._kept.glob("*.blob") if self._kept else ())])
        except Exception as error:  # as above
            raise failure(f"OpenVINO cannot load {path}", error, last=True) from error

    def _read(self, core: ov.Core, path: Path, images: int | None) -> ov.Model:
        """A graph in the form that is compiled."""
        with beside_weights(path) as readable:
            model = core.read_model(readable)
        if images is not None:
            model.reshape({port: [images, *list(port.partial_shape)[1:]] for port in model.inputs})
        for rewrite in rewriting.ALL:
            rewrite(model)
        return rewriting.shorten_cache(model) if self.cache_dtype else model


def _tensor(array: NDArray[Any]) -> ov.Tensor:
    """A tensor that shares an array's memory."""
    if array.dtype == BFLOAT16:
        return ov.Tensor(array, array.shape, ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 products (AMX or AVX512-BF16)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def create(bundle: Bundle | None = None, wishes: Wishes = NO_WISHES) -> Backend:
    """The CPU plugin in the fastest precision that the processor has."""
    check_whole(ov, *USED)
    _threads.check()
    return OpenVino(multiplies_bfloat16(), grids(bundle.manifest) if bundle else (), wishes)
