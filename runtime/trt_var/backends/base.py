"""The seam between the decoding loop and what runs the graphs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trt_var.backends.failures import starving
from trt_var.bundle.manifest import Role


class Buffer(Protocol):
    """Memory where the backend's graphs read and write: a NumPy array, or an array on a device.

    Row-major. Indexing with a slice gives a view of leading rows, reshaping another view, both without a copy.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...

    def reshape(self, shape: tuple[int, ...], /) -> Any: ...


Work = Callable[[Mapping[str, Buffer]], Mapping[str, Buffer]]


class Graph(Protocol):
    """A loaded graph. Safe to run from several threads at once."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read ``inputs`` and fill ``outputs`` in place; an output that is not named is not kept.

        Raises:
            BackendError: the engine refused the feed or failed.
        """
        ...


@dataclass(frozen=True)
class Wishes:
    """What is asked of an engine on a CPU; GPUs have no use for it.

    Attributes:
        threads: that it may take; None for all that the process may use.
        keep_compiled: whether it keeps what it compiles in the user's cache, where it can, for the next process.
    """

    threads: int | None = None
    keep_compiled: bool = False


NO_WISHES = Wishes()


class Backend(Protocol):
    """One kind of engine.

    Attributes:
        name: as given to ``--backend``.
        description: engine, version, device and arithmetic, for people; see ``arithmetic``.
        rank: the higher, the faster by measurement: 3 and 4 on a GPU, 2 on a CPU with short products, 1 else, 0 slower.
        drops_outputs: whether an output that is not named costs no memory.
        cache_dtype: of keys and values, where it is not that of the graphs.
        piece: how many images the decoder takes at once; larger batches are rendered in pieces.
        threads: that an engine on a CPU was given, None if none were.
        loads_aside: whether graphs may be loaded in other threads than those that run them, several at once.
        settled: after how many batches of one size ``draw`` keeps its pace, because it replays them; 0 if it replays none.
    """

    name: str
    description: str
    rank: int
    drops_outputs: bool
    cache_dtype: np.dtype[Any] | None
    piece: int
    threads: int | None
    loads_aside: bool
    settled: int

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        """Load an ONNX graph whose files have been checked.

        Args:
            path: the graph.
            exact: compute in float32 even where the backend would take a shorter type.
            images: the batch that its first axis will always have; None if any.

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

    def padded(self, images: int) -> int:
        """The batch in which so many images are drawn: as many, or more to meet sizes that are ready; or fewer at once."""
        ...

    def takes_one_row(self, role: Role) -> bool:
        """Whether a model that guides nothing may be run with one row an image, if the graphs of the bundle bear it."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """A block whose runs need not be waited for until ``join``; they see all that was done before the block."""
        ...

    def join(self) -> None:
        """What follows sees all that was done aside."""
        ...

    def draw(self, n_draft: int, arrays: Mapping[str, NDArray[Any]], plain: Work, shadowed: Work) -> dict[str, NDArray[Any]]:
        """Upload arrays, let a work make buffers of them, download those.

        Both works give the same; ``shadowed`` does some of it aside. A backend may measure which is faster, record it and
        replay it the next time that N and the arrays' shapes are the same: works must do the same again then.
        """
        ...

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on the device; None for the host, and where the engine does not tell."""
        ...

    def check_room(self, n_draft: int, batch: int, one_row: Collection[Role] = ()) -> None:
        """Raises BackendError, with figures, for a batch that is known not to fit; ``draw`` does this itself."""
        ...

    def close(self) -> None:
        """Release what is held beside graphs and buffers."""
        ...


class DeviceArray:
    """A view of memory on a device, kept alive by its owner; slicing moves the address."""

    def __init__(self, owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.owner, self.address, self.shape, self.dtype = owner, address, shape, dtype

    def __getitem__(self, rows: slice) -> DeviceArray:
        start, stop, _ = rows.indices(self.shape[0])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self.owner, self.address + start * row, (max(stop - start, 0), *self.shape[1:]), self.dtype)

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(self.owner, self.address, shape, self.dtype)


def arithmetic(description: str) -> str:
    """What a description says of the arithmetic: ``float32`` of "…, CPU, float32 arithmetic", or "the graph's own types"."""
    found = re.search(r"((?:8-bit products, else )?\w+) arithmetic\b|arithmetic of (.+)", description)
    return (found[1] or found[2]) if found else description


def int8_products(there_are: bool) -> str:
    """What a description says of 8-bit products before the arithmetic of the rest."""
    return "8-bit products, else " if there_are else ""


def described(backend: Backend) -> str:
    """A backend's description with its threads, for people; records of what was drawn leave them out."""
    threads = backend.threads
    return backend.description + ("" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}")


class HostMemory:
    """Buffers for engines that work on host memory, plain NumPy arrays; any batch is drawn, every one anew."""

    drops_outputs = True
    cache_dtype: np.dtype[Any] | None = None
    piece = 1  # maps of full resolution of more images than one fit no cache, and take longer
    threads: int | None = None
    loads_aside = True
    settled = 0

    @starving("drawing failed")
    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        return np.empty(shape, dtype)

    @starving("drawing failed")
    def upload(self, array: NDArray[Any]) -> Buffer:
        return np.array(array, order="C")  # a copy: engines refuse read-only memory

    def download(self, buffer: Buffer) -> NDArray[Any]:
        return np.asarray(buffer)

    def padded(self, images: int) -> int:
        return images

    def takes_one_row(self, role: Role) -> bool:
        return True

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def join(self) -> None:
        pass

    def draw(self, n_draft: int, arrays: Mapping[str, NDArray[Any]], plain: Work, shadowed: Work) -> dict[str, NDArray[Any]]:
        outputs = plain({name: self.upload(array) for name, array in arrays.items()})
        return {name: self.download(buffer) for name, buffer in outputs.items()}

    def free_memory(self) -> int | None:
        return None

    def check_room(self, n_draft: int, batch: int, one_row: Collection[Role] = ()) -> None:
        pass

    def close(self) -> None:
        pass
