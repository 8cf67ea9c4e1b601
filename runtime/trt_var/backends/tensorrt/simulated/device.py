"""A GPU's memory and two streams, simulated on the host: work is done late, and what a GPU would punish is refused.

``simulated`` has the engines that run on it.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from trt_var.backends.tensorrt.device import Bytes, Memory
from trt_var.backends.tensorrt.record import Kind
from trt_var.errors import BackendError

TARGET = "host"
SCRATCH_ALIGNMENT = 512
POISON = 0xFF  # not a number in every float type
TOTAL = 24 << 30


class SimulationError(BackendError):
    """Something that a GPU would punish, often silently."""


class _Block:
    def __init__(self, size: int) -> None:
        self.data = np.full(size, POISON, np.uint8)
        self.written = np.zeros(size, np.bool_)


@dataclass(frozen=True)
class _Operation:
    """What was enqueued, on which stream, and how many operations of each stream come before it or are it."""

    run: Callable[[], None]
    lane: int
    clock: tuple[int, int]
    touched: list[tuple[int, int, bool]] = field(default_factory=list)
    """Begin and end of the memory that it read, or wrote (True)."""

    def races(self, other: _Operation) -> bool:
        """Whether an earlier operation of the other stream, which this one does not wait for, touches the same memory."""
        if self.lane == other.lane or self.clock[other.lane] >= other.clock[other.lane]:
            return False
        return any(
            (writes or wrote) and begin < stop and start < end
            for begin, end, writes in self.touched
            for start, stop, wrote in other.touched
        )


class SimulatedDevice:
    """Memory, two streams and captures; ``cuda.Device`` has the contracts."""

    kinds: tuple[Kind, ...] = ("simulated",)
    description = "a GPU simulated in host memory, for tests"
    target = TARGET
    by_stream: ClassVar[weakref.WeakValueDictionary[int, SimulatedDevice]] = weakref.WeakValueDictionary()
    _streams = itertools.count(0x51A0)

    def __init__(self, total: int = TOTAL) -> None:
        self._handles = (next(self._streams), next(self._streams))
        self._lane = 0
        self._clocks = [(0, 0), (0, 0)]  # of each stream's latest operation
        for handle in self._handles:
            self.by_stream[handle] = self
        self.launches = 0
        self._total = total
        self._blocks: dict[int, _Block] = {}
        self._pinned: list[tuple[int, int]] = []
        self._next = SCRATCH_ALIGNMENT
        self._queue: list[_Operation] = []
        self._recorded: list[_Operation] | None = None
        self._now: _Operation | None = None
        self._capturer = 0
        self._running = False
        self._doomed: list[int] = []  # freed while work was running
        self._faults: list[str] = []
        self._lock = threading.RLock()  # memory is freed by whatever thread drops it last

    @property
    def stream(self) -> int:
        return self._handles[self._lane]

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def aside(self) -> Iterator[None]:
        self._order(0, 1)
        self._lane = 1
        try:
            yield
        finally:
            self._lane = 0

    def join(self) -> None:
        self._order(1, 0)

    def _order(self, first: int, then: int) -> None:
        a, b = self._clocks[first], self._clocks[then]
        self._clocks[then] = (max(a[0], b[0]), max(a[1], b[1]))

    def free_memory(self) -> int:
        return self._total - sum(block.data.size for block in self._blocks.values())

    def allocate(self, size: int) -> Memory:
        self._outside_capture("allocation")
        if size > self.free_memory():
            raise BackendError(f"CUDA failed: out of memory, {size} bytes wanted")
        address = self._next
        self._blocks[address] = _Block(size)
        self._next += (-(-size // SCRATCH_ALIGNMENT) + 1) * SCRATCH_ALIGNMENT  # a gap, so that overruns hit nothing
        return Memory(address, size, lambda: self._free(address))

    def pinned(self, size: int) -> Bytes:
        self._outside_capture("allocation of pinned memory")
        array = np.full(size, POISON, np.uint8)
        self._pinned.append((array.ctypes.data, size))
        return array

    def to_device(self, address: int, host: Bytes) -> None:
        content = host if self._is_pinned(host) else host.copy()

        def copy() -> None:
            self.bytes(address, host.nbytes, writing=True)[:] = content

        self.enqueue(copy)

    def to_host(self, host: Bytes, address: int) -> None:
        self._is_pinned(host)

        def copy() -> None:
            host[:] = self.bytes(address, host.nbytes)

        self.enqueue(copy)

    def synchronize(self) -> None:
        self._outside_capture("synchronisation")
        with self._lock:
            pending, self._queue = self._queue, []
            self._running = True
            try:
                for index, operation in enumerate(pending):
                    self._now = operation
                    operation.run()
                    if any(operation.races(other) for other in pending[:index]):
                        raise SimulationError("two streams use the same memory at once, and one writes to it")
            finally:
                self._running, self._now = False, None
                for operation in pending:
                    operation.touched.clear()
                while self._doomed:
                    self._blocks.pop(self._doomed.pop(), None)
        if self._faults:
            raise SimulationError("; ".join(self._faults))

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        self._outside_capture("a capture")
        recorded: list[_Operation] = []
        self._recorded, self._capturer = recorded, threading.get_ident()
        before, self._clocks = self._clocks, [(0, 0), (0, 0)]
        try:
            work()
            after = self._clocks
        finally:
            self._recorded, self._clocks = None, before
        if after[0][1] < after[1][1]:
            raise SimulationError("a capture ended with work aside that nothing waits for")

        def launch() -> None:
            """As one operation of the first stream."""
            self.launches += 1
            start = self._clocks[0]
            self._queue.extend(replace(one, clock=_later(one.clock, start), touched=[]) for one in recorded)
            self._clocks[0] = _later(after[0], start)
            self._order(0, 1)

        return launch

    def enqueue(self, work: Callable[[], None]) -> None:
        """In the order of the stream in use, or into the capture that is under way."""
        a, b = self._clocks[self._lane]
        self._clocks[self._lane] = (a + 1, b) if self._lane == 0 else (a, b + 1)
        operation = _Operation(work, self._lane, self._clocks[self._lane])
        (self._queue if self._recorded is None else self._recorded).append(operation)

    def capturing(self) -> bool:
        """Whether calls are recorded now."""
        return self._recorded is not None

    def bytes(self, address: int, size: int, *, writing: bool = False) -> Bytes:
        """Device memory, when the stream gets there.

        Raises:
            SimulationError: not within one living allocation; or read before anybody wrote there.
        """
        if size == 0:
            return np.empty(0, np.uint8)
        block, span = self._find(address, size, writing)
        if writing:
            block.written[span] = True
        elif not block.written[span].all():
            raise SimulationError(f"{size} bytes at {address:#x} are read, but nobody wrote {(~block.written[span]).sum()}")
        return block.data[span]

    def spoil(self, address: int, size: int) -> None:
        """What scratch memory holds after a run is nobody's."""
        block, span = self._find(address, size, True)
        block.data[span], block.written[span] = POISON, False

    def _find(self, address: int, size: int, writing: bool) -> tuple[_Block, slice]:
        if self._now:
            self._now.touched.append((address, address + size, writing))
        starts = sorted(self._blocks)
        start = starts[max(bisect.bisect_right(starts, address) - 1, 0)] if starts else 0
        block, offset = self._blocks.get(start), address - start
        if block is None or not 0 <= offset <= block.data.size - size:
            raise SimulationError(f"{size} bytes at {address:#x} lie in no allocation: freed, or out of bounds")
        return block, slice(offset, offset + size)

    def _free(self, address: int) -> None:
        """As cuMemFree: waits for the work that is enqueued; another thread's capture does not mind."""
        with self._lock:
            if self._running:
                self._doomed.append(address)
                return
            if self._recorded is not None and self._capturer == threading.get_ident():
                self._faults.append("memory was freed while capturing")
            elif self._recorded is None and self._queue:
                try:
                    self.synchronize()
                except SimulationError as error:  # a finaliser cannot raise
                    self._faults.append(str(error))
            self._blocks.pop(address, None)

    def _outside_capture(self, what: str) -> None:
        if self._recorded is not None:
            raise SimulationError(f"{what} is not allowed while capturing")

    def _is_pinned(self, host: Bytes) -> bool:
        address = host.ctypes.data
        found = any(start <= address and address + host.nbytes <= start + size for start, size in self._pinned)
        if not found and self._recorded is not None:
            raise SimulationError("a captured copy must use pinned memory")
        return found


def _later(clock: tuple[int, int], start: tuple[int, int]) -> tuple[int, int]:
    return clock[0] + start[0], clock[1] + start[1]
