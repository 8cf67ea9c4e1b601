"""TensorRT 11 and TensorRT-RTX: a bundle's engines, chained on one stream, on CUDA memory.

Nothing waits for the host between scales. The second time that a batch of the same size and N is drawn it is also captured,
and from the third on it is one upload, one launch of a CUDA graph and one wait (docs/tensorrt.md).
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from trt_var import cuda, engines
from trt_var.backends.base import Backend, Buffer, DeviceArray, Graph, Work
from trt_var.backends.replay import ALIGNMENT, Arena, Replay, address_of
from trt_var.bundle import Bundle, file_sha256
from trt_var.cuda import Device, Memory
from trt_var.engines import FINAL, Engine, Kind, Record, Shape
from trt_var.errors import BackendError, BundleError
from trt_var.memory import need

MAX_REPLAYS = 8


LOGITS = ".logits"  # step graphs that smoothing takes


class TensorRT:
    """The engines of one bundle on one device. One lock: a device's stream serves one thread at a time."""

    name = "tensorrt"
    rank = 4
    drops_outputs = False
    cache_dtype: np.dtype[Any] | None = None

    def __init__(self, trt: Any, device: Device, bundle: Bundle, folder: Path, record: Record) -> None:
        self.description = f"{record.kind} {record.version}, {device.description}, arithmetic of the engines' own types"
        self.trt, self.device, self.logger = trt, device, engines.make_logger(trt)
        self.scratch: Memory | None = None
        self._bundle, self._folder, self.record = bundle, folder, record
        self._runtime = trt.Runtime(self.logger)
        self._lock = threading.RLock()
        self._arena: Arena | None = None
        self._replays: dict[Any, Replay] = {}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The calling thread's turn on the device."""
        with self._lock, self.device.active():
            yield

    def load(self, path: Path, *, exact: bool = False) -> Graph:
        with self.turn():
            name = path.stem
            spare = f"{name}{FINAL}"
            final = (lambda: EngineGraph(self, spare, *self._read(spare))) if spare in self.record.engines else None
            return EngineGraph(self, name, *self._read(name), final)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        with self.turn():
            size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)  # an empty tensor needs an address too
            memory = self._arena.take(size) if self._arena else self.device.allocate(size)
            return DeviceArray(memory, memory.address, shape, np.dtype(dtype))

    def upload(self, array: NDArray[Any]) -> Buffer:
        with self.turn():
            buffer, host = self.empty(array.shape, array.dtype), np.ascontiguousarray(array)
            if host.size:
                self.device.to_device(address_of(buffer), host.reshape(-1).view(np.uint8))
                self.device.synchronize()  # the host's array may change after this
            return buffer

    def download(self, buffer: Buffer) -> NDArray[Any]:
        with self.turn():
            array: NDArray[Any] = np.empty(buffer.shape, buffer.dtype)
            if array.size:
                self.device.to_host(array.reshape(-1).view(np.uint8), address_of(buffer))
            self.device.synchronize()
            return array

    def padded(self, images: int) -> int:
        """The next power of two within the engines' batch sizes, so that few sizes are captured."""
        batch = self.record.batch
        return max(batch.smallest, min(1 << (images - 1).bit_length(), batch.largest))

    def draw(self, n_draft: int, arrays: Mapping[str, NDArray[Any]], work: Work) -> dict[str, NDArray[Any]]:
        key = (n_draft, *((name, array.shape, array.dtype.str) for name, array in arrays.items()))
        with self.turn():
            replay = self._replays.pop(key, None) or self._new_replay(n_draft, arrays)
            found = replay.run(arrays, work)  # one that failed is not kept
            self._replays[key] = replay  # the latest last
            while len(self._replays) > MAX_REPLAYS:
                self._forget_oldest()
            return found

    def free_memory(self) -> int | None:
        with self.turn():
            return self.device.free_memory()

    def close(self) -> None:
        with self.turn():
            self.device.synchronize()
            self._replays.clear()
            self.scratch = None

    @contextmanager
    def held_by(self, arena: Arena) -> Iterator[None]:
        """New buffers come from an arena."""
        self._arena = arena
        try:
            yield
        finally:
            self._arena = None

    def ensure_scratch(self, size: int) -> Memory:
        """The one scratch buffer that all contexts share, in the order of the stream."""
        if self.scratch is None or self.scratch.size < size + ALIGNMENT:
            self.device.synchronize()  # nothing may be using the old one
            self.scratch = self.device.allocate(size + ALIGNMENT)
        return self.scratch

    def _new_replay(self, n_draft: int, arrays: Mapping[str, NDArray[Any]]) -> Replay:
        batch = arrays["features"].shape[1]
        wanted = need(self._bundle.manifest, n_draft, batch, drops_outputs=False)
        size = wanted.cache + wanted.activations
        while size > self.device.free_memory() and self._replays:
            self._forget_oldest()
        free = self.device.free_memory()
        if size > free:
            raise BackendError(
                f"a batch of {batch} with N = {n_draft} needs {size / 1e9:.2f} GB beside the weights, and "
                f"{free / 1e9:.2f} GB are free; ask for a smaller batch_size (trt-var plan shows what fits)"
            )
        return Replay(self, arrays)

    def _forget_oldest(self) -> None:
        self.device.synchronize()
        del self._replays[next(iter(self._replays))]

    def _read(self, name: str) -> tuple[Engine, Any]:
        """An engine, deserialised only after everything about it has been compared."""
        entry = self.record.engines.get(name)
        if entry is None and name.endswith(LOGITS):
            raise BackendError("more_smooth has no engines; it runs on the backends onnxruntime and openvino")
        if entry is None:
            raise BundleError(f"{self._folder} has no engine {name}; {self._rebuild()}")
        files = self._bundle.manifest.files
        changed = [name for name, sha256 in entry.sources.items() if name not in files or files[name].sha256 != sha256]
        if changed:
            raise BundleError(f"engine {name} was built from another {' and '.join(changed)}; {self._rebuild()}")
        path = self._folder / Path(entry.plan).name
        if not path.is_file() or path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
            raise BundleError(f"{path} is missing or was altered; {self._rebuild()}")
        self.logger.clear()
        engine = self._runtime.deserialize_cuda_engine(np.memmap(path, mode="r"))
        if engine is None:
            raise BackendError(f"{self.record.kind} cannot load {path}: {self.logger.last()}; {self._rebuild()}")
        return entry, engine

    def _rebuild(self) -> str:
        return rebuild(self._bundle, self.record.kind)


