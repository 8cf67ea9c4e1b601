"""Reading a model's shape off its state dict, and the shapes of the models that random weights stand in for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import overload

import torch
from torch import Tensor
from trt_var.errors import CheckpointError
from trt_var.export.checkpoint import Checkpoint, check_keys
from trt_var.export.transformer import Transformer, TransformerShape
from trt_var.export.vqvae import GROUPS, Vqvae, VqvaeShape
from trt_var.schedule import Schedule

Shapes = Mapping[str, tuple[int, ...]]


def transformer_shape(checkpoint: Checkpoint, what: str, schedule: Schedule | None = None) -> TransformerShape:
    """The shape of a VAR transformer, checked against every key of its checkpoint.

    Raises:
        CheckpointError: with every missing, extra or misshapen key.
    """
    shapes = checkpoint.shapes
    width, code_width = _dimensions(shapes, "word_embed.weight", 2, what)
    shape = TransformerShape(
        depth=_count(shapes, r"blocks\.(\d+)\."),
        width=width,
        heads=_dimensions(shapes, "blocks.0.attn.scale_mul_1H11", 4, what)[1],
        mlp_width=_dimensions(shapes, "blocks.0.ffn.fc1.weight", 2, what)[0],
        vocabulary=_dimensions(shapes, "head.weight", 2, what)[0],
        code_width=code_width,
        classes=_dimensions(shapes, "class_emb.weight", 2, what)[0] - 1,
        shared_aln="shared_ada_lin.1.weight" in shapes,
        schedule=schedule or _schedule(checkpoint, what),
    )
    check_keys(shapes, parameter_shapes(shape), what)
    return shape


def vqvae_shape(checkpoint: Checkpoint, what: str = "vae") -> VqvaeShape:
    """The shape of a VQVAE, checked against every key of its checkpoint.

    Raises:
        CheckpointError: with every missing, extra or misshapen key.
    """
    shapes = checkpoint.shapes
    channels = _dimensions(shapes, "encoder.conv_in.weight", 4, what)[0]
    levels = range(_count(shapes, r"encoder\.down\.(\d+)\."))
    outputs = [_dimensions(shapes, f"encoder.down.{i}.block.0.conv1.weight", 4, what)[0] for i in levels]
    vocabulary, code_width = _dimensions(shapes, "quantize.embedding.weight", 2, what)
    if channels % GROUPS or any(width % channels for width in outputs):
        raise CheckpointError(f"the {what}'s channels {channels} → {outputs} are no multiples of {GROUPS} and {channels}")
    shape = VqvaeShape(
        channels=channels,
        multipliers=tuple(width // channels for width in outputs),
        encoder_blocks=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        decoder_blocks=_count(shapes, r"decoder\.up\.0\.block\.(\d+)\."),
        code_width=code_width,
        vocabulary=vocabulary,
        phis=_count(shapes, r"quantize\.quant_resi\.qresi_ls\.(\d+)\."),
    )
    check_keys(shapes, parameter_shapes(shape), what)
    return shape


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
    sides = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32) if large else (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    return TransformerShape(depth, 64 * depth, depth, 256 * depth, 4096, 32, 1000, large, Schedule(sides))


def released_vqvae_shape(channels: int = 160) -> VqvaeShape:
    """The released VQVAE, or one of other width."""
    return VqvaeShape(channels, (1, 1, 2, 2, 4), 2, 3, 32, 4096, 4)


def _schedule(checkpoint: Checkpoint, what: str) -> Schedule:
    """Patch sides from the buffer that holds the level of every position."""
    if "lvl_1L" not in checkpoint.shapes:
        raise CheckpointError(f"the {what}'s checkpoint has no lvl_1L, which tells its scales: give --schedule 1,2,3,…")
    counts: Tensor = torch.bincount(checkpoint.load("lvl_1L").flatten().long())
    sides = tuple(math.isqrt(int(count)) for count in counts)
    if any(side**2 != count for side, count in zip(sides, counts.tolist(), strict=True)) or 0 in sides:
        raise CheckpointError(f"the {what}'s lvl_1L counts {counts.tolist()} tokens a scale; expected squares")
    return Schedule(sides)


def _count(keys: Iterable[str], pattern: str) -> int:
    return 1 + max((int(found[1]) for key in keys if (found := re.match(pattern, key))), default=-1)


def _dimensions(shapes: Shapes, key: str, rank: int, what: str) -> tuple[int, ...]:
    shape = shapes.get(key)
    if shape is None:
        listed = ", ".join(list(shapes)[:4])
        raise CheckpointError(f"the {what}'s checkpoint has no {key}: is it another kind of model? It begins with {listed}")
    if len(shape) != rank:
        raise CheckpointError(f"the {what}'s {key} has shape {list(shape)}, expected {rank} dimensions")
    return shape
