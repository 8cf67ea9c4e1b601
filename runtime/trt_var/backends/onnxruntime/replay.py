"""Work that is done again with the same sizes: its buffers stay where they are, and its runs keep their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trt_var.backends.base import Buffer, DeviceArray, Work
from trt_var.errors import BackendError

Allocate = Callable[[tuple[int, ...], DTypeLike], DeviceArray]


class Replay:
    """One size of work.

    A CUDA graph reads and writes the addresses that it was captured with. So every turn gets the buffers of the first one,
    in their order, and every run of a graph the number that its captured graph has.

    Args:
        allocate: makes a buffer.
        numbers: numbers for runs, unique for all work of a backend.
    """

    def __init__(self, allocate: Allocate, numbers: Iterator[int]) -> None:
        self._allocate, self._new_numbers = allocate, numbers
        self._inputs: dict[str, DeviceArray] = {}
        self._buffers: list[DeviceArray] = []
        self._numbers: list[int] = []
        self._next_buffer = self._next_number = 0

    def turn(self, arrays: Mapping[str, NDArray[Any]], work: Work) -> Mapping[str, Buffer]:
        """Do the work once more, on other arrays of the same shapes."""
        self._next_buffer = self._next_number = 0
        for name, array in arrays.items():
            if name not in self._inputs:
                self._inputs[name] = self._allocate(array.shape, array.dtype)
            if array.size:
                self._inputs[name].owner.update_inplace(np.ascontiguousarray(array))
        return work(self._inputs)

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """The next buffer."""
        if self._next_buffer == len(self._buffers):
            self._buffers.append(self._allocate(shape, dtype))
        buffer = self._buffers[self._next_buffer]
        if (buffer.shape, buffer.dtype) != (shape, np.dtype(dtype)):
            raise BackendError(f"work asked for {shape} where it asked for {buffer.shape} before: it cannot be replayed")
        self._next_buffer += 1
        return buffer

    def number(self) -> int:
        """Of the next run."""
        if self._next_number == len(self._numbers):
            self._numbers.append(next(self._new_numbers))
        self._next_number += 1
        return self._numbers[self._next_number - 1]
