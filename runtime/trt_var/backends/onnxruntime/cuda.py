"""ONNX Runtime's CUDA provider: buffers stay on the device, and small batches are replayed as CUDA graphs."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from trt_var.backends import forks
from trt_var.backends.base import Buffer, DeviceArray, Graph, HostMemory, Work
from trt_var.backends.onnxruntime.cpu import OnnxGraph, session
from trt_var.backends.onnxruntime.replay import Replay
from trt_var.bundle.memory import DECODER_BATCH
from trt_var.errors import BackendError

log = logging.getLogger(__name__)
CUDA = "CUDAExecutionProvider"
# TF32 would round float32 products to 10 bits; graphs are either exact or float16 by their own types
OPTIONS = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
# trying every algorithm takes longer and finds slower ones: 8 images decoded in float16 68 ms, by heuristics 32 ms (H200)
INEXACT_OPTIONS = {**OPTIONS, "cudnn_conv_algo_search": "HEURISTIC"}
CAPTURE = {"enable_cuda_graph": "1"}
CAPTURED_IMAGES = 8  # larger batches keep the GPU busy between launches, and their buffers would hold its memory
CAPTURED_SIZES = 16  # ONNX Runtime keeps a captured graph as long as its session
SIZES = tuple(1 << i for i in range(CAPTURED_IMAGES.bit_length()))
MAPS = ("f_hat", "image")  # the inputs of graphs that convolve
UNCAPTURED = -1  # the number of a run that shall not be captured


class CudaGraph:
    """A graph whose runs are captured as CUDA graphs where the backend is replaying.

    One that takes maps has a session for each size that is captured, and one for all others: its convolutions are planned
    anew, in 0.1 to 0.3 s for a decoder, whenever a session gets another number of images than the last time.
    """

    def __init__(self, backend: OnnxRuntimeCuda, make: Callable[[], ort.InferenceSession]) -> None:
        self._backend, self._make = backend, make
        self._spare: OnnxGraph | None = OnnxGraph(make(), "cuda")  # at once: a damaged file is to be found now
        self._sessions: dict[int, OnnxGraph] = {}

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        with self._backend.turn() as replay:
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(replay.number() if replay else UNCAPTURED))
            self._session(inputs).run_with(inputs, outputs, options=options)

    def _session(self, inputs: Mapping[str, Buffer]) -> OnnxGraph:
        images = next((inputs[name].shape[0] for name in MAPS if name in inputs), 0)
        size = images if images in SIZES else 0
        if size not in self._sessions:
            self._sessions[size] = self._spare or OnnxGraph(self._make(), "cuda")
            self._spare = None
        return self._sessions[size]


class OnnxRuntimeCuda(HostMemory, forks.Native):
    """The CUDA provider, on device 0; its sessions serve one thread at a time."""

    name = "onnxruntime"
    rank = 3
    piece = DECODER_BATCH
    loads_aside = False
    settled = 2

    def __init__(self) -> None:
        forks.Native.__init__(self)
        ort.preload_dlls()
        self.description = f"ONNX Runtime {ort.__version__}, CUDA device 0, arithmetic of the graph's own types"
        self._lock = threading.RLock()
        self._drawing = ThreadPoolExecutor(1, "trt-var-cuda")
        self._replay: Replay | None = None
        self._replays: dict[Any, Replay | None] = {}  # None for a size that was drawn once
        self._numbers = itertools.count()
        self._allocate((1,), np.float32)  # the only sign of a missing driver or device before a session is made

    @contextmanager
    def turn(self) -> Iterator[Replay | None]:
        """The calling thread's turn on the device, and what it is replaying."""
        self.check_process()
        with self._lock:
            yield self._replay

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        with self.turn():
            options = OPTIONS if exact else INEXACT_OPTIONS
            try:
                return CudaGraph(self, lambda: session(path, (CUDA, {**options, **CAPTURE})))
            except BackendError as error:  # of a damaged file, or of nodes that ONNX Runtime leaves to the CPU
                log.info("%s is not captured: %s", path.name, error)
                return CudaGraph(self, lambda: session(path, (CUDA, options)))

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        with self.turn() as replay:
            return replay.take(shape, dtype) if replay else self._allocate(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Buffer:
        with self.turn():
            buffer = self._allocate(array.shape, array.dtype)
            if array.size:
                buffer.owner.update_inplace(np.ascontiguousarray(array))
            return buffer

    def download(self, buffer: Buffer) -> NDArray[Any]:
        if not isinstance(buffer, DeviceArray) or buffer.address != buffer.owner.data_ptr():
            raise BackendError("only whole buffers can be downloaded")
        with self.turn():
            return np.asarray(buffer.owner.numpy()).reshape(buffer.shape)

    def padded(self, images: int) -> int:
        """The next power of two of what is captured, so that few sizes are: the first batch of a size takes much longer."""
        return next((size for size in SIZES if size >= images), images)

    def draw(self, n_draft: int, arrays: Mapping[str, NDArray[Any]], plain: Work, shadowed: Work) -> dict[str, NDArray[Any]]:
        """In a thread of its own: what a thread captured is captured again for every other one."""
        self.check_process()
        return self._drawing.submit(self._draw, n_draft, arrays, plain, shadowed).result()

    def _draw(
        self, n_draft: int, arrays: Mapping[str, NDArray[Any]], plain: Work, shadowed: Work
    ) -> dict[str, NDArray[Any]]:
        key = (n_draft, *((name, array.shape, array.dtype.str) for name, array in arrays.items()))
        with self.turn():
            if not self._worth_replaying(key, arrays["features"].shape[1]):
                return super().draw(n_draft, arrays, plain, shadowed)
            self._replay = self._replays[key] or Replay(self._allocate, self._numbers)
            try:
                found = {name: self.download(buffer) for name, buffer in self._replay.turn(arrays, plain).items()}
                self._replays[key] = self._replay  # one that failed is not kept
            finally:
                self._replay = None
            return found

    def _worth_replaying(self, key: Any, images: int) -> bool:
        """Whether this size was drawn before, is small, and is among the first few."""
        if key in self._replays:
            return True
        if images <= CAPTURED_IMAGES and len(self._replays) < CAPTURED_SIZES:
            self._replays[key] = None
        return False

    def _allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        held = tuple(max(size, 1) for size in shape)  # an empty buffer still needs an address
        value = ort.OrtValue.ortvalue_from_shape_and_type(held, np.dtype(dtype).type, "cuda", 0)
        return DeviceArray(value, value.data_ptr(), shape, np.dtype(dtype))
