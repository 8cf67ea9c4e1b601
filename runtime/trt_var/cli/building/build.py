"""``trt-var build``: checkpoints → bundle. Needs the ``export`` extra."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from trt_var.cli import options as arguments
from trt_var.cli.building import calibrate, engines
from trt_var.cli.building.weights import FILE, KEYS, add_models
from trt_var.cli.progress import Bars
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.schedule import Schedule
    from trt_var_export.recipe import Recipe

MAX_SIDE = 256


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Export drafter, refiner and VQVAE to ONNX, compare every graph with the PyTorch model, and write a bundle that "
        "runs without PyTorch.",
        "build --drafter d30 --refiner d16                    # the released pair → engines/d30-d16",
        "build --drafter mine/d30.pth --refiner mine/d16.pth --vae mine/vae.pth --out engines/mine",
        "build --drafter d30 --refiner d16 --precision int8 --out engines/d30-d16-int8",
        "build --drafter d30 --refiner d16 --precision fp16 --tensorrt --batch 1,4,16",
    )
    names = f"d16, d20, d24, d30, d36, d16-cca … d30-ddo (fetched from Hugging Face), {FILE}, or random:dN[:SEED]"
    add_models(
        parser,
        f"draws the first scales: {names}",
        "draws the others; leave it out for plain VAR",
        "a file, or random[:SEED]",
    )
    parser.add_argument(
        "--finetuned",
        type=int,
        metavar="N",
        help="the pair was tuned for this N and serves no other; d30 and d16 then mean CoDe's (N from 6 to 9)",
    )
    parser.add_argument("--max-top-k", type=int, default=1024, metavar="K", help="ceiling of top-k (default: 1024)")
    parser.add_argument("--schedule", type=_schedule, metavar="k,k,…", help="patch sides, if the checkpoint does not tell")
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="a text file with a line of names a class, or imagenet (default: what the weights' source says: ImageNet's for "
        "the released ones, those of a fine-tuning's folders; else labels are numbers)",
    )
    parser.add_argument("--no-compare", dest="compare", action="store_false", help="skip the comparison with PyTorch")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        help="of products and cache; int8: fp32, then calibrated (default: fp32)",
    )
    parser.add_argument("--tensorrt", action="store_true", help="also build engines")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="the bundle (default: engines/<drafter>-<refiner>)")
    arguments.add_force(parser)
    calibrate.add_options(parser.add_argument_group("with --precision int8, as for trt-var calibrate"))
    engines.add_options(parser.add_argument_group("with --tensorrt, as for trt-var engines"))
    parser.set_defaults(command=_build)


def _build(options: argparse.Namespace) -> None:
    from trt_var_export.recipe import Recipe

    tuned = None if options.finetuned is None else f"n{options.finetuned}"
    names = [_short(name) for name in (options.drafter, options.refiner, tuned) if name]
    out = options.out or Path("engines") / "-".join(names)
    fields = ("drafter", "refiner", "vae", "precision", "max_top_k", "finetuned", "schedule", "force", "compare", *KEYS)
    started = time.monotonic()
    recipe = Recipe(out=out, class_names=options.class_names, **{field: getattr(options, field) for field in fields})
    if options.precision == "int8":
        _build_int8(recipe, options)
    else:
        _build_float(recipe)
    print(f"{out} built in {time.monotonic() - started:.0f} s; next: trt-var run --engines {out}")
    if options.tensorrt:
        engines.build(out, options, force=options.force)


def _build_float(recipe: Recipe) -> None:
    from trt_var_export.build import build

    bars = Bars()
    try:
        build(recipe, bars)
    finally:
        bars.close()


def _build_int8(recipe: Recipe, options: argparse.Namespace) -> None:
    """A float bundle on the target's file system, which goes when it has been calibrated."""
    from dataclasses import replace

    from trt_var.bundle.manifest import default_n_draft
    from trt_var.bundle.opening import Bundle
    from trt_var.decoding.sampling import preset
    from trt_var.files.writing import scratch
    from trt_var_export.build import check

    check(recipe)
    with scratch(recipe.out) as folder:
        base = folder / "bundle"
        _build_float(replace(recipe, out=base, precision="fp32"))
        bundle = Bundle.open(base)
        manifest = bundle.manifest
        sampling = preset("default", len(manifest.schedule), manifest.vocabulary)
        drawing = calibrate.Drawing(default_n_draft(manifest), 0, sampling)
        calibrate.run(bundle, bundle, recipe.out, drawing, options)


def _short(name: str) -> str:
    """``random:d30:7`` → ``random_d30_7``, a path → its stem."""
    return Path(name).stem.replace(":", "_")


def _schedule(text: str) -> Schedule:
    from trt_var.schedule import Schedule

    fields = [field.strip() for field in text.split(",")]
    sides = tuple(int(side) for side in fields if side.isascii() and side.isdecimal() and len(side) < 5)
    if len(sides) < len(fields) or list(sides) != sorted(set(sides)) or not 1 <= sides[0] <= sides[-1] <= MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: expected rising patch sides from 1 to {MAX_SIDE}, e.g. 1,2,3,4")
    return Schedule(sides)
