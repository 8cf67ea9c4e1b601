"""What the pipeline gives back. Two results are equal where their arrays are, whatever drew them; all have JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Role
from trt_var.errors import UsageError
from trt_var.pictures.encoding import from_png, to_png
from trt_var.requests.provenance import Provenance, decoded

if TYPE_CHECKING:
    from PIL.Image import Image


class _Result:
    """Equality and hash of frozen dataclasses that hold arrays."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = [one.name for one in fields(self) if one.compare]  # type: ignore[arg-type]  # all are dataclasses
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in compared)

    def __hash__(self) -> int:
        held = [getattr(self, one.name) for one in fields(self)]  # type: ignore[arg-type]
        return hash((type(self), *(tuple(one.tolist()) for one in held if isinstance(one, np.ndarray) and one.ndim == 1)))


@dataclass(frozen=True, eq=False)
class Generation(_Result):
    """Generated images.

    Attributes:
        images: uint8 [n, H, W, 3].
        tokens: uint16 [n, L], every scale's token map, smallest scale first.
        labels: int64 [n].
        seeds: uint64 [n].
        provenance: what drew them, and how.

    Example:
        >>> from trt_var import Pipeline
        >>> drawn = Pipeline.load("digits").generate([7, 8], seeds=[1, 2])
        >>> drawn.record(0)[:25]
        '{"labels":[7],"seeds":[1]'
        >>> Generation.from_json(drawn.as_json()) == drawn
        True
    """

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    provenance: Provenance | None = field(default=None, compare=False)

    def to_pil(self) -> list[Image]:
        """The images as Pillow images."""
        from PIL import Image  # results are arrays for those who never ask

        return [Image.fromarray(pixels) for pixels in self.images]

    def record(self, image: int | None = None) -> str:
        """All but pixels and tokens as JSON, of one image or of all: what the commands write into picture files."""
        chosen = slice(None) if image is None else [image]
        numbers = {"labels": self.labels[chosen].tolist(), "seeds": self.seeds[chosen].tolist()}
        made = {} if self.provenance is None else msgspec.to_builtins(self.provenance)
        return msgspec.json.encode({**numbers, **made}).decode()

    def records(self) -> list[str]:
        """The ``record`` of each image."""
        return [self.record(i) for i in range(len(self.images))]

    def as_json(self) -> str:
        """Everything as JSON, which ``from_json`` reads; the images as PNG in Base64."""
        numbers = (self.tokens.tolist(), self.labels.tolist(), self.seeds.tolist())
        return msgspec.json.encode(_Generation(list(map(to_png, self.images)), *numbers, self.provenance)).decode()

    @classmethod
    def from_json(cls, data: str | bytes) -> Generation:
        """A result from its JSON, ``data``.

        Raises:
            UsageError: no such JSON.
        """
        found: _Generation = decoded(data, _Generation)
        count = len(found.images)
        arrays = (
            _images(found.images),
            _array(found.tokens, np.uint16, (count, -1)),
            _array(found.labels, np.int64, (count,)),
            _array(found.seeds, np.uint64, (count,)),
        )
        return cls(*arrays, found.provenance)


@dataclass(frozen=True, eq=False)
class Preview(_Result):
    """The state after one scale.

    Attributes:
        scale: the scale just drawn, from 0.
        scales: how many there are.
        role: the model that drew it.
        images: uint8 [n, H, W, 3], what is known so far; after the last scale, the result.
        tokens: uint16 [n, tokens so far].
        labels: int64 [n].
        seeds: uint64 [n].
        provenance: what drew them, and how.

    Example:
        >>> from trt_var import Pipeline
        >>> *_, last = Pipeline.load("digits").stream([7, 8], seeds=1)
        >>> last.scale, last.scales, last.generation.images.shape
        (5, 6, (2, 32, 32, 3))
    """

    scale: int
    scales: int
    role: Role
    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    provenance: Provenance | None = field(default=None, compare=False)

    @property
    def generation(self) -> Generation:
        """The preview as images of their own; after the last scale, what ``generate`` returns."""
        return Generation(self.images, self.tokens, self.labels, self.seeds, self.provenance)


