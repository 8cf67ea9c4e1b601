"""TensorRT 11 and TensorRT-RTX: a bundle's engines, chained on streams, on CUDA memory.

Nothing waits for the host between scales. The second time that a batch of the same size and N is drawn it is also captured,
and from the third on it is one upload, one launch of a CUDA graph and one wait. The third time, the refiner shadowing the
drafter on a second stream is captured too where it can be, and the faster of the two stays (docs/tensorrt.md).
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trt_var.backends.base import NO_WISHES, Backend, Buffer, DeviceArray, Graph, Wishes, Work
from trt_var.backends.forks import Native
from trt_var.backends.installed import BROKEN, check_whole, trouble
from trt_var.backends.tensorrt import devices
from trt_var.backends.tensorrt import record as records
from trt_var.backends.tensorrt.device import Device, Memory
from trt_var.backends.tensorrt.graph import EngineGraph
from trt_var.backends.tensorrt.logger import make_logger
from trt_var.backends.tensorrt.record import FINAL, GUIDED, Engine, Kind, Record, halves
from trt_var.backends.tensorrt.replay import ALIGNMENT, CAPTURED, Arena, Replay, address_of
from trt_var.bundle.manifest import Role
from trt_var.bundle.memory import DECODER_BATCH, need
from trt_var.bundle.opening import Bundle, file_sha256
from trt_var.errors import BackendError, BundleError

log = logging.getLogger(__name__)
MAX_REPLAYS = 8
USED = ("ILogger", "Runtime", "TensorIOMode", "TensorLocation", "__version__", "nptype")
ROLES: tuple[Role, ...] = ("drafter", "refiner")
LOGITS = ".logits"  # step graphs that smoothing and scoring take


class TensorRT(Native):
    """The engines of one bundle on one device. One lock: a device's stream serves one thread at a time."""

    name = "tensorrt"
    rank = 4
    drops_outputs = False
    cache_dtype: np.dtype[Any] | None = None
    piece = DECODER_BATCH
    threads: int | None = None
    loads_aside = False  # contexts of a device belong to the thread that made them
    settled = 3

    def __init__(self, trt: Any, device: Device, bundle: Bundle, folder: Path, record: Record) -> None:
        super().__init__()
        self.description = f"{record.kind} {record.version}, {device.description}, arithmetic of the engines' own types"
        self.trt, self.device, self.logger = trt, device, make_logger(trt)
        self.scratch: dict[int, Memory] = {}
        self._bundle, self._folder, self.record = bundle, folder, record
        self._runtime = trt.Runtime(self.logger)
        self._lock = threading.RLock()
        self._arena: Arena | None = None
        self._replays: dict[Any, Replay] = {}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The calling thread's turn on the device."""
        self.check_process()
        with self._lock, self.device.active():
            yield

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
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

    def takes_one_row(self, role: Role) -> bool:
        return halves(self.record.guidance, role)

    def aside(self) -> AbstractContextManager[object]:
        return self.device.aside()

    def join(self) -> None:
        self.device.join()

    def draw(self, n_draft: int, arrays: Mapping[str, NDArray[Any]], plain: Work, shadowed: Work) -> dict[str, NDArray[Any]]:
        key = (n_draft, *((name, array.shape, array.dtype.str) for name, array in arrays.items()))
        with self.turn():
            replay = self._replays.pop(key, None) or self._new_replay(n_draft, arrays)
            found = replay.run(arrays, plain)  # one that failed is not kept
            if replay.launched and replay.way is None:
                replay = self._faster(replay, n_draft, arrays, shadowed)
            self._replays[key] = replay  # the latest last
            while len(self._replays) > MAX_REPLAYS:
                self._forget_oldest()
            return found

    def free_memory(self) -> int | None:
        with self.turn():
            return self.device.free_memory()

    def close(self) -> None:
        if self.orphaned:
            return  # the parent's to release
        with self.turn():
            self.device.synchronize()
            self._replays.clear()
            self.scratch.clear()

    @contextmanager
    def held_by(self, arena: Arena) -> Iterator[None]:
        """New buffers come from an arena."""
        self._arena = arena
        try:
            yield
        finally:
            self._arena = None

    def ensure_scratch(self, size: int) -> Memory:
        """The one scratch buffer that all contexts of a stream share, in its order."""
        held = self.scratch.get(self.device.stream)
        if held is None or held.size < size + ALIGNMENT:
            self.device.synchronize()  # nothing may be using the old one
            held = self.scratch[self.device.stream] = self.device.allocate(size + ALIGNMENT)
        return held

    def _faster(self, plain: Replay, n_draft: int, arrays: Mapping[str, NDArray[Any]], shadowed: Work) -> Replay:
        """The captured work as it is, or with the refiner shadowing the drafter, whichever takes less time."""
        plain.way = "plain"
        batch = arrays["features"].shape[1]
        if not self._can_shadow(n_draft, batch):
            return plain
        try:
            beside = Replay(self, arrays)
            beside.way = "shadowed"
            for _ in range(CAPTURED):
                beside.run(arrays, shadowed)
            times = plain.seconds(), beside.seconds()
        except BackendError as error:
            log.warning("N = %d, batch %d: the refiner does not shadow the drafter: %s", n_draft, batch, error)
            return plain
        log.info("N = %d, batch %d: %.4f s, with the refiner beside the drafter %.4f s", n_draft, batch, *times)
        return plain if times[0] <= times[1] else beside

    def _can_shadow(self, n_draft: int, batch: int) -> bool:
        """Whether there are two models, profiles for every drafted scale on the refiner, and memory for both caches."""
        manifest = self._bundle.manifest
        if not 0 < n_draft < len(manifest.schedule) or "refiner" not in self.record.engines:
            return False
        names = {profile.name for profile in self.record.engines["refiner"].profiles}
        wanted = need(manifest, n_draft, batch, drops_outputs=False, shadowed=True)
        fits = wanted.cache + wanted.activations <= self.device.free_memory()
        return fits and names >= {f"scale {scale}" for scale in range(n_draft + 1)}

    def _new_replay(self, n_draft: int, arrays: Mapping[str, NDArray[Any]]) -> Replay:
        batch = arrays["features"].shape[1]
        self.check_room(n_draft, batch, [role for role in ROLES if len(arrays.get(f"conditions.{role}", ())) == batch])
        return Replay(self, arrays)

    def check_room(self, n_draft: int, batch: int, one_row: Collection[Role] = ()) -> None:
        """Let captured work go until a batch fits."""
        wanted = need(self._bundle.manifest, n_draft, batch, drops_outputs=False, one_row=one_row)
        size = wanted.cache + wanted.activations
        with self.turn():
            while size > self.device.free_memory() and self._replays:
                self._forget_oldest()
            free = self.device.free_memory()
        if size > free:
            raise BackendError(
                f"a batch of {batch} with N = {n_draft} needs {size / 1e9:.2f} GB beside the weights, and "
                f"{free / 1e9:.2f} GB are free; ask for a smaller batch_size (trt-var plan shows what fits)"
            )

    def _forget_oldest(self) -> None:
        self.device.synchronize()
        del self._replays[next(iter(self._replays))]

    def _read(self, name: str) -> tuple[Engine, Any]:
        """An engine, deserialised only after everything about it has been compared."""
        entry = self.record.engines.get(name)
        if entry is None and name.endswith(LOGITS):
            raise BackendError(
                "step graphs with logits (more_smooth, score) have no engines; they run on onnxruntime and openvino"
            )
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
        batch = self.record.batch
        served = ",".join(map(str, self.record.serves))
        more = f" --batch {batch.smallest},{batch.usual},{batch.largest} --n-draft {served}"
        more += "" if self.record.guidance == GUIDED else f" --guidance {','.join(self.record.guidance)}"
        return rebuild(self._bundle, self.record.kind, self.record.target) + more


