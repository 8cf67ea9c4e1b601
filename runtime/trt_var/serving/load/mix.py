"""What is asked for: requests drawn from a mix, encoded before the clock starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Manifest
from trt_var.decoding.sampling import PRESETS, Sampling, preset
from trt_var.errors import UsageError
from trt_var.serving.load import rubbish
from trt_var.serving.load.service import Model

MAX_CHOICES = 64
FORMATS = ("png", "jpeg", "webp")
LEAVES = 0.1  # seconds at most until a client goes, where the service does not say how long an image takes
NDraft = int | str | tuple[int, int] | None
"""N, ``auto``, a range, or None for what the service takes by itself."""
Choice = TypeVar("Choice")
Weighted = Sequence[tuple[Choice, float]]


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, as bytes, and what its answer must be.

    Attributes:
        body: JSON.
        label, seed: of its first image.
        images: how many.
        sampling: which of the mix's settings.
        stream: whether the answer is a stream of events.
        leaves: seconds after which the client goes without waiting for the answer, or None. From a stream it goes with the
            first that comes.
        rubbish: the kind of an invalid body; empty for a valid one.
    """

    body: bytes
    label: int = 0
    seed: int = 0
    images: int = 0
    sampling: int = 0
    stream: bool = False
    leaves: float | None = None
    rubbish: str = ""


@dataclass(frozen=True)
class Mix:
    """Of what requests are drawn, independently of each other; classes are drawn uniformly.

    Attributes:
        n_draft: values with weights.
        sampling: settings as the API takes them, each as often as any other; see ``settings``.
        images: images a request, with weights; a request that streams asks for one.
        stream: share of the valid requests that stream.
        partial_images: previews that a stream asks for.
        disconnect: share of the valid requests that go before their answer is there.
        leaves: seconds after which they go at most, uniformly; None: twice what the service says an image takes.
        rubbish: share of all requests that are invalid.
        output_format: png, jpeg or webp.
    """

    n_draft: Weighted[NDraft] = ((None, 1.0),)
    sampling: Sequence[Mapping[str, Any]] = ({},)
    images: Weighted[int] = ((1, 1.0),)
    stream: float = 0.0
    partial_images: int = 2
    disconnect: float = 0.0
    leaves: float | None = None
    rubbish: float = 0.0
    output_format: str = "png"

    def check(self, model: Model) -> None:
        """Compare every value with its range, and with what the service serves.

        Raises:
            UsageError: the first that cannot be meant.
        """
        for name in ("stream", "disconnect", "rubbish"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name):g}; expected a share, 0 to 1")
        for name in ("n_draft", "images", "sampling"):
            if not 1 <= len(getattr(self, name)) <= MAX_CHOICES:
                raise UsageError(f"{name} has {len(getattr(self, name))} values; expected 1 to {MAX_CHOICES}")
        if not all(1 <= count <= model.max_images for count, _ in self.images):
            told = ", ".join(str(count) for count, _ in self.images)
            raise UsageError(f"images a request are {told}; {model.id} takes 1 to {model.max_images}")
        if not 0 <= self.partial_images < model.scales:
            raise UsageError(f"partial images are {self.partial_images}; {model.id} gives 0 to {model.scales - 1}")
        if self.output_format not in FORMATS:
            raise UsageError(f"format is {self.output_format!r}; expected {', '.join(FORMATS)}")
        for given in self.sampling:
            _parts(given)


def settings(given: Mapping[str, Any], manifest: Manifest) -> Sampling:
    """What the API's settings (``preset`` and the fields of ``Sampling``) mean for a bundle.

    Raises:
        UsageError: an unknown setting, or one of another type.
    """
    name, sampling = _parts(given)
    base = preset(name, len(manifest.schedule), manifest.vocabulary)
    return replace(base, **{field.name: getattr(sampling, field.name) for field in fields(Sampling) if field.name in given})


def _parts(given: Mapping[str, Any]) -> tuple[str, Sampling]:
    name = given.get("preset", "default")
    if not isinstance(name, str) or name not in PRESETS:
        raise UsageError(f"preset is {str(name)[:40]!r}; expected {', '.join(PRESETS)}")
    return name, Sampling.from_json({key: value for key, value in given.items() if key != "preset"})


def draw(mix: Mix, model: Model, count: int, seed: int, generator: np.random.Generator) -> list[Request]:
    """Requests of a mix; the images of all of them have consecutive seeds, from ``seed`` on."""
    labels = generator.integers(0, model.classes, count).tolist()
    n_draft, images = _chosen(mix.n_draft, count, generator), _chosen(mix.images, count, generator)
    sampling = generator.integers(0, len(mix.sampling), count).tolist()
    streams = (generator.random(count) < mix.stream).tolist()
    leaves = (generator.random(count) * _longest(mix, model)).tolist()
    goes = (generator.random(count) < mix.disconnect).tolist()
    invalid = (generator.random(count) < mix.rubbish).tolist()
    kinds = generator.integers(0, len(rubbish.NAMES), count).tolist()
    encode = msgspec.json.Encoder().encode
    found = []
    for i in range(count):
        if invalid[i]:
            kind = rubbish.NAMES[kinds[i]]
            found.append(Request(rubbish.KINDS[kind], rubbish=kind))
            continue
        number = 1 if streams[i] else mix.images[images[i]][0]
        asked = {"model": model.id, "prompt": str(labels[i]), "n": number, "seed": seed, **mix.sampling[sampling[i]]}
        wanted = mix.n_draft[n_draft[i]][0]
        if wanted is not None:
            asked["n_draft"] = {"min": wanted[0], "max": wanted[1]} if isinstance(wanted, tuple) else wanted
        if mix.output_format != "png":
            asked["output_format"] = mix.output_format
        if streams[i]:
            asked |= {"stream": True, "partial_images": mix.partial_images}
        left = leaves[i] if goes[i] else None
        found.append(Request(encode(asked), labels[i], seed, number, sampling[i], streams[i], left))
        seed += number
    return found


def _chosen(choices: Weighted[Any], count: int, generator: np.random.Generator) -> list[int]:
    weights: NDArray[np.float64] = np.array([weight for _, weight in choices], np.float64)
    found: list[int] = generator.choice(len(choices), count, p=weights / weights.sum()).tolist()
    return found


def _longest(mix: Mix, model: Model) -> float:
    if mix.leaves is not None:
        return mix.leaves
    return 2 * max(model.seconds.values(), default=LEAVES / 2)
