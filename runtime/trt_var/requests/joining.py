"""Images of several requests drawn in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trt_var.bundle.manifest import Manifest, Role
from trt_var.decoding.feeds import Request
from trt_var.decoding.sampling import gumbel, uniforms
from trt_var.requests.checking import Run


@dataclass(frozen=True)
class Kind:
    """What images that are drawn together have in common; class, seed and all other settings are each one's own."""

    n_draft: int
    scales: int
    more_smooth: bool
    unguided: frozenset[Role]

    @classmethod
    def of(cls, run: Run, manifest: Manifest) -> Kind:
        """Of a request; a model that guides nothing takes half the rows, so that it cannot share them with one that does."""
        unguided = run.sampling.unguided(len(manifest.schedule), run.n_draft)
        return cls(run.n_draft, run.scales(manifest), run.sampling.more_smooth, unguided)


def joined(images: Sequence[Run], manifest: Manifest, batch: int) -> Request:
    """One batch of requests for one image each, all of one kind; the last is repeated where the batch is larger."""
    rows = [images[min(i, len(images) - 1)] for i in range(batch)]
    seeds = [run.seeds[0] for run in rows]
    length = sum(side**2 for side in manifest.schedule)
    smooth = rows[0].sampling.more_smooth
    return Request(
        labels=tuple(run.labels[0] for run in rows),
        uniforms=np.ascontiguousarray(uniforms(seeds, length)),
        n_draft=rows[0].n_draft,
        sampling=tuple(run.sampling for run in rows),
        region=tuple(run.region for run in rows),
        noise=gumbel(seeds, length, manifest.vocabulary) if smooth else None,
    )
