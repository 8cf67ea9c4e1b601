"""A thread that feeds one device: takes a batch whenever the device is free, and gives every image to its request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from trt_var.backends.failures import out_of_memory
from trt_var.decoding.loop import DecodedScale
from trt_var.errors import BackendError, DeadlineError, TrtVarError
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import Run
from trt_var.requests.provenance import Provenance, provenance_of
from trt_var.serving.batching.dispatch import Dispatch
from trt_var.serving.batching.drawing import Drawn, draw_rows
from trt_var.serving.batching.planning import Batch
from trt_var.serving.batching.tickets import LATE, Row
from trt_var.serving.batching.watching import Watcher

log = logging.getLogger(__name__)
NAME = "trt-var-engine"


class Worker(threading.Thread):
    """Ends when the dispatch is closed and empty, or has failed."""

    def __init__(self, pipeline: Pipeline, dispatch: Dispatch, watcher: Watcher, lone: bool = False) -> None:
        super().__init__(name=NAME, daemon=True)
        self._pipeline, self._dispatch, self._watcher, self._lone = pipeline, dispatch, watcher, lone
        self._made: Provenance | None = None

    def run(self) -> None:
        """Draw until there is nothing more to draw."""
        batch: Batch | None = None
        try:
            while (batch := self._dispatch.take(self._lone)) is not None:
                self._serve(batch)
        except BaseException as error:  # whatever ends this thread, callers must not wait for ever
            log.exception("the engine's thread ended")
            self._dispatch.break_down(f"the engine's thread ended: {type(error).__name__}: {error}", batch)

    def _serve(self, batch: Batch) -> None:
        now = self._dispatch.clock()
        self._watcher.began(len(batch.rows), [now - row.ticket.arrived for row in batch.rows])
        try:
            drawn = self._draw(batch.rows)
        except (TrtVarError, MemoryError) as error:
            self._dispatch.finished(batch, whole=False)
            self._watcher.failed(len(batch.rows))
            self._isolate(batch, error)
            return
        self._dispatch.finished(batch, whole=drawn is not None)
        if drawn is None:
            self._watcher.cancelled("running", len(batch.rows))
            self._answer_late(batch.rows)
            return
        self._watcher.batch(batch.n_draft, len(batch.rows), self._dispatch.clock() - batch.began)
        self._dispatch.sound()
        self._give(batch.rows, drawn)

    def _draw(self, rows: Sequence[Row]) -> Drawn | None:
        return draw_rows(self._pipeline, rows, lambda: self._wanted(rows), self._timed(), self._provenance)

    def _wanted(self, rows: Sequence[Row]) -> bool:
        now = self._dispatch.clock()
        return not all(row.ticket.over(now) for row in rows)

    def _timed(self) -> Callable[[DecodedScale], None]:
        last = time.perf_counter()

        def on_scale(scale: DecodedScale) -> None:
            nonlocal last
            now = time.perf_counter()
            self._watcher.scale(scale.index, now - last)
            last = now

        return on_scale

    def _isolate(self, batch: Batch, error: Exception) -> None:
        """Draw the images of a failed batch one by one, once: what one of them breaks fails alone."""
        log.warning("a batch of %d failed, its images are drawn one by one: %s", len(batch.rows), error)
        if out_of_memory(error):
            self._dispatch.halve()
        tried = failures = 0
        for row in batch.rows:
            if row.ticket.over(self._dispatch.clock()):  # gone, late, or failed over another of its images
                continue
            tried += 1
            try:
                drawn = self._draw([row])
            except (TrtVarError, MemoryError) as again:
                failures += 1
                self._dispatch.forget(row.ticket)
                row.ticket.fail(again if isinstance(again, TrtVarError) else BackendError(f"out of memory: {again}"))
            else:
                if drawn is not None:
                    self._give([row], drawn)
        if failures and failures == tried:
            self._dispatch.failed(str(error))
        elif tried:
            self._dispatch.sound()

    def _give(self, rows: Sequence[Row], drawn: Drawn) -> None:
        now = self._dispatch.clock()
        for row, image, tokens in zip(rows, drawn.images, drawn.tokens, strict=True):
            ticket = row.ticket
            if ticket.future.cancelled():
                self._watcher.cancelled("running", 1)
            if not ticket.put(row.index, image, tokens, len(rows)) or ticket.future.done():
                continue
            if now > ticket.deadline:
                self._answer_late([row])
                continue
            ticket.answer(self._provenance(ticket.run), now)

    def _provenance(self, run: Run) -> Provenance:
        """Of one request; what all have in common is found out once, since it takes a hash of the manifest."""
        if self._made is None:
            self._made = provenance_of(self._pipeline.chain_of(run), run, 1, self._pipeline.batch_invariant)
        given = None if run.region is None else "an image and a mask"
        return replace(self._made, n_draft=run.n_draft, sampling=run.sampling, given=given)

    def _answer_late(self, rows: Sequence[Row]) -> None:
        for ticket in {row.ticket for row in rows}:
            if not ticket.future.done():
                self._dispatch.forget(ticket)
                self._watcher.late(1)
                ticket.fail(DeadlineError(LATE))
