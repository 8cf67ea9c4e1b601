"""``trt-var demo``: handwritten digits from the bundle inside the package."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from trt_var.cli import options as arguments
from trt_var.files.paths import expanded

COLUMNS = 10


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Draw a grid of handwritten digits, a row a class, with the small trained drafter, refiner and VQVAE "
        "inside the package.",
        "demo",
        "demo --n-draft 0 --seed 7 --out refiner.png   # the plain refiner",
    )
    arguments.add_n_draft(parser, "scales that the drafter draws, 0 to 6 (default: 4)")
    arguments.add_seed(parser, "of the first image, -1: a random one")
    parser.add_argument("--out", type=expanded, default=Path("demo.png"), metavar="FILE", help="default: %(default)s")
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> None:
    import numpy as np

    from trt_var import Pipeline
    from trt_var.files.outputs import check_targets
    from trt_var.pictures import writing as images

    check_targets([options.out])
    started = time.monotonic()
    with Pipeline.load("digits") as pipeline:
        labels = np.repeat(np.arange(pipeline.manifest.classes), COLUMNS)
        drawn = pipeline.generate(labels.tolist(), seeds=options.seed, n_draft=options.n_draft, batch_size=len(labels))
        images.save_picture(options.out, images.grid(drawn.images, columns=COLUMNS), drawn.record())
        seconds = time.monotonic() - started
        print(f"{options.out}: {len(labels)} digits in {seconds:.1f} s on {pipeline.engine}, loading included")
