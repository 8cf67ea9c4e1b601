"""The seam between the service and what draws: this machine's batcher here, other machines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from trt_var.decoding.sampling import PRESETS, Sampling
from trt_var.errors import DataError, TrtVarError, UsageError
from trt_var.pictures.reading import HALF, UNREADABLE, probe
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import Kept
from trt_var.requests.results import Preview
from trt_var.serving.batching.batcher import Batcher, NDraft
from trt_var.serving.batching.dispatch import State
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.tickets import Served
from trt_var.serving.batching.watching import Watcher

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Edit:
    """What inpainting starts from: picture files as they were sent; the mask is transparent where the image is redrawn."""

    image: bytes
    mask: bytes


@dataclass(frozen=True)
class Ask:
    """One request, as the protocols have it.

    Attributes:
        labels: class numbers or names.
        seeds: one for each.
        n_draft, sampling, timeout: see ``Batcher.submit``.
        previews: scales that are shown before the last, of a single image.
        edit: for inpainting.
    """

    labels: tuple[int | str, ...]
    seeds: tuple[int, ...]
    n_draft: NDraft = None
    sampling: Sampling | str = "default"
    timeout: float | None = None
    previews: frozenset[int] = frozenset()
    edit: Edit | None = None


class Description(msgspec.Struct, frozen=True):
    """What an engine serves.

    Attributes:
        backend: for people.
        exact: whether everything is computed in float32.
        reproducible: what of an image does not depend on the batch that it is drawn in: its ``tokens`` (pixels by one step
            of 255), the whole of its ``images``, or ``no`` promise.
        schedule: sides of the token maps.
        names: a line of names a class, or nothing.
        serves: N that can be asked for.
        ceiling, floor: N that load chooses from where a request leaves it open; equal if it does not.
        seconds: measured time of a single image, by N.
        batch: images drawn together at most.
        side_by_side: batches that are drawn at the same time.
        waiting: images that may wait.
        timeout: seconds after which a request is given up.
    """

    backend: str
    exact: bool
    reproducible: str
    schedule: tuple[int, ...]
    side: int
    vocabulary: int
    max_top_k: int
    classes: int
    names: tuple[str, ...]
    serves: tuple[int, ...]
    ceiling: int
    floor: int
    more_smooth: bool
    seconds: dict[int, float]
    batch: int
    side_by_side: int
    waiting: int
    timeout: float
    presets: tuple[str, ...] = tuple(PRESETS)

    @property
    def size(self) -> str:
        """Of an image, as OpenAI writes it."""
        return f"{self.side}x{self.side}"


class Engine(Protocol):
    """What the app asks for pictures. All errors are ``TrtVarError``."""

    async def start(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Draw what was taken in, then end."""

    def drain(self) -> None:
        """Take nothing more in."""

    def abandon(self) -> None:
        """Give up what waits and what is drawn: nobody has the time any more."""

    def state(self) -> State:
        """Whether it serves."""
        ...

    def describe(self) -> Description:
        """What it serves, once started."""
        ...

    async def generate(self, ask: Ask) -> Served:
        """Draw.

        Raises:
            UsageError, DataError: what is asked for cannot be meant.
            OverloadedError: not now.
            DeadlineError: not done in time.
            BackendError: the engine failed.
        """
        ...

    async def stream(self, ask: Ask) -> AsyncGenerator[Preview | Served, None]:
        """Draw one image, showing it after some scales; returns once it is in the queue. Errors as of ``generate``."""
        ...