@dataclass(frozen=True, eq=False)
class Reconstruction(_Result):
    """What the VQVAE makes of given images.

    Attributes:
        images: uint8 [n, H, W, 3].
        tokens: uint16 [n, L].
        psnr: float64 [n], decibels against the given images, infinite where equal.

    Example:
        >>> from trt_var import Pipeline
        >>> again = Pipeline.load("digits").reconstruct(np.zeros((2, 32, 32, 3), np.uint8))
        >>> again.images.shape, again.tokens.shape, again.psnr.dtype
        ((2, 32, 32, 3), (2, 130), dtype('float64'))
    """

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    psnr: NDArray[np.float64]

    def as_json(self) -> str:
        """Everything as JSON, which ``from_json`` reads; the images as PNG in Base64, an infinite psnr as null."""
        decibels = [value if np.isfinite(value) else None for value in self.psnr.tolist()]
        return msgspec.json.encode(_Reconstruction(list(map(to_png, self.images)), self.tokens.tolist(), decibels)).decode()

    @classmethod
    def from_json(cls, data: str | bytes) -> Reconstruction:
        """A result from its JSON, ``data``.

        Raises:
            UsageError: no such JSON.
        """
        found: _Reconstruction = decoded(data, _Reconstruction)
        count = len(found.images)
        decibels = [np.inf if value is None else value for value in found.psnr]
        tokens = _array(found.tokens, np.uint16, (count, -1))
        return cls(_images(found.images), tokens, _array(decibels, np.float64, (count,)))


@dataclass(frozen=True, eq=False)
class Scores(_Result):
    """How likely pictures are, each under several classes.

    Attributes:
        labels: int64 [c], the classes.
        nats: float64 [n, c], the natural logarithm of the probability of all tokens of a picture under a class.
        tokens: uint16 [n, L], the pictures as the encoder has them.

    Example:
        >>> scores = Scores(np.array([7, 8]), np.array([[-60.0, -20.0]]), np.zeros((1, 10), np.uint16))
        >>> scores.likeliest.tolist(), scores.nats_per_token.tolist()
        ([8], [[-6.0, -2.0]])
    """

    labels: NDArray[np.int64]
    nats: NDArray[np.float64]
    tokens: NDArray[np.uint16]

    @property
    def nats_per_token(self) -> NDArray[np.float64]:
        """[n, c]."""
        return np.asarray(self.nats / self.tokens.shape[1])

    @property
    def bits_per_token(self) -> NDArray[np.float64]:
        """[n, c]."""
        return np.asarray(self.nats_per_token / np.log(2))

    @property
    def likeliest(self) -> NDArray[np.int64]:
        """The class under which each picture is the likeliest [n]."""
        return np.asarray(self.labels[self.nats.argmax(1)])

    def as_json(self) -> str:
        """Labels, and nats a picture and class, as JSON."""
        return msgspec.json.encode({"labels": self.labels.tolist(), "nats": self.nats.tolist()}).decode()


class _Generation(msgspec.Struct):
    """As JSON has it."""

    images: list[bytes]
    tokens: list[list[int]]
    labels: list[int]
    seeds: list[int]
    provenance: Provenance | None = None


class _Reconstruction(msgspec.Struct):
    """As JSON has it."""

    images: list[bytes]
    tokens: list[list[int]]
    psnr: list[float | None]


def _images(files: list[bytes]) -> NDArray[np.uint8]:
    images = [from_png(file) for file in files]
    if len({image.shape for image in images}) != 1:
        raise UsageError(f"{len(images)} images of several sizes, or none; expected those of one result")
    return np.stack(images)


def _array(numbers: list[Any], dtype: type[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.array(numbers, dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"the numbers of this JSON do not belong to its images: {error}") from error
