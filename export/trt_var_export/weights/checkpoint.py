"""Checkpoints: what opens them, and what the rest of the package needs of them."""

from __future__ import annotations

from pathlib import Path

from trt_var.errors import CheckpointError
from trt_var_export.weights.files.choosing import TRANSFORMER, VQVAE, choose
from trt_var_export.weights.files.folders import open_all
from trt_var_export.weights.files.reading import read_torch
from trt_var_export.weights.files.tensors import Checkpoint, StateDict, check_keys, shown
from trt_var_export.weights.random_weights import RandomWeights

__all__ = ["Checkpoint", "RandomWeights", "StateDict", "check_keys", "open_checkpoint", "read_torch", "shown"]
KINDS = {"var_wo_ddp": TRANSFORMER, "vae_local": VQVAE}


def open_checkpoint(path: Path, part: str, key: str | None = None, option: str = "--key") -> Checkpoint:
    """Open a file of weights in any format, shards, or a folder of these; told apart by content.

    Args:
        part: ``var_wo_ddp`` for a transformer, ``vae_local`` for a VQVAE, as VAR's training names them; the model is found
            wherever the file keeps it. Empty for all tensors as they are.
        key: where in the file to look, if it holds several: ``ema``, ``trainer.var_wo_ddp``.
        option: what gives the key, for messages.

    Raises:
        CheckpointError: no such file, not of weights, damaged, of another kind of model, or with several and no key.
    """
    checkpoint = open_all(path)
    if part not in KINDS:
        if key is not None:
            raise CheckpointError(f"{shown(str(path))} is taken as it is, without {option}")
        return checkpoint
    return choose(checkpoint, KINDS[part], shown(str(path)), key, option)
