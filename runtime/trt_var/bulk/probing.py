"""How a machine proves that it computes what another does: by a batch that is drawn and hashed."""

from __future__ import annotations

import hashlib

import numpy as np

from trt_var.bulk.recipe import Bulk, Drawer
from trt_var.pipeline import Pipeline

SIZE = 2  # images, where the batch size does not matter


def drawer_of(pipeline: Pipeline) -> Drawer:
    """What draws, as far as a recipe is concerned."""
    return Drawer(pipeline.engine, pipeline.exact, pipeline.batch_invariant)


def size_of(drawer: Drawer, bulk: Bulk) -> int:
    """How many images a probe has."""
    return min(SIZE if drawer.any_batch else bulk.batch_size, bulk.num, bulk.shard)


def probe(pipeline: Pipeline, bulk: Bulk) -> str:
    """The sha256 of tokens and pixels of one batch, which is drawn as those of the series are.

    Equal on two machines, it is as good as certain that they draw the same series: one product that is rounded otherwise
    changes a pixel somewhere. Where the batch size does not matter, it has no part in this.

    Raises:
        UsageError: a value out of range.
        BackendError: the engine failed.
    """
    size = size_of(drawer_of(pipeline), bulk)
    labels = [i % pipeline.manifest.classes for i in range(size)]
    drawn = pipeline.generate(labels, n_draft=bulk.n_draft, sampling=bulk.sampling, batch_size=size)
    found = hashlib.sha256(drawn.tokens.astype(np.dtype("<u2")).tobytes())
    found.update(drawn.images.tobytes())
    return found.hexdigest()
