"""A request while it is served: what is asked, what has come of it so far, and the future that its caller holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Manifest
from trt_var.requests.checking import Kept, Run
from trt_var.requests.joining import Kind
from trt_var.requests.provenance import Provenance
from trt_var.requests.results import Generation, Preview

LATE = "not done by its deadline; ask with a longer timeout"


@dataclass(frozen=True, eq=False)
class Served(Generation):
    """A generation, and how it was served.

    Attributes:
        n_draft: how many scales the drafter drew.
        queue_seconds: from arrival until the first of its images was begun.
        draw_seconds: from then until the last was done.

    Example:
        >>> from trt_var import Batcher, Batching, Pipeline
        >>> with Batcher(Pipeline.load("digits"), Batching(batch=2)) as batcher:
        ...     served = batcher.submit([7, 8], n_draft=3).result()
        >>> served.n_draft, served.images.shape, served.draw_seconds > 0
        (3, (2, 32, 32, 3), True)
    """

    n_draft: int = field(default=0, compare=False)
    queue_seconds: float = field(default=0.0, compare=False)
    draw_seconds: float = field(default=0.0, compare=False)


@dataclass(eq=False)
class Ticket:
    """One request. The planner hands out its images; the worker that draws the last one answers.

    Attributes:
        run: what is asked for, with the largest N that may be drawn; set to the N that is, when its first image is taken.
        allowed: N that the request bears, falling.
        deadline: when its answer is of no use any more, on the planner's clock.
        arrived: when it came.
        previews: scales after which what is known is shown.
        on_preview: called from a worker's thread.
        kept: what inpainting keeps.
        future: of the answer; cancelled where nobody wants it any more.
    """

    run: Run
    allowed: tuple[int, ...]
    deadline: float
    arrived: float = 0.0
    previews: frozenset[int] = frozenset()
    on_preview: Callable[[Preview], None] | None = None
    kept: Kept | None = None
    future: Future[Served] = field(default_factory=Future)
    taken: int = 0
    started: float | None = None
    batch: int = 0
    drawn: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint16]]] = field(default_factory=dict)
    kinds: dict[int, Kind] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many are asked for."""
        return len(self.run.labels)

    def kind(self, n_draft: int, manifest: Manifest) -> Kind:
        """Of its images, if N is that."""
        if n_draft not in self.kinds:
            self.kinds[n_draft] = Kind.of(replace(self.run, n_draft=n_draft), manifest)
        return self.kinds[n_draft]

    def over(self, now: float) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future.done() or now > self.deadline

    def take(self, count: int, n_draft: int, now: float) -> Iterator[Row]:
        """Hand out the next images; the first decides N for all."""
        if self.started is None:
            self.started, self.run = now, replace(self.run, n_draft=n_draft)
        for index in range(self.taken, self.taken + count):
            yield Row(self, index, self.run[index : index + 1])
        self.taken += count

    def put(self, index: int, image: NDArray[np.uint8], tokens: NDArray[np.uint16], batch: int) -> bool:
        """Keep one drawn image [H, W, 3]; whether it was the last."""
        self.drawn[index] = (image, tokens)
        self.batch = max(self.batch, batch)
        return len(self.drawn) == self.images

    def answer(self, provenance: Provenance, now: float) -> None:
        """Give the caller everything that was drawn."""
        images = np.stack([self.drawn[i][0] for i in range(self.images)])
        if self.kept is not None:
            images = self.kept.over(images)
        tokens = np.stack([self.drawn[i][1] for i in range(self.images)])
        made = replace(provenance, batch_size=self.batch)
        started = self.arrived if self.started is None else self.started
        labels, seeds = self.run.numbers
        wait, work = started - self.arrived, now - started
        served = Served(images, tokens, labels, seeds, made, self.run.n_draft, wait, work)
        self._settle(lambda: self.future.set_result(served))

    def fail(self, error: BaseException) -> None:
        """Tell the caller what went wrong, unless it has an answer or has gone."""
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, act: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile, from another thread
            if not self.future.done():
                act()


@dataclass(frozen=True, eq=False)
class Row:
    """One image of a request, to be drawn: its place there, and the request for it alone."""

    ticket: Ticket
    index: int
    run: Run
