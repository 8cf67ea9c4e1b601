"""What memory a bundle needs by batch size and N, from its manifest alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.passes import last_scales
from trt_var.schedule import Schedule

FLOAT = 4
DECODER_BATCH = 8  # images that the decoder takes at once: maps of full resolution are what fills memory
MAX_BATCH = 256


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


def kept_positions(schedule: Schedule, scales: int, n_draft: int, role: Role, drops_outputs: bool) -> int:
    """How many positions a role's cache holds: nothing reads the keys and values of its last scale of those drawn.

    An engine that cannot leave outputs out still writes those of the drafter, often where the refiner's cache comes later.
    """
    last = last_scales(scales, n_draft)[role]
    return schedule.begin(last if drops_outputs or last == schedule.scales - 1 else last + 1)


def need(
    manifest: Manifest,
    n_draft: int,
    batch: int,
    *,
    drops_outputs: bool = True,
    shadowed: bool = False,
    one_row: Collection[Role] = (),
    drawn: int | None = None,
) -> Memory:
    """Weights of the models in use, the cache that they share, and the widest moment of a pass or of the decoder.

    At its widest a pass holds qkv, the MLP's hidden rows and a few residual ones, or the scores of one attention layer
    (float32 graphs alone: in half precision attention is fused), or logits and candidates. The decoder holds three maps of
    full resolution and takes large batches in pieces. Both were compared with the scratch memory that TensorRT-RTX's builder
    announces (docs/tensorrt.md). Inputs are the rows of the class tables and the features. Without ``drops_outputs``, as
    TensorRT, the drafter's last keys and values are written too, and the last scale's or a second engine without them,
    whichever is less. With ``shadowed``, both models hold a cache and work at the same time.
    The models of ``one_row`` take one row an image, the others two. ``drawn`` scales are drawn, all if not given.
    """
    schedule, item = Schedule(manifest.schedule), item_size(manifest)
    scales = drawn or schedule.scales
    ends = {role: last + 1 for role, last in last_scales(scales, n_draft).items()}
    weights = sum(manifest.files[graph.weights].size for graph in (manifest.decoder, manifest.quantiser[0]))
    caches, moments, inputs = [], [], 4 * batch * schedule.length * manifest.code_width
    for role, end in ends.items():
        model = manifest.models[role]
        step, rows = manifest.files[model.step.weights].size, batch if role in one_row else 2 * batch
        a_position = 2 * rows * model.width * model.depth * item
        caches.append(a_position * kept_positions(schedule, scales, n_draft, role, drops_outputs))
        last = schedule.tokens(end - 1)
        widest = max(last, schedule.begin(n_draft + 1) if role == "refiner" and n_draft else 0)
        hidden = rows * widest * model.width * (11 * item + 3 * FLOAT)
        scores = 0 if manifest.precision == "fp16" else rows * model.heads * widest * schedule.begin(end) * FLOAT
        moments.append(max(hidden, scores, 3 * batch * last * manifest.vocabulary * FLOAT))
        inputs += rows * model.vectors * model.width * FLOAT
        weights += step
        if not drops_outputs and end == scales:
            weights += min(step, a_position * last)
    decoder = 3 * min(batch, DECODER_BATCH) * manifest.image_side**2 * manifest.vae_channels * FLOAT
    both = sum if shadowed else max
    return Memory(weights, both(caches), inputs + max(both(moments), decoder))
