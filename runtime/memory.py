"""What memory a bundle needs by batch size and N, from its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass

from trt_var.decoding import DECODER_BATCH
from trt_var.manifest import Manifest, Role
from trt_var.schedule import Schedule

FLOAT = 4


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations


def item_size(manifest: Manifest) -> int:
    """Bytes of a number in products and cache."""
    return 2 if manifest.precision == "fp16" else FLOAT


def need(manifest: Manifest, n_draft: int, batch: int) -> Memory:
    """Weights of the models in use, the larger cache, and the larger of the last scale's and the decoder's maps.

    The drafter's cache is released at the hand-over. Counted at the widest moment of a pass: the MLP's hidden rows,
    scores of one attention layer, logits and candidates; four maps of full resolution in the decoder, which takes
    large batches in pieces.
    """
    schedule = Schedule(manifest.schedule)
    scales = schedule.scales
    ends: dict[Role, int] = {}
    if n_draft > 0:
        ends["drafter"] = n_draft
    if n_draft < scales:
        ends["refiner"] = scales
    graphs = [manifest.decoder, *manifest.quantiser[:1]] + [manifest.models[role].step for role in ends]
    item = item_size(manifest)
    caches, passes = [], []
    for role, end in ends.items():
        model, tokens = manifest.models[role], schedule.tokens(end - 1)
        caches.append(4 * batch * schedule.begin(end - 1) * model.width * model.depth * item)
        hidden = 2 * batch * tokens * 4 * model.width * 2 * FLOAT
        scores = 2 * batch * model.heads * tokens * schedule.begin(end) * FLOAT
        logits = 3 * batch * tokens * manifest.vocabulary * FLOAT
        passes.append(max(hidden, scores, logits))
    decoder = 4 * min(batch, DECODER_BATCH) * manifest.image_side**2 * manifest.vae_channels * FLOAT
    weights = sum(manifest.files[graph.weights].size for graph in graphs)
    return Memory(weights, max(caches), max(*passes, decoder))
