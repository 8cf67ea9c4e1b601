"""Options that name checkpoints, which several commands share."""

from __future__ import annotations

import argparse

KEYS = ("drafter_key", "refiner_key", "vae_key")
FILE = "a file, shard, index or folder of weights (torch.save or safetensors, whatever it is called)"


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Where in a file the model is."""
    for role in ("drafter", "refiner", "vae"):
        parser.add_argument(
            f"--{role}-key",
            metavar="KEY",
            help=f"which model of the {role}'s file, if it holds several: ema, model, trainer.var_wo_ddp; . for the top",
        )
