"""``trt-var finetune``: CoDe's specialised fine-tuning of a pair for one N. Needs the ``train`` extra."""

from __future__ import annotations

import argparse

from trt_var.backends.installed import needed
from trt_var.cli import options as arguments
from trt_var.cli.building.weights import FILE, KEYS, add_models
from trt_var.files.paths import expanded


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Fine-tune a pair for collaborative decoding: the drafter on the scales below N, the refiner on the others, "
        "following the data and the drafter's distribution; or both so that they need no guidance. Goes on from its "
        "checkpoints when run again. Build the result with trt-var build --finetuned N.",
        "finetune --drafter d30 --refiner d16 --data imagenet/train --n-draft 8 --out tuned --device cuda",
        "finetune --drafter d30 --refiner d16 --data imagenet/train --n-draft 8 --guidance-free --out free --device cuda",
        "build --drafter tuned/drafter.safetensors --refiner tuned/refiner.safetensors --finetuned 8 --out engines/tuned",
    )
    models = f"a released name, {FILE}, or random:dN"
    add_models(parser, models, models, "a file", refiner_required=True)
    _add_data(parser)
    _add_course(parser)
    _add_guidance_free(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", type=expanded, required=True, metavar="DIR", help="weights and checkpoints")
    parser.set_defaults(command=_finetune)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=expanded,
        required=True,
        metavar="DIR",
        help="one folder of pictures a class, named by class number, WordNet id or class name; folders of other names are "
        "taken in order, if there is one for every class",
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="a text file with a line of names a class, or imagenet: which class a folder's name means, and what the "
        "classes of the result are called (default: what the models' sources say)",
    )
    parser.add_argument(
        "--classes",
        metavar="N|FILE",
        help="the data's classes are not those of the weights: how many, or a text file with a line of names a class. Their "
        "embeddings begin anew, all else is kept",
    )
    parser.add_argument(
        "--check-pictures",
        "--verify",
        dest="verify",
        choices=("quick", "full"),
        default="quick",
        help="how all pictures are looked at before the first step: headers and ends of the files (quick, the default: "
        "minutes for a million), or every pixel (full: some 25 times as long)",
    )


def _add_course(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n-draft", type=int, required=True, metavar="N", help="scales that the drafter draws")
    arguments.add_seed(parser, "of the batches")
    arguments.add_batch_size(parser, 64, "images a batch")
    parser.add_argument("--steps", type=int, default=2500, metavar="n", help="batches for each model (default: 2500)")
    parser.add_argument(
        "--distil-steps",
        type=int,
        default=0,
        metavar="n",
        help="batches for the refiner's first stage, which follows the drafter's distribution on all scales (default: 0)",
    )
    parser.add_argument("--learning-rate", type=float, default=1e-5, metavar="R", help="at its height (default: 1e-5)")
    parser.add_argument(
        "--label-dropout", type=float, default=0.1, metavar="P", help="share of labels left out, for guidance (default: 0.1)"
    )
    parser.add_argument("--flip", action="store_true", help="mirror every second picture")


def _add_guidance_free(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance-free",
        action="store_true",
        help="condition contrastive alignment instead: the pair learns to draw at --cfg 0 what it drew with guidance",
    )
    parser.add_argument(
        "--beta", type=float, metavar="B", help="of --guidance-free: hold of the old weights (default: 0.02)"
    )
    parser.add_argument(
        "--lambda",
        type=float,
        dest="negative_weight",
        metavar="L",
        help="of --guidance-free: weight of pictures under labels of others (default: as published for the depth, 50 up to "
        "d20, 100 up to d24, else 1000)",
    )


def _finetune(options: argparse.Namespace) -> None:
    with needed("training needs PyTorch, which", ("torch",), "pip install 'trt-var[train]'"):
        from trt_var_training.finetune import Job, finetune
    names = ("drafter", "refiner", "vae", "data", "n_draft", "out", "steps", "batch_size", "learning_rate", "flip", "seed")
    more = ("device", "class_names", "verify", "distil_steps", "label_dropout", "guidance_free", "beta", "negative_weight")
    finetune(Job(**{name: getattr(options, name) for name in (*names, *KEYS, *more, "classes")}), print)
    print(
        f"{options.out}: next: trt-var build --drafter {options.out}/drafter.safetensors --refiner "
        f"{options.out}/refiner.safetensors --vae {options.vae} --finetuned {options.n_draft}"
    )
