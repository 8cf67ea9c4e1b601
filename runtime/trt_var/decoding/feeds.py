"""What a decoding reads from the host: a batch's labels, random numbers, settings and regions, as arrays by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Buffer
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.passes import last_scales
from trt_var.decoding.chain import Chain
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.schedule import Schedule

SETTINGS = ("uniforms", "guidance", "temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Region:
    """What of a given image is kept while the rest is drawn, the same for a whole batch (the VAR paper, zero-shot editing).

    Attributes:
        keep: float32 [P, P], 1 where the image is kept and 0 where it is drawn.
        f_hats: float32 [K, Z, P, P], the given image's f_hat after every scale, from the encoder.
    """

    keep: NDArray[np.float32]
    f_hats: NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """What to draw for a batch of B images.

    Attributes:
        labels: class of each image.
        uniforms: float32 [L, B], the numbers that decide each position.
        n_draft: how many scales the drafter draws.
        sampling: checked settings, one for all images or one for each; of images drawn together, all have as many scales
            and the same models unguided.
        teacher: tokens [L, B] that replace the drawn ones in what later scales see, to compare models on equal input.
        region: what of a given image is kept, nothing without it; one for all images or one for each.
        noise: float32 [L, B, V], Gumbel noise for a chain with smooth graphs.
    """

    labels: tuple[int, ...]
    uniforms: NDArray[np.float32]
    n_draft: int
    sampling: Sampling | tuple[Sampling, ...]
    teacher: NDArray[np.integer] | None = None
    region: Region | tuple[Region | None, ...] | None = None
    noise: NDArray[np.float32] | None = None

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """The settings of each image."""
        return self.sampling if isinstance(self.sampling, tuple) else (self.sampling,) * len(self.labels)

    @property
    def regions(self) -> tuple[Region | None, ...]:
        """The region of each image."""
        return self.region if isinstance(self.region, tuple) else (self.region,) * len(self.labels)

    def scales(self, schedule: Schedule) -> int:
        """How many scales are drawn."""
        return self.samplings[0].scales or schedule.scales


def arrays(chain: Chain, request: Request) -> dict[str, NDArray[Any]]:
    """Everything that a decoding reads from the host, by name.

    float32 ``conditions.ROLE`` [R, M, C] of the roles that draw, R = 2B or, for one that guides nothing, B; ``f_hat``
    [B, Z, P, P] and ``features`` [L, B, Z] as the first scale sees them; for every scale k that is drawn ``uniforms.k``
    [n, B], ``guidance.k``, ``temperature.k``, ``top_p.k``, ``top_k.k`` [1, B] and perhaps ``teacher.k`` [n, B] and
    ``noise.k`` [n, B, V]; ``keep`` [B, 1, P, P] of what ``kept.k`` [B, Z, P, P], there only if something may be kept. One
    array a scale, for engines that want aligned addresses.
    """
    manifest, batch = chain.manifest, len(request.labels)
    schedule = Schedule(manifest.schedule)
    found: dict[str, NDArray[Any]] = {
        "f_hat": np.zeros((batch, manifest.code_width, schedule.side, schedule.side), np.float32),
        "features": np.zeros((schedule.length, batch, manifest.code_width), np.float32),
        "keep": np.zeros((batch, 1, schedule.side, schedule.side), np.float32),
    }
    if any(request.regions):
        kept = np.zeros((schedule.scales, *found["f_hat"].shape), np.float32)
        for image, region in enumerate(request.regions):
            if region is not None:
                found["keep"][image], kept[:, image] = region.keep, region.f_hats
        found |= {f"kept.{scale}": f_hat for scale, f_hat in enumerate(kept)}
    halved = _agreed(chain, request)
    for role in last_scales(request.scales(schedule), request.n_draft):
        found[f"conditions.{role}"] = _conditions(chain.transformers[role].conditions, request.labels, role in halved)
    settings = _settings(request, manifest)
    for scale in range(request.scales(schedule)):
        span = schedule.span(scale)
        found[f"uniforms.{scale}"] = request.uniforms[span]
        found |= {f"{name}.{scale}": rows[scale : scale + 1] for name, rows in settings.items()}
        if request.teacher is not None:
            found[f"teacher.{scale}"] = request.teacher[span].astype(np.int32)
        if request.noise is not None:
            found[f"noise.{scale}"] = request.noise[span]
    return found


def one_row(chain: Chain, n_draft: int, sampling: Sampling) -> frozenset[Role]:
    """The roles that take one row an image: nothing that they draw is guided, and graphs and backend bear it."""
    free = sampling.unguided(len(chain.manifest.schedule), n_draft)
    return frozenset(role for role in free if chain.manifest.one_row and chain.backend.takes_one_row(role))


def _agreed(chain: Chain, request: Request) -> frozenset[Role]:
    """The ``one_row`` of a whole batch.

    Raises:
        UsageError: images that cannot be drawn together.
    """
    wanted = {(one_row(chain, request.n_draft, one), one.scales, one.more_smooth) for one in set(request.samplings)}
    if len(wanted) > 1:
        raise UsageError("images that differ in scales, smoothing or in which models guide cannot be drawn together")
    return wanted.pop()[0]


def upload(chain: Chain, request: Request) -> dict[str, Buffer]:
    """``arrays`` on the chain's backend."""
    return {name: chain.backend.upload(array) for name, array in arrays(chain, request).items()}


def _conditions(table: NDArray[np.floating], labels: tuple[int, ...], alone: bool) -> NDArray[np.float32]:
    """Rows of the labels and, unless they are ``alone``, of the null class for each [R, M, C].

    Each row is widened once, which is what takes long.
    """
    rows = np.array([*labels, *[table.shape[0] - 1] * (0 if alone else len(labels))])
    found = np.empty((rows.size, *table.shape[1:]), np.float32)
    for row in np.unique(rows):
        found[rows == row] = table[row].astype(np.float32)
    return found


def _settings(request: Request, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Settings by scale [K, B]."""
    scales, samplings = len(manifest.schedule), request.samplings
    numbers = {one: one.resolved(manifest.vocabulary, manifest.max_top_k, manifest.untruncated) for one in set(samplings)}
    images = [numbers[one] for one in samplings]
    return {
        "guidance": np.stack([one.guidance(scales) for one in images], 1),
        "temperature": np.array([one.temperatures(scales) for one in images], np.float32).T,
        "top_p": np.tile(np.array([one.top_p for one in images], np.float32), (scales, 1)),
        "top_k": np.tile(np.array([one.top_k for one in images], np.int32), (scales, 1)),
    }
