"""The seam between the decoding loop and what runs the graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Buffer(Protocol):
    """Memory where the backend's graphs read and write: a NumPy array, or an array on a device.

    Row-major. Indexing with a slice gives a view of leading rows, without a copy.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class Graph(Protocol):
    """A loaded graph. Safe to run from several threads at once."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read ``inputs`` and fill ``outputs`` in place; an output that is not named is not kept.

        Raises:
            BackendError: the engine refused the feed or failed.
        """
        ...


class Backend(Protocol):
    """One kind of engine.

    Attributes:
        name: as given to ``--backend``.
        description: engine, version, device and precision, for people.
        rank: the higher, the faster by measurement: 3 on a GPU, 2 on a CPU with short products, 1 else, 0 slower.
    """

    name: str
    description: str
    rank: int

    def load(self, path: Path, *, exact: bool = False) -> Graph:
        """Load an ONNX graph whose files have been checked.

        ``exact`` asks for float32 arithmetic even where the backend would compute in a shorter type.

        Raises:
            BackendError: the engine cannot read or build the graph.
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        """Memory with undefined content."""
        ...

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A buffer with the content of an array."""
        ...

    def download(self, buffer: Buffer) -> NDArray[Any]:
        """The content of a buffer; an array of its own, or the buffer itself where that is host memory."""
        ...


class HostMemory:
    """Buffers for engines that work on host memory: plain NumPy arrays."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        return np.empty(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Buffer:
        return np.array(array, order="C")  # a copy: engines refuse read-only memory

    def download(self, buffer: Buffer) -> NDArray[Any]:
        return np.asarray(buffer)
