"""Reading a model's shape off its state dict, and the shapes of the models that random weights stand in for."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import overload

import torch
from torch import Tensor

from trt_var.bundle.manifest import HEAD_WIDTH, Role
from trt_var.errors import CheckpointError
from trt_var.schedule import Schedule
from trt_var_export.models.transformer import Transformer, TransformerShape
from trt_var_export.models.vqvae import GROUPS, Vqvae, VqvaeShape
from trt_var_export.weights.files.tensors import Checkpoint, check_keys, shown

MAX_BLOCKS, MAX_LEVELS, MAX_PHIS = 128, 16, 64
MAX_DIMENSION = 1 << 20
MAX_SCALES, MAX_SIDE = 64, 256
SMALL, LARGE = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)  # released, 256 and 512 pixels
KNOWN = {(sum(side**2 for side in sides), len(sides)): sides for sides in (SMALL, LARGE)}  # by positions and scales
Shapes = Mapping[str, tuple[int, ...]]
log = logging.getLogger(__name__)


def transformer_shape(checkpoint: Checkpoint, what: str, schedule: Schedule | None = None) -> TransformerShape:
    """The shape of a VAR transformer, checked against every key of its checkpoint; no weight is read.

    Args:
        what: the model's role, for messages.
        schedule: patch sides; without them, those that the buffer lvl_1L tells.

    Raises:
        CheckpointError: with every missing, extra or misshapen key; a size out of range; no schedule.
    """
    shapes = checkpoint.shapes
    width, code_width = _dimensions(shapes, "word_embed.weight", 2, what)
    _check_generation(shapes, what)
    shape = TransformerShape(
        depth=_count(shapes, "blocks.", MAX_BLOCKS, what),
        width=width,
        heads=_dimensions(shapes, "blocks.0.attn.scale_mul_1H11", 4, what)[1],
        mlp_width=_dimensions(shapes, "blocks.0.ffn.fc1.weight", 2, what)[0],
        vocabulary=_dimensions(shapes, "head.weight", 2, what)[0],
        code_width=code_width,
        classes=_dimensions(shapes, "class_emb.weight", 2, what)[0] - 1,
        shared_aln="shared_ada_lin.1.weight" in shapes,
        schedule=schedule or _schedule(checkpoint, what),
    )
    if width != shape.heads * HEAD_WIDTH or shape.classes < 1:
        raise CheckpointError(
            f"the {what} has width {width}, {shape.heads} heads and {shape.classes} classes; "
            f"expected {HEAD_WIDTH} × heads as width, and a class"
        )
    check_keys(shapes, parameter_shapes(shape), what)
    return shape


def vqvae_shape(checkpoint: Checkpoint, what: str = "vae") -> VqvaeShape:
    """The shape of a VQVAE, checked against every key of its checkpoint; no weight is read.

    Raises:
        CheckpointError: with every missing, extra or misshapen key; a size out of range.
    """
    shapes = checkpoint.shapes
    channels = _dimensions(shapes, "encoder.conv_in.weight", 4, what)[0]
    levels = range(_count(shapes, "encoder.down.", MAX_LEVELS, what))
    outputs = [_dimensions(shapes, f"encoder.down.{i}.block.0.conv1.weight", 4, what)[0] for i in levels]
    vocabulary, code_width = _dimensions(shapes, "quantize.embedding.weight", 2, what)
    if channels % GROUPS or any(width % channels for width in outputs):
        raise CheckpointError(f"the {what}'s channels {channels} → {outputs} are no multiples of {GROUPS} and {channels}")
    shape = VqvaeShape(
        channels=channels,
        multipliers=tuple(width // channels for width in outputs),
        encoder_blocks=_count(shapes, "encoder.down.0.block.", MAX_BLOCKS, what),
        decoder_blocks=_count(shapes, "decoder.up.0.block.", MAX_BLOCKS, what),
        code_width=code_width,
        vocabulary=vocabulary,
        phis=_count(shapes, "quantize.quant_resi.qresi_ls.", MAX_PHIS, what),
    )
    check_keys(shapes, parameter_shapes(shape), what)
    return shape


def check_belonging(shapes: Mapping[Role, TransformerShape], vae: VqvaeShape) -> None:
    """Drafter, refiner if there is one, and VQVAE must speak of the same tokens, scales and classes.

    Raises:
        CheckpointError: with every difference.
    """
    drafter = shapes["drafter"]
    facts: list[tuple[str, object, object]] = [
        ("the vae's codebook size", vae.vocabulary, drafter.vocabulary),
        ("the vae's codebook width", vae.code_width, drafter.code_width),
    ]
    if "refiner" in shapes:
        refiner = shapes["refiner"]
        facts += [
            ("the refiner's scales", refiner.schedule.sides, drafter.schedule.sides),
            ("the refiner's classes", refiner.classes, drafter.classes),
            ("the refiner's codebook size", refiner.vocabulary, drafter.vocabulary),
            ("the refiner's codebook width", refiner.code_width, drafter.code_width),
        ]
    differences = [f"{what}: {found}, the drafter has {expected}" for what, found, expected in facts if found != expected]
    if differences:
        raise CheckpointError("these models do not belong together: " + "; ".join(differences))


def parameter_shapes(shape: TransformerShape | VqvaeShape) -> dict[str, tuple[int, ...]]:
    """Every key and shape of a model's state dict."""
    return {key: tuple(value.shape) for key, value in unfilled(shape).named_parameters()}


