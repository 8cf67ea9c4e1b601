"""What ``--drafter``, ``--refiner`` and ``--vae`` may name: released weights, files, random weights."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from trt_var.errors import UsageError
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.weights.architecture import parameter_shapes, released_shape, released_vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint, RandomWeights, open_checkpoint, shown
from trt_var_export.weights.hub import fetch

log = logging.getLogger(__name__)
Part = Literal["drafter", "refiner", "vae"]


@dataclass(frozen=True)
class Repository:
    """Where released weights lie; ``revision`` is a commit, or a branch whose commit goes into the manifest."""

    name: str
    revision: str
    licence: str


VAR = Repository("FoundationVision/var", "6d0ee6598a42f75079aa79e58b012b57b284c91b", "MIT")
CODE = Repository("Zigeng/VAR_CoDe", "main", "MIT")
DDO = Repository("nvidia/DirectDiscriminativeOptimization", "main", "CC-BY-NC-SA-4.0")
CCA = Repository("ChenDRAG/CCA_VAR", "main", "MIT")
RELEASED = {
    **{f"d{depth}": (VAR, f"var_d{depth}.pth") for depth in (16, 20, 24, 30, 36)},
    **{f"d{depth}-cca": (CCA, f"CCA_VAR_Guidance_Free/VAR_d{depth}_CCA.pth") for depth in (16, 20, 24, 30)},
    **{f"d{depth}-ddo": (DDO, f"var_d{depth}-ddo.pth") for depth in (16, 30)},
}
RELEASED_VAE = "vae_ch160v4096z32.pth"
FINETUNED = (6, 7, 8, 9)
MAX_DEPTH, MAX_CHANNELS, SEED_DIGITS = 64, 512, 18
RANDOM_SEEDS: dict[Part, int] = {"drafter": 0, "refiner": 1, "vae": 2}


def resolve(text: str, part: Part, finetuned: int | None = None, key: str | None = None) -> Checkpoint:
    """Open what a command line names.

    Args:
        text: ``d16`` … ``d36``, ``d16-cca`` … ``d30-ddo`` (guidance-free) or ``default`` (the released VQVAE); a file,
            shard, index or folder of weights, whatever it is called; ``random:d30[:SEED]``, for the VQVAE
            ``random[:SEED]`` or ``random:ch32[:SEED]``.
        finetuned: take the released pair that CoDe tuned for this N instead of the plain d30 and d16; files are taken
            as they are.
        key: where in a file to look that holds several models, as ``checkpoint.open_checkpoint`` takes it.

    Raises:
        UsageError: a name that is none of these.
        CheckpointError: cannot be fetched or read.
    """
    text = os.path.expanduser(text)  # noqa: PTH111 - not every name is a path
    is_random, is_file = text.split(":")[0] == "random", _is_file(text)
    is_released = text == "default" if part == "vae" else text in RELEASED
    if key is not None and (is_random or is_released):
        raise UsageError(f"--{part}-key {shown(key)} looks into a file; --{part} {shown(text)} is none")
    if is_random:
        return _random(text, part)
    if part == "vae" and is_released:
        return _fetch(VAR, RELEASED_VAE, part)
    if part != "vae" and finetuned is not None and (is_released or not is_file):
        return _fetch_finetuned(text, part, finetuned)
    if is_released:
        return _fetch(*RELEASED[text], part)
    if not is_file:
        names = "default, random" if part == "vae" else f"{', '.join(RELEASED)}, random:dN"
        raise UsageError(
            f"--{part} {shown(text)!r} is neither a released name ({names}) nor a file or folder of weights that is there"
        )
    return open_checkpoint(Path(text), _part(part), key, f"--{part}-key")


def _is_file(text: str) -> bool:
    """Whether a text means a path: there is one, or it is written as one."""
    try:
        return bool(text) and (Path(text).suffix != "" or "/" in text or "\\" in text or Path(text).exists())
    except (OSError, ValueError):
        return False


def _part(part: Part) -> str:
    """What VAR's training calls it."""
    return "vae_local" if part == "vae" else "var_wo_ddp"


def _fetch_finetuned(text: str, part: Part, finetuned: int) -> Checkpoint:
    plain = {"drafter": "d30", "refiner": "d16"}[part]
    if finetuned not in FINETUNED or text != plain:
        raise UsageError(
            f"--finetuned takes N = {FINETUNED} with --drafter d30 --refiner d16, or files; "
            f"got {finetuned} with {shown(text)}"
        )
    return _fetch(CODE, f"{part}_{finetuned}.pth", part)


def _fetch(repository: Repository, name: str, part: Part) -> Checkpoint:
    path = fetch(repository.name, repository.revision, name)
    checkpoint = open_checkpoint(path, _part(part))
    revision = path.parents[name.count("/")].name  # of the hub's cache: snapshots/REVISION/NAME
    licence = repository.licence
    checkpoint.origin = {"repository": repository.name, "revision": revision, "path": name, "licence": licence}
    log.warning("%s: %s of %s is licensed %s%s", part, name, repository.name, licence, _restriction(licence))
    return checkpoint


def _restriction(licence: str) -> str:
    return ": not for commercial use, and what is made of it must be shared alike" if "-NC-SA" in licence else ""


def _random(text: str, part: Part) -> Checkpoint:
    fields = text.split(":")[1:]
    given = f"--{part} {shown(text)!r}"
    shape: TransformerShape | VqvaeShape
    buffers = {}
    if part == "vae":
        channels = _number(fields.pop(0)[2:]) if fields and fields[0].startswith("ch") else 160
        if channels % 32 or not 32 <= channels <= MAX_CHANNELS:
            raise UsageError(f"{given}: channels must be a multiple of 32 up to {MAX_CHANNELS}, e.g. random:ch32")
        shape = released_vqvae_shape(channels)
    else:
        name = fields.pop(0) if fields else ""
        depth = _number(name[1:]) if name.startswith("d") else 0
        if not 1 <= depth <= MAX_DEPTH:
            raise UsageError(f"{given}: expected random:dN with N from 1 to {MAX_DEPTH}, e.g. random:d16")
        shape = released_shape(depth)
        buffers = {"lvl_1L": torch.tensor([shape.schedule.levels()])}
    seed = _number(fields[0], SEED_DIGITS) if fields else RANDOM_SEEDS[part]
    if len(fields) > 1 or seed < 0:
        raise UsageError(f"{given}: the seed must be a whole number of up to {SEED_DIGITS} digits, e.g. random:d16:7")
    log.warning("%s: random weights (%s); the images will mean nothing", part, shown(text))
    return RandomWeights(parameter_shapes(shape), seed, buffers)


def _number(text: str, digits: int = 4) -> int:
    """A whole number of so many digits; −1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits else -1
