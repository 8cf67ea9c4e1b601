"""Options that name checkpoints, which several commands share."""

from __future__ import annotations

import argparse

KEYS = ("drafter_key", "refiner_key", "vae_key")
FILE = "a file, shard, index or folder of weights (torch.save or safetensors, whatever it is called)"


def add_models(
    parser: argparse.ArgumentParser, drafter: str, refiner: str, vae: str, *, refiner_required: bool = False
) -> None:
    """Drafter, refiner and VQVAE, and where in a file the model is."""
    parser.add_argument("--drafter", required=True, metavar="MODEL", help=drafter)
    parser.add_argument("--refiner", required=refiner_required, metavar="MODEL", help=refiner)
    parser.add_argument("--vae", default="default", metavar="MODEL", help=f"the released VQVAE (default), {vae}")
    for role in ("drafter", "refiner", "vae"):
        parser.add_argument(
            f"--{role}-key",
            metavar="KEY",
            help=f"which model of the {role}'s file, if it holds several: ema, model, trainer.var_wo_ddp; . for the top",
        )
