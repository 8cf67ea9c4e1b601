"""Pictures that came over HTTP against those that the pipeline draws by itself: label, seed, N and settings say it all."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.backends.choosing import KINDS
from trt_var.bundle.manifest import Manifest
from trt_var.errors import DataError, UsageError
from trt_var.pictures.encoding import from_png
from trt_var.pipeline import Pipeline
from trt_var.serving.load.answers import pictures
from trt_var.serving.load.client import Outcome
from trt_var.serving.load.counting import is_served
from trt_var.serving.load.mix import Mix, Request, settings
from trt_var.serving.load.run import Run
from trt_var.serving.load.service import Model

BATCH = 16  # images drawn together; what more_smooth takes at most
BOUND = 1  # steps of 255 that a pixel may be off where tokens are promised
TOKENS, IMAGES = PROMISED = "tokens", "images"  # what does not depend on the batch
WORST = 255
SHOWN = 5


class Verification(msgspec.Struct, frozen=True):
    """How far apart pictures are.

    Attributes:
        bundle: that was drawn with in-process.
        engine: that drew it.
        pictures: that were compared.
        unequal: in any pixel.
        largest: difference of any channel of any pixel, steps of 255.
        mean: of all channels of all pixels.
        bound: steps of 255 that are allowed.
        promised: pictures whose answer promises them, or their tokens.
        outside: those of them that are further off.
        left_out: pictures that were served, but are not at hand; examples: the first outside.
    """

    bundle: str
    engine: str
    pictures: int
    unequal: int
    largest: int
    mean: float
    bound: int
    promised: int
    outside: int
    left_out: int
    examples: list[str]


class _Returned(NamedTuple):
    """A picture of an answer."""

    label: int
    seed: int
    promised: bool
    request: Request
    outcome: Outcome
    place: int


def check(manifest: Manifest, model: Model, mix: Mix) -> None:
    """Compare a bundle with what the service serves, and the settings with both, before anything is offered.

    Raises:
        UsageError: another bundle, or pictures that lose something on their way.
    """
    if mix.output_format != "png":
        raise UsageError(f"--against compares pixels, which {mix.output_format} does not keep; use --format png")
    if (tuple(manifest.schedule), manifest.classes) != (model.schedule, model.classes):
        raise UsageError(f"--against names another bundle than {model.id}, which is served: patch sides or classes differ")
    for given in mix.sampling:
        settings(given, manifest)


def backend_of(model: Model) -> str:
    """The name of the backend that a service says it runs on; ``auto`` if it says none."""
    told = model.backend.casefold().replace(" ", "")
    return next((name for name in KINDS if told.startswith(name)), "auto")


def verify(
    pipeline: Pipeline, name: str, mix: Mix, runs: Sequence[Run], progress: Callable[[int], object] = lambda _: None
) -> Verification:
    """Draw every picture that was returned once more, and compare.

    Args:
        pipeline: of the bundle that is served, whose name is for the report.
        mix: that the requests were drawn from.
        runs: whose answers have been read.
        progress: called with the number of pictures compared at once.

    Raises:
        UsageError, BackendError: see ``Pipeline.generate``.
    """
    groups, left_out = _grouped(runs)
    tally = _Tally()
    for (n_draft, sampling), group in groups.items():
        for batch in _batches(group):
            drawn = pipeline.generate(
                [one.label for one in batch],
                seeds=[one.seed for one in batch],
                n_draft=n_draft,
                sampling=settings(mix.sampling[sampling], pipeline.manifest),
                batch_size=BATCH,
            )
            for one, expected in zip(batch, drawn.images, strict=True):
                tally.add(one, n_draft, expected)
            progress(len(batch))
    return Verification(
        bundle=name,
        engine=pipeline.engine,
        pictures=tally.pictures,
        unequal=tally.unequal,
        largest=tally.largest,
        mean=tally.total / max(tally.pictures, 1),
        bound=BOUND,
        promised=tally.promised,
        outside=tally.outside,
        left_out=left_out,
        examples=tally.examples[:SHOWN],
    )


def count(runs: Sequence[Run]) -> int:
    """How many pictures there are to compare."""
    return sum(map(len, _grouped(runs)[0].values()))


class _Tally:
    """Differences as they are found."""

    def __init__(self) -> None:
        self.pictures = self.unequal = self.largest = self.promised = self.outside = 0
        self.total = 0.0
        self.examples: list[str] = []

    def add(self, one: _Returned, n_draft: int, expected: NDArray[np.uint8]) -> None:
        """Compare one picture; what is no picture of this size is as far off as can be."""
        try:
            difference = np.abs(_pixels(one, expected.shape).astype(np.int16) - expected)
            worst, mean, told = int(difference.max()), float(difference.mean()), ""
        except DataError as error:
            worst, mean, told = WORST, float(WORST), f" ({error})"
        off = one.promised and worst > BOUND
        self.pictures += 1
        self.unequal += worst > 0
        self.largest = max(self.largest, worst)
        self.total += mean
        self.promised += one.promised
        self.outside += off
        if off:
            self.examples.append(f"label {one.label}, seed {one.seed}, N={n_draft}: {worst} steps off{told}")


def _grouped(runs: Sequence[Run]) -> tuple[dict[tuple[int, int], list[_Returned]], int]:
    """The pictures at hand by N and settings, and how many are not at hand."""
    groups: dict[tuple[int, int], list[_Returned]] = {}
    left_out = 0
    for run in runs:
        for request, outcome in zip(run.plan.requests, run.outcomes, strict=True):
            answer = outcome.answer
            if request.rubbish or not is_served(outcome) or answer is None or answer.n_draft is None:
                continue
            if not outcome.body:
                left_out += request.images
                continue
            group = groups.setdefault((answer.n_draft, request.sampling), [])
            promised = answer.reproducible in PROMISED
            for i in range(request.images):
                group.append(_Returned(request.label, request.seed + i, promised, request, outcome, i))
    return groups, left_out


def _batches(group: list[_Returned]) -> Iterator[list[_Returned]]:
    rest = iter(group)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _pixels(one: _Returned, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        pixels = from_png(base64.b64decode(pictures(one.request, one.outcome.body)[one.place], validate=True))
    except (msgspec.MsgspecError, UnicodeError, binascii.Error, UsageError) as error:
        raise DataError(f"no PNG: {error}") from error
    if pixels.shape != shape:
        raise DataError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels, expected {shape[1]}×{shape[0]}")
    return pixels
