"""Writing trained weights under the released names, and reading models from any checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from trt_var.files.writing import replacing
from trt_var.schedule import Schedule
from trt_var_export.models.transformer import Transformer
from trt_var_export.models.vqvae import Vqvae
from trt_var_export.weights.architecture import hollow, transformer_shape, vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint
from trt_var_export.weights.names import as_metadata
from trt_var_training.var import initial_matrix


def load_transformer(checkpoint: Checkpoint, what: str, schedule: Schedule | None = None) -> Transformer:
    """A whole transformer on the CPU, float32, the layers included that a bundle holds as a table.

    Args:
        what: the model's role, for messages.
        schedule: patch sides, if the checkpoint does not tell them.

    Raises:
        CheckpointError: with every missing, extra or misshapen key; a weight that is no floating-point number.
    """
    model = hollow(transformer_shape(checkpoint, what, schedule))
    model.load_state_dict({key: checkpoint.load(key) for key in model.state_dict()})
    return model


def renew_classes(model: Transformer, classes: int, seed: int) -> Transformer:
    """Give a model other classes, in place: new embeddings, as initial weights are; the null class stays the last row.

    Args:
        seed: the same seed gives the same rows.
    """
    known = model.class_emb.weight
    rows = torch.empty(classes + 1, model.shape.width)
    initial_matrix(rows, model.shape.width, torch.Generator().manual_seed(seed))
    rows[-1] = known[-1].detach()
    model.class_emb = nn.Embedding.from_pretrained(rows.to(known), freeze=not known.requires_grad)
    model.shape = replace(model.shape, classes=classes)
    return model


def load_vqvae(checkpoint: Checkpoint) -> Vqvae:
    """A whole VQVAE on the CPU, float32.

    Raises:
        CheckpointError: as ``load_transformer``.
    """
    model = hollow(vqvae_shape(checkpoint))
    model.load_state_dict({key: checkpoint.load(key) for key in model.state_dict()})
    return model


def save_weights(path: Path, model: nn.Module, half: bool = False, names: Sequence[str] | None = None) -> None:
    """Write a ``.safetensors`` file, for a transformer or VQVAE one that ``trt-var build`` takes.

    Args:
        half: in float16 instead of float32.
        names: a line of names a class, for the bundle that is built of the file.

    Raises:
        OutputError: no such folder, disk full.
    """
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    if isinstance(model, Transformer):
        state["lvl_1L"] = model.levels[None].cpu()
    data = save(state, as_metadata(names) or None)
    with replacing(path) as file:
        file.write(data)