def install(kind: Kind) -> str:
    """How to install what runs engines of a kind."""
    return f"pip install 'trt-var[{records.EXTRAS[kind]}]'"


def rebuild(bundle: Bundle, kind: Kind, target: str) -> str:
    """What to do about engines that do not fit."""
    aimed = f" --target {target}" if kind == "rtx" else ""
    return f"build them with trt-var engines {bundle.path} --kind {kind}{aimed} --force"


def create(bundle: Bundle | None = None, wishes: Wishes = NO_WISHES) -> Backend:
    """The engines of a bundle that this machine's TensorRT and GPU can run; it has no use for ``wishes``.

    Raises:
        BackendError: no TensorRT, no GPU, or no engines for them, with what to do.
    """
    device = devices.create()
    missing: list[str] = []
    for kind in device.kinds:
        try:
            trt = importlib.import_module(records.MODULES[kind])
            check_whole(trt, *USED)
        except BROKEN as error:
            missing.append(f"{kind} {trouble(error, (records.MODULES[kind],), install(kind))}")
            continue
        if bundle is None:
            raise BackendError(f"{kind} {trt.__version__} and {device.description} are here; it runs a bundle's own engines")
        folder = records.folder(bundle.path, kind, trt.__version__, device.target)
        if folder.is_dir():
            return TensorRT(trt, device, bundle, folder, _record(folder, bundle, kind, trt.__version__, device.target))
        missing.append(f"no {folder.name} engines")
    there = sorted(path.name for path in (bundle.path / records.FOLDER).glob("*-*") if path.is_dir()) if bundle else []
    advice = (
        f"; the bundle has {', '.join(there) or 'none'}; {rebuild(bundle, device.kinds[0], device.target)}" if bundle else ""
    )
    raise BackendError(f"no TensorRT engines for this machine: {'; '.join(missing)}{advice}")


def _record(folder: Path, bundle: Bundle, kind: Kind, version: str, target: str) -> Record:
    record = records.read_record(folder)
    found = (record.kind, record.version, record.target)
    if found != (kind, version, target):
        built, here = ("-".join(map(str, names)) for names in (found, (kind, version, target)))
        raise BundleError(f"{folder} was built for {built}, this is {here}; {rebuild(bundle, kind, target)}")
    return record
