"""A GPU in host memory behind TensorRT's and the driver's shape, for tests on machines without one.

Engines run their ONNX graph through ONNX Runtime. Work is done late, when the host waits, and what a GPU would punish is
refused: memory that nobody wrote or that was freed, shapes outside a profile, missing or misaligned addresses, results
read before they are there, calls that cannot be captured. ``TRT_VAR_CUDA=simulated`` chooses it, with engines that
``trt-var engines --kind simulated`` makes.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.tensorrt.record import Profile, Shape
from trt_var.backends.tensorrt.simulated.device import SCRATCH_ALIGNMENT, SimulatedDevice, SimulationError

__version__ = "1"
ALIGNMENT = 16  # the widest load of a kernel


class DataType(enum.Enum):
    """Types by their name in ONNX Runtime."""

    FLOAT = "tensor(float)"
    HALF = "tensor(float16)"
    INT32 = "tensor(int32)"
    INT64 = "tensor(int64)"
    UINT8 = "tensor(uint8)"


class TensorIOMode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    USER_MANAGED = 2


_NUMPY: dict[DataType, type[np.generic]] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.UINT8: np.uint8,
}


def nptype(dtype: DataType) -> type[np.generic]:
    """The NumPy type of a tensor's type."""
    return _NUMPY[dtype]


class ILogger:
    """Base of loggers."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


def plan(graph: Path, profiles: tuple[Profile, ...], *, final: bool) -> bytes:
    """A plan that stands for an engine: the graph two folders above it, without its cache outputs if ``final``."""
    shapes = [{name: [low, high] for name, (low, _, high) in profile.shapes.items()} for profile in profiles]
    return json.dumps({"graph": graph.name, "final": final, "profiles": shapes}).encode()


class Runtime:
    """Reads plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized: NDArray[np.uint8]) -> _Engine | None:
        try:
            described = json.loads(serialized.tobytes())
        except ValueError as error:
            self._logger.log(ILogger.ERROR, f"not a plan: {error}")
            return None
        folder = Path(serialized.filename).parent  # type: ignore[attr-defined]  # plans come as memory maps
        return _Engine(self._logger, folder.parent.parent / described["graph"], described)


class _Engine:
    def __init__(self, logger: Any, graph: Path, described: dict[str, Any]) -> None:
        import onnxruntime as ort  # the simulation of plans without graphs needs none

        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.logger = logger
        self.profiles: list[dict[str, tuple[Shape, Shape]]] = described["profiles"]
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        outputs = {entry.name: entry for entry in self.session.get_outputs()}
        self.outputs = {name: e for name, e in outputs.items() if not (described["final"] and name.startswith("new_"))}
        self.tensors: dict[str, Any] = self.inputs | self.outputs

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return [*self.tensors][index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.tensors[name].type)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> _ExecutionContext:
        return _ExecutionContext(self)


class _ExecutionContext:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        device = SimulatedDevice.by_stream.get(stream_handle)
        if device is None or device.capturing() or not 0 <= profile_index < len(self._engine.profiles):
            return self._refuse(f"profile {profile_index} on stream {stream_handle}: unknown, or a capture is under way")
        self._profile, self._shapes = profile_index, {}
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        if self._profile is None or name not in self._engine.inputs:
            return self._refuse(f"shape of {name}: no profile, or no such input")
        low, high = self._engine.profiles[self._profile][name]
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"shape {shape} of {name} lies outside profile {self._profile}: {low} to {high}")
        self._shapes[name] = tuple(shape)
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return self._needed()

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self._shapes:
            return self._shapes[name]
        known: dict[Any, int] = {}
        for given, shape in self._shapes.items():
            known |= dict(zip(self._engine.inputs[given].shape, shape, strict=True))
        return tuple(size if isinstance(size, int) else known.get(size, -1) for size in self._engine.tensors[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine.tensors:
            return self._refuse(f"there is no tensor {name}")
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % SCRATCH_ALIGNMENT:
            self._refuse(f"scratch memory at {memory:#x} is not aligned to {SCRATCH_ALIGNMENT}")
            memory, size = 0, 0
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        device, engine = SimulatedDevice.by_stream.get(stream_handle), self._engine
        unset = [name for name in engine.tensors if not self._addresses.get(name)]
        odd = [name for name, address in self._addresses.items() if address % ALIGNMENT]
        problems: Mapping[str, Any] = {
            "unknown stream": device is None,
            f"no address for {', '.join(unset)}": unset,
            f"misaligned {', '.join(odd)}": odd,
            "shapes not set": self._shapes.keys() != engine.inputs.keys(),
            f"scratch memory of {self._scratch[1]} bytes, {self._needed()} needed": self._scratch[1] < self._needed(),
        }
        found = [problem for problem, is_there in problems.items() if is_there]
        if found or device is None:
            return self._refuse("; ".join(found))
        addresses, shapes = dict(self._addresses), {name: self.get_tensor_shape(name) for name in engine.tensors}
        scratch = self._scratch
        device.enqueue(lambda: self._run(device, addresses, shapes, scratch))
        return True

    def _run(
        self, device: SimulatedDevice, addresses: dict[str, int], shapes: dict[str, Shape], scratch: tuple[int, int]
    ) -> None:
        engine, feed = self._engine, {}
        for name in engine.inputs:
            dtype = np.dtype(nptype(engine.get_tensor_dtype(name)))
            held = device.bytes(addresses[name], math.prod(shapes[name]) * dtype.itemsize)
            feed[name] = held.view(dtype).reshape(shapes[name]).copy()
        results = engine.session.run(list(engine.outputs), feed)
        device.spoil(*scratch)
        for name, value in zip(engine.outputs, results, strict=True):
            if value.shape != shapes[name]:
                raise SimulationError(f"{name} has shape {value.shape}, announced was {shapes[name]}")
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            device.bytes(addresses[name], value.nbytes, writing=True)[:] = content

    def _needed(self) -> int:
        return 1024 + sum(math.prod(shape) for shape in self._shapes.values())

    def _refuse(self, why: str) -> bool:
        self._engine.logger.log(ILogger.ERROR, why)
        return False
