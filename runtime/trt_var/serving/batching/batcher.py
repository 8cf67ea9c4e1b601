"""The batcher: any number of callers, threads or coroutines, on one pipeline or several."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Literal

from trt_var.decoding.numbers import lies_in, shown, whole
from trt_var.decoding.sampling import Sampling
from trt_var.errors import DeadlineError, UsageError
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import Kept, Labels, Seeds
from trt_var.requests.results import Preview
from trt_var.serving.batching.dispatch import Dispatch, State
from trt_var.serving.batching.mailbox import Mailbox
from trt_var.serving.batching.planning import Planner
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.settings import LONGEST, Batching
from trt_var.serving.batching.sizing import choose
from trt_var.serving.batching.tickets import LATE, Served, Ticket
from trt_var.serving.batching.watching import Watcher
from trt_var.serving.batching.worker import Worker

LAST = 1.0  # seconds that an engine is waited for whose work nobody wants any more
NDraft = int | tuple[int, int] | Literal["auto"] | None


class Batcher:
    """Gathers requests of many callers into batches: whenever the device is free, it draws what waits, the oldest first.

    Images of one batch may differ in class, seed and settings. Every one is the one that ``Pipeline.generate`` draws, as
    far as that promises it of batches of any size.

    Example:
        >>> with Pipeline.load("digits") as pipeline, Batcher(pipeline, Batching(batch=2)) as batcher:
        ...     batcher.submit("seven", seed=7, n_draft=4).result().labels.tolist()
        [7]

    With ``async with``, and ``await batcher.generate(…)``, it serves coroutines.
    """

    def __init__(
        self,
        pipelines: Pipeline | Sequence[Pipeline],
        settings: Batching = Batching(),  # noqa: B008  # frozen
        watcher: Watcher | None = None,
        beside: Sequence[Pipeline] = (),
    ) -> None:
        """Pipelines, one a device, of one bundle: they share the queue. They stay the caller's to close.

        ``beside`` are several that share the cores of a single one, each on fewer threads: small models draw more so, while
        other work goes on beside them. The single one then draws lone images alone, which it does sooner.

        Raises:
            UsageError: a setting out of range, or pipelines of several bundles.
        """
        self.pipelines = [pipelines] if isinstance(pipelines, Pipeline) else list(pipelines)
        self._beside = list(beside)
        given = [*self.pipelines, *self._beside]
        if not self.pipelines or any(one.manifest != given[0].manifest for one in given):
            raise UsageError("a batcher needs a pipeline, or several of one bundle")
        if self._beside and len(self.pipelines) > 1:
            raise UsageError("pipelines beside are for a single one; these share no cores")
        settings.check(self.pipelines[0].manifest)
        self.settings, self._watcher = settings, watcher or Watcher()
        self.alone: dict[int, float] = {}  # measured seconds of a single image, by N
        self._dispatch: Dispatch | None = None
        self._workers: list[Worker] = []
        self._abandoned = False

    def start(self) -> None:
        """Load and compile, measure which batch pays, and begin to serve.

        Raises:
            BundleError, BackendError: a single image cannot be drawn.
        """
        manifest = self.pipelines[0].manifest
        line = choose(self.pipelines, self._beside, self.settings)
        self.alone = line.alone
        policy = Policy(self.settings.all_levels(manifest), self.settings.target)
        planner = Planner(manifest, policy, line.times, line.size, self.settings.waiting, len(line.working), line.fit)
        dispatch = Dispatch(planner, self._watcher, self.settings.failures, line.lone is not None)
        self._workers = [Worker(one, dispatch, self._watcher) for one in line.working]
        if line.lone is not None:
            self._workers.append(Worker(line.lone, dispatch, self._watcher, lone=True))
        self._dispatch = dispatch
        for worker in self._workers:
            worker.start()

    def close(self, patience: float | None = None) -> None:
        """Take nothing more in, draw what was taken in, end. What is not drawn after ``patience`` seconds is given up."""
        self.drain()
        for worker in self._workers:
            worker.join(LAST if self._abandoned else patience)
        self.abandon()

    def abandon(self) -> None:
        """Give up what waits and what is drawn."""
        self._abandoned = True
        if self._dispatch:
            self._dispatch.abandon()

    def drain(self) -> None:
        """Take nothing more in."""
        if self._dispatch:
            self._dispatch.drain()

    @property
    def state(self) -> State:
        """Whether it serves."""
        if self._dispatch is None:
            return State.STARTING
        broken = self._dispatch.state is State.READY and not all(worker.is_alive() for worker in self._workers)
        return State.FAILED if broken else self._dispatch.state

    @property
    def trouble(self) -> str:
        """Why it has failed."""
        return self._started().trouble

    @property
    def n_draft(self) -> int:
        """N of the next request that names none."""
        return self.planner.bearable(self.settings.levels(self.pipelines[0].manifest))

    @property
    def planner(self) -> Planner:
        """The queue, to read its numbers.

        Raises:
            UsageError: not started.
        """
        return self._started().look()

    def submit(
        self,
        labels: Labels,
        *,
        seed: Seeds = 0,
        n_draft: NDraft = None,
        sampling: Sampling | str = "default",
        timeout: float | None = None,
        kept: Kept | None = None,
        previews: Collection[int] = (),
        mailbox: Mailbox | None = None,
    ) -> Future[Served]:
        """Put a request into the queue, from any thread.

        Args:
            labels, sampling: see ``Pipeline.generate``.
            seed: its ``seeds``: one for each image, or the first of consecutive ones.
            n_draft: scales that the drafter draws; or the least and the most, of which the load decides; or ``auto``, the
                batcher's own range; its own choice if not given.
            timeout: seconds after which the answer is of no use; the batcher's own if that is less.
            kept: what inpainting keeps, of ``Pipeline.kept``.
            previews: scales after which the mailbox gets what is known.
            mailbox: for previews.

        Returns:
            A future; cancelled, the request leaves the queue, or the batch ends early if nobody else waits for it.

        Raises:
            UsageError: a value out of range.
            OverloadedError: no room in the queue, or no time before the deadline.
            BackendError: the engine has failed for good.
        """
        dispatch, pipeline = self._started(), self.pipelines[0]
        allowed = self._allowed(n_draft)
        run = pipeline.prepare(labels, seeds=seed, n_draft=allowed[0], sampling=sampling, batch_size=1)
        if kept is not None:
            run = replace(run, region=kept.region)
        deadline = dispatch.clock() + self._timeout(timeout)
        on_preview = mailbox.put if mailbox else None
        ticket = Ticket(run, allowed, deadline, previews=frozenset(previews), on_preview=on_preview, kept=kept)
        dispatch.admit(ticket)
        return ticket.future

    async def generate(
        self,
        labels: Labels,
        *,
        seed: Seeds = 0,
        n_draft: NDraft = None,
        sampling: Sampling | str = "default",
        timeout: float | None = None,
        kept: Kept | None = None,
    ) -> Served:
        """As ``submit``, awaited; a cancelled task takes its request out of the queue.

        Raises:
            DeadlineError: not done in time.
            UsageError, OverloadedError, BackendError: see ``submit``.
        """
        future = self.submit(labels, seed=seed, n_draft=n_draft, sampling=sampling, timeout=timeout, kept=kept)
        return await self._awaited(future, timeout)

    def stream(
        self,
        labels: Labels,
        *,
        seed: Seeds = 0,
        n_draft: NDraft = None,
        sampling: Sampling | str = "default",
        timeout: float | None = None,
        kept: Kept | None = None,
        previews: Collection[int] | None = None,
    ) -> AsyncGenerator[Preview | Served, None]:
        """As ``generate`` for one image, which is in the queue when this returns.

        There is a preview after each of some scales (all but the last if not given), then the result.

        Who reads slowly loses previews, never the result.

        Raises:
            UsageError: also, more than one image.
            DeadlineError, OverloadedError, BackendError: see ``generate``.
        """
        scales = len(self.pipelines[0].manifest.schedule)
        wanted = range(scales - 1) if previews is None else previews
        mailbox = Mailbox(asyncio.get_running_loop())
        future = self.submit(
            labels,
            seed=seed,
            n_draft=n_draft,
            sampling=sampling,
            timeout=timeout,
            kept=kept,
            previews=wanted,
            mailbox=mailbox,
        )
        future.add_done_callback(lambda _: mailbox.close())
        found = self._shown(future, mailbox, timeout)
        weakref.finalize(found, future.cancel).atexit = False  # nobody may ever have begun to read it
        return found

    async def _shown(
        self, future: Future[Served], mailbox: Mailbox, timeout: float | None
    ) -> AsyncGenerator[Preview | Served, None]:
        loop, end = asyncio.get_running_loop(), asyncio.get_running_loop().time() + self._timeout(timeout)
        try:
            while (preview := await asyncio.wait_for(mailbox.take(), max(end - loop.time(), 0))) is not None:
                yield preview
            served: Served = await asyncio.wrap_future(future)
            yield served
        except asyncio.TimeoutError as error:
            self._watcher.late(1)
            raise DeadlineError(LATE) from error
        finally:
            future.cancel()

    async def _awaited(self, future: Future[Served], timeout: float | None) -> Served:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout(timeout))
        except asyncio.TimeoutError as error:
            self._watcher.late(1)
            raise DeadlineError(LATE) from error

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self.settings.timeout
        if not (lies_in(timeout, 0, LONGEST) and timeout > 0):
            raise UsageError(f"timeout is {shown(timeout)}; expected seconds, more than 0 and at most {LONGEST:g}")
        return min(timeout, self.settings.timeout)

    def _allowed(self, n_draft: NDraft) -> tuple[int, ...]:
        """N that a request bears, falling."""
        manifest = self.pipelines[0].manifest
        if n_draft is None or n_draft == "auto":
            return self.settings.levels(manifest)
        if not isinstance(n_draft, tuple):
            return (whole(n_draft, "n_draft"),)
        least, most = (whole(one, "n_draft") for one in n_draft)
        served = tuple(sorted((n for n in manifest.serves if least <= n <= most), reverse=True))
        if not served:
            known = ", ".join(map(str, manifest.serves))
            raise UsageError(f"n_draft is from {least} to {most}; this bundle serves N = {known}")
        return served

    def _started(self) -> Dispatch:
        if self._dispatch is None:
            raise UsageError("this batcher has not been started; use it with 'with' or 'async with'")
        return self._dispatch

    def __enter__(self) -> Batcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Batcher:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)