class LocalEngine:
    """A batcher on this machine."""

    def __init__(
        self,
        pipelines: Pipeline | list[Pipeline],
        settings: Batching = Batching(),  # noqa: B008  # frozen
        watcher: Watcher | None = None,
        beside: Sequence[Pipeline] = (),
        most_pixels: int = 16_000_000,
    ) -> None:
        """As ``Batcher``; ``most_pixels`` of a picture that is sent."""
        self.batcher = Batcher(pipelines, settings, watcher, beside)
        self._pipeline, self._most_pixels = self.batcher.pipelines[0], most_pixels
        self._encoding = asyncio.Semaphore(1)  # one at a time: an encoder's memory is not counted

    async def start(self) -> None:
        """See ``Engine``."""
        if self.batcher.state is State.STARTING:
            await asyncio.to_thread(self.batcher.start)

    async def close(self) -> None:
        """See ``Engine``."""
        await asyncio.to_thread(self.batcher.close)

    def drain(self) -> None:
        """See ``Engine``."""
        self.batcher.drain()

    def abandon(self) -> None:
        """See ``Engine``."""
        self.batcher.abandon()

    def state(self) -> State:
        """See ``Engine``."""
        return self.batcher.state

    def describe(self) -> Description:
        """See ``Engine``."""
        manifest, settings, pipeline = self._pipeline.manifest, self.batcher.settings, self._pipeline
        planner, levels = self.batcher.planner, settings.levels(manifest)
        return Description(
            backend=pipeline.backend,
            exact=pipeline.exact,
            reproducible="images" if pipeline.batch_invariant else "tokens" if pipeline.exact else "no",
            schedule=tuple(manifest.schedule),
            side=manifest.image_side,
            vocabulary=manifest.vocabulary,
            max_top_k=manifest.max_top_k,
            classes=manifest.classes,
            names=pipeline.class_names,
            serves=tuple(manifest.serves),
            ceiling=levels[0],
            floor=levels[-1],
            more_smooth=manifest.smooth is not None and all(one.logits for one in manifest.models.values()),
            seconds=self.batcher.alone,
            batch=planner.size,
            side_by_side=planner.devices,
            waiting=settings.waiting,
            timeout=settings.timeout,
        )

    async def generate(self, ask: Ask) -> Served:
        """See ``Engine``."""
        kept = await self._kept(ask)
        return await self.batcher.generate(
            ask.labels, seed=ask.seeds, n_draft=ask.n_draft, sampling=ask.sampling, timeout=ask.timeout, kept=kept
        )

    async def stream(self, ask: Ask) -> AsyncGenerator[Preview | Served, None]:
        """See ``Engine``."""
        kept = await self._kept(ask)
        return self.batcher.stream(
            ask.labels,
            seed=ask.seeds,
            n_draft=ask.n_draft,
            sampling=ask.sampling,
            timeout=ask.timeout,
            kept=kept,
            previews=ask.previews,
        )

    async def _kept(self, ask: Ask) -> Kept | None:
        if ask.edit is None:
            return None
        async with self._encoding:
            return await asyncio.to_thread(self._encoded, ask.edit)

    def _encoded(self, edit: Edit) -> Kept:
        """Pictures go through files, which are looked at as any user's are: kind, size, damage."""
        with tempfile.TemporaryDirectory(prefix="trt-var-") as folder:
            try:
                paths = {name: Path(folder) / name for name in ("image", "mask")}
                for name, path in paths.items():
                    path.write_bytes(getattr(edit, name))
                    self._check_size(name, path)
                    probe(path)
                return self._pipeline.kept(paths["image"], _redrawn(paths["mask"]))
            except TrtVarError as error:
                raise _without(folder, error) from error

    def _check_size(self, name: str, path: Path) -> None:
        """Look at a picture's header alone; what is no picture is told by ``probe``."""
        from PIL import Image  # needed by those alone who send pictures

        width = height = 0
        with contextlib.suppress(*UNREADABLE, Image.DecompressionBombError), Image.open(path) as image:
            width, height = image.size
        if width * height > self._most_pixels:
            raise UsageError(f"{name} has {width}×{height} pixels; expected {self._most_pixels} at most")


def _without(folder: str, error: TrtVarError) -> TrtVarError:
    """An error of a sent picture in its sender's words: where it lay here is of no interest to anyone."""
    told = str(error).replace(f"{folder}/", "the ")
    return UsageError(told) if isinstance(error, (UsageError, DataError)) else type(error)(told)


def _redrawn(path: Path) -> Image:
    """A mask, white where it is redrawn, from one that is transparent there.

    Raises:
        UsageError: it has no transparency, or none that is transparent.
    """
    from PIL import Image  # needed by those alone who send pictures

    try:
        with Image.open(path) as mask:
            alpha = mask.convert("RGBA").getchannel("A") if mask.has_transparency_data else None
    except UNREADABLE as error:
        raise DataError(f"the mask cannot be read: {error}") from error
    if alpha is None:
        raise UsageError("the mask has no transparency; expected a PNG, transparent where the image is redrawn")
    redrawn = alpha.point([255] * HALF + [0] * HALF)
    if redrawn.getbbox() is None:
        raise UsageError("the mask is transparent nowhere; nothing would be redrawn")
    return redrawn