@overload
def unfilled(shape: TransformerShape) -> Transformer: ...
@overload
def unfilled(shape: VqvaeShape) -> Vqvae: ...
def unfilled(shape: TransformerShape | VqvaeShape) -> Transformer | Vqvae:
    """A model whose parameters have shapes but no memory."""
    with torch.device("meta"):
        model = Transformer(shape) if isinstance(shape, TransformerShape) else Vqvae(shape)
    return model.eval().requires_grad_(False)


@overload
def hollow(shape: TransformerShape) -> Transformer: ...
@overload
def hollow(shape: VqvaeShape) -> Vqvae: ...
def hollow(shape: TransformerShape | VqvaeShape) -> Transformer | Vqvae:
    """A model whose parameters are memory that nobody has touched, so that it costs none: tracing reads no values."""
    model = unfilled(shape)
    model.to_empty(device="cpu")
    if isinstance(model, Transformer):
        model.set_levels()
    return model


def released_shape(depth: int) -> TransformerShape:
    """A released VAR of this depth: width 64·depth, ImageNet classes; depth 36 is the 512×512 model."""
    large = depth == 36
    sides = LARGE if large else SMALL
    return TransformerShape(depth, 64 * depth, depth, 256 * depth, 4096, 32, 1000, large, Schedule(sides))


def released_vqvae_shape(channels: int = 160) -> VqvaeShape:
    """The released VQVAE, or one of other width."""
    return VqvaeShape(channels, (1, 1, 2, 2, 4), 2, 3, 32, 4096, 4)


def _check_generation(shapes: Shapes, what: str) -> None:
    """Refuse a transformer whose attention is not the released models'."""
    blocks = [key for key in shapes if key.startswith("blocks.") and key.endswith(".attn.mat_qkv.weight")]
    if blocks and not any(key.endswith(".scale_mul_1H11") for key in shapes):
        raise CheckpointError(
            f"the {what}'s checkpoint has no blocks.0.attn.scale_mul_1H11: it is a VAR of the first generation, or was "
            f"trained with attn_l2_norm=False: attention that takes queries and keys as they are, where the released models "
            f"normalise them and learn a scale. Take today's weights (--{what} d16 fetches them), or train with "
            f"attn_l2_norm=True"
        )


def _schedule(checkpoint: Checkpoint, what: str) -> Schedule:
    """Patch sides from the buffer that holds the level of every position, or of a released model from its positions."""
    shape = checkpoint.shapes.get("lvl_1L")
    if shape is None:
        positions, scales = (checkpoint.shapes.get(key, ()) for key in ("pos_1LC", "lvl_embed.weight"))
        if len(positions) == 3 and len(scales) == 2 and (known := KNOWN.get((positions[1], scales[0]))):
            log.warning(
                "the %s's checkpoint has no lvl_1L, which tells its scales; with %d positions on %d scales it is taken for "
                "the released schedule %s; give --schedule if it has another",
                *(what, positions[1], scales[0], ",".join(map(str, known))),
            )
            return Schedule(known)
        raise CheckpointError(f"the {what}'s checkpoint has no lvl_1L, which tells its scales: give --schedule 1,2,3,…")
    if not 1 <= math.prod(shape) <= MAX_DIMENSION:
        raise CheckpointError(
            f"the {what}'s lvl_1L has shape {list(shape)}; expected [1, L], 1 to {MAX_DIMENSION} positions"
        )
    levels = checkpoint.load("lvl_1L").flatten()
    sides = _sides(levels)
    if not sides:
        raise CheckpointError(
            f"the {what}'s lvl_1L does not hold the scale of every position, 0, 1, 1, 1, 1, 2, … in order, with up to "
            f"{MAX_SCALES} scales of squares up to {MAX_SIDE}²: give --schedule 1,2,3,… if the rest is right"
        )
    return Schedule(sides)


def _sides(levels: Tensor) -> tuple[int, ...]:
    """Patch sides by the levels [L] of all positions; empty if they are no levels."""
    if levels.dtype.is_complex or not bool(((levels >= 0) & (levels < MAX_SCALES)).all()):
        return ()
    counts = torch.bincount(levels.long()).tolist()
    sides = tuple(math.isqrt(count) for count in counts)
    if 0 in sides or max(sides) > MAX_SIDE or levels.tolist() != Schedule(sides).levels():
        return ()
    return sides


def _count(keys: Iterable[str], prefix: str, limit: int, what: str) -> int:
    """One more than the highest index after the prefix: 1 to ``limit``, however many digits a key has."""
    count = 0
    for key in keys:
        if found := re.match(re.escape(prefix) + r"(\d+)\.", key, re.ASCII):
            index = int(found[1]) if len(found[1]) < 6 else limit
            if index >= limit:
                raise CheckpointError(f"the {what}'s checkpoint has {shown(key)}; expected indices below {limit}")
            count = max(count, index + 1)
    if not count:
        raise CheckpointError(f"the {what}'s checkpoint has no {prefix}0: is it another kind of model?")
    return count


def _dimensions(shapes: Shapes, key: str, rank: int, what: str) -> tuple[int, ...]:
    shape = shapes.get(key)
    if shape is None:
        listed = ", ".join(shown(name) for name in list(shapes)[:4]) or "nothing"
        raise CheckpointError(f"the {what}'s checkpoint has no {key}: is it another kind of model? It begins with {listed}")
    if len(shape) != rank:
        raise CheckpointError(f"the {what}'s {key} has shape {list(shape)}, expected {rank} dimensions")
    if not all(1 <= length <= MAX_DIMENSION for length in shape):
        raise CheckpointError(f"the {what}'s {key} has shape {list(shape)}, expected lengths from 1 to {MAX_DIMENSION}")
    return shape
