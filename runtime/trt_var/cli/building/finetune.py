"""``trt-var finetune``: CoDe's specialised fine-tuning of a pair for one N. Needs the ``train`` extra."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trt_var.cli.building.weights import FILE, KEYS, add_keys
from trt_var.errors import BackendError


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="specialise a drafter and a refiner for one N (needs trt-var[train])",
        description="Fine-tune a pair for collaborative decoding: the drafter on the scales below N, the refiner on the "
        "others, following the data and the drafter's distribution. Goes on from its checkpoints when run again. Build the "
        "result with: trt-var build --drafter OUT/drafter.safetensors --refiner OUT/refiner.safetensors --finetuned N.",
    )
    models = f"a released name, {FILE}, or random:dN"
    parser.add_argument("--drafter", required=True, metavar="MODEL", help=models)
    parser.add_argument("--refiner", required=True, metavar="MODEL", help=models)
    parser.add_argument("--vae", default="default", metavar="MODEL", help="the released VQVAE (default), or a file")
    add_keys(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="one folder of pictures a class")
    parser.add_argument("--n-draft", type=int, required=True, metavar="N", help="scales that the drafter draws")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="weights and checkpoints")
    parser.add_argument("--steps", type=int, default=2500, metavar="n", help="batches for each model (default: 2500)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="images a batch (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=1e-5, metavar="R", help="at its height (default: 1e-5)")
    parser.add_argument("--flip", action="store_true", help="mirror every second picture")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the batches (default: 0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.set_defaults(command=_finetune, name=name)


def _finetune(options: argparse.Namespace) -> None:
    try:
        from trt_var_training.finetune import Job, finetune
    except ImportError as error:
        raise BackendError(f"training needs PyTorch ({error}): pip install 'trt-var[train]'") from error
    names = ("drafter", "refiner", "vae", "data", "n_draft", "out", "steps", "batch_size", "learning_rate", "flip", "seed")
    finetune(Job(device=options.device, **{name: getattr(options, name) for name in (*names, *KEYS)}))
    print(
        f"{options.out}: next: trt-var build --drafter {options.out}/drafter.safetensors --refiner "
        f"{options.out}/refiner.safetensors --vae {options.vae} --finetuned {options.n_draft}"
    )
