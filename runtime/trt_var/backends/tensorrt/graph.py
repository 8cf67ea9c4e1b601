"""One TensorRT engine as a graph of the decoding loop: its profiles, its contexts, and what is bound to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from trt_var.backends.base import Buffer
from trt_var.backends.forks import Native
from trt_var.backends.tensorrt.device import Device, Memory
from trt_var.backends.tensorrt.record import Engine, Record, Shape
from trt_var.backends.tensorrt.replay import ALIGNMENT, address_of
from trt_var.errors import BackendError


class Owner(Protocol):
    """What an engine's graph needs of its backend."""

    trt: Any
    device: Device
    logger: Any
    record: Record

    def turn(self) -> AbstractContextManager[None]: ...

    def ensure_scratch(self, size: int, /) -> Memory: ...

    def empty(self, shape: Shape, dtype: DTypeLike, /) -> Buffer: ...


class EngineGraph(Native):
    """One engine, and a context for every set of input shapes, so that a captured shape never changes."""

    def __init__(
        self, backend: Owner, name: str, entry: Engine, engine: Any, final: Callable[[], EngineGraph] | None = None
    ) -> None:
        super().__init__()
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
        self, backend: Owner, engine: Any, profile: int, shapes: dict[str, Shape], types: dict[str, np.dtype[Any]]
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