def rebuild(bundle: Bundle, kind: Kind) -> str:
    """What to do about engines that do not fit."""
    return f"build them with trt-var engines {bundle.path} --kind {kind} --force"


class EngineGraph:
    """One engine, and a context for every set of input shapes, so that a captured shape never changes."""

    def __init__(
        self, backend: TensorRT, name: str, entry: Engine, engine: Any, final: Callable[[], EngineGraph] | None = None
    ) -> None:
        self._backend, self._name, self._entry, self._engine = backend, name, entry, engine
        self._make_final = final
        self._final: EngineGraph | None = None
        trt = backend.trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        hosted = [name for name in names if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
        if hosted:
            raise BackendError(
                f"engine {self._name} wants {', '.join(hosted)} in host memory; build it from this bundle's graphs"
            )
        self._contexts: dict[Any, _Context] = {}

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        with self._backend.turn():
            self._check(inputs, outputs)
            context = self._context({name: inputs[name].shape for name in self._inputs})
            final = self._cheaper(context, outputs)
            if final:
                final.run(inputs, outputs)
            else:
                context.enqueue({**inputs, **outputs})

    def _check(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        if inputs.keys() != self._inputs or not outputs.keys() <= self._types.keys() - self._inputs:
            odd = sorted((inputs.keys() ^ self._inputs) | (outputs.keys() - self._types.keys()))
            raise BackendError(f"engine {self._name} does not fit this request: {', '.join(odd)} missing or unknown")
        wrong = [name for name, buffer in (*inputs.items(), *outputs.items()) if buffer.dtype != self._types[name]]
        if wrong:
            raise BackendError(f"engine {self._name}: {', '.join(wrong)} have another type than the engine's")

    def _cheaper(self, context: _Context, outputs: Mapping[str, Buffer]) -> EngineGraph | None:
        """The engine without keys and values, where it takes less than memory for what nobody reads."""
        unread = context.bytes_of(self._types.keys() - self._inputs - outputs.keys())
        if self._final is None and self._make_final and unread > self._entry.size:
            self._final = self._make_final()
        return self._final if unread else None

    def _context(self, shapes: dict[str, Shape]) -> _Context:
        key = tuple(sorted(shapes.items()))
        if key not in self._contexts:
            self._contexts[key] = _Context(self._backend, self._engine, self._profile(shapes), shapes, self._types)
        return self._contexts[key]

    def _profile(self, shapes: dict[str, Shape]) -> int:
        for index, profile in enumerate(self._entry.profiles):
            bounds = ((profile.shapes[name][0], shape, profile.shapes[name][2]) for name, shape in shapes.items())
            if all(a <= b <= c for low, shape, high in bounds for a, b, c in zip(low, shape, high, strict=True)):
                return index
        record, names = self._backend.record, ", ".join(map(str, self._backend.record.serves))
        raise BackendError(
            f"engine {self._name} has no profile for this request; it was built for N = {names} and batches of "
            f"{record.batch.smallest} to {record.batch.largest}: build the engines again with what is needed"
        )


class _Context:
    """An execution context for one set of input shapes."""

    def __init__(
        self, backend: TensorRT, engine: Any, profile: int, shapes: dict[str, Shape], types: dict[str, np.dtype[Any]]
    ) -> None:
        self._backend, self._types = backend, types
        trt, stream = backend.trt, backend.device.stream
        self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise BackendError(f"no execution context: {backend.logger.last()}")
        self._must(self._context.set_optimization_profile_async(profile, stream), f"profile {profile}")
        for name, shape in shapes.items():
            self._must(self._context.set_input_shape(name, shape), f"shape {shape} of {name}")
        self._scratch = int(self._context.update_device_memory_size_for_shapes())
        backend.device.synchronize()  # the profile's switch was enqueued

    def bytes_of(self, outputs: set[str]) -> int:
        """How much memory some outputs take."""
        return sum(math.prod(self._context.get_tensor_shape(name)) * self._types[name].itemsize for name in outputs)

    def enqueue(self, buffers: Mapping[str, Buffer]) -> None:
        """Enqueue one run; outputs without a buffer go to memory that nobody reads."""
        bound = {name: buffers[name] if name in buffers else self._unread(name) for name in self._types}
        for name, buffer in bound.items():
            self._must(self._context.set_tensor_address(name, address_of(buffer)), f"the address of {name}")
        scratch = self._backend.ensure_scratch(self._scratch)
        self._context.set_device_memory(-(-scratch.address // ALIGNMENT) * ALIGNMENT, self._scratch)
        self._must(self._context.execute_async_v3(self._backend.device.stream), "the run")

    def _unread(self, name: str) -> Buffer:
        return self._backend.empty(tuple(self._context.get_tensor_shape(name)), self._types[name])

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"the engine refused {what}: {self._backend.logger.last()}")


def create(bundle: Bundle | None = None) -> Backend:
    """The engines of a bundle that this machine's TensorRT and GPU can run.

    Raises:
        BackendError: no TensorRT, no GPU, or no engines for them, with what to do.
    """
    device = cuda.create()
    missing: list[str] = []
    for kind in device.kinds:
        try:
            trt = importlib.import_module(engines.MODULES[kind])
        except (ImportError, OSError) as error:
            missing.append(f"{kind} is not installed ({error})")
            continue
        if bundle is None:
            raise BackendError(f"{kind} {trt.__version__} and {device.description} are here; it runs a bundle's own engines")
        folder = engines.folder(bundle.path, kind, trt.__version__, device.target)
        if folder.is_dir():
            return TensorRT(trt, device, bundle, folder, _record(folder, bundle, kind, trt.__version__, device.target))
        missing.append(f"no {folder.name} engines")
    there = sorted(path.name for path in (bundle.path / engines.FOLDER).glob("*-*") if path.is_dir()) if bundle else []
    advice = f"; the bundle has {', '.join(there) or 'none'}; {rebuild(bundle, device.kinds[0])}" if bundle else ""
    raise BackendError(f"no TensorRT engines for this machine: {'; '.join(missing)}{advice}")


def _record(folder: Path, bundle: Bundle, kind: Kind, version: str, target: str) -> Record:
    record = engines.read_record(folder)
    found = (record.kind, record.version, record.target)
    if found != (kind, version, target):
        built, here = ("-".join(map(str, names)) for names in (found, (kind, version, target)))
        raise BundleError(f"{folder} was built for {built}, this is {here}; {rebuild(bundle, kind)}")
    return record
