"""``trt-var reconstruct``: pictures to tokens and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from trt_var.cli import options as arguments
from trt_var.errors import UsageError
from trt_var.files.paths import expanded


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Encode pictures into token maps and decode them again: the best that the VQVAE allows. "
        "The file written shows every picture beside its reconstruction.",
        "reconstruct photo.png other.jpg",
        "reconstruct --engines digits seven.png --out beside.png --save-npz tokens.npz",
    )
    accepted = "PNG, JPEG or WebP; centre-cropped and resized to what the models draw"
    parser.add_argument("images", type=expanded, nargs="+", metavar="FILE", help=accepted)
    arguments.add_engines(parser)
    parser.add_argument("--out", type=expanded, default=Path("reconstruct.png"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--save-npz", type=expanded, metavar="FILE", help="images, tokens and psnr as arrays")
    parser.set_defaults(command=_reconstruct)


def _reconstruct(options: argparse.Namespace) -> None:
    import numpy as np

    from trt_var.files.outputs import check_targets
    from trt_var.pictures import reading as pictures
    from trt_var.pictures import writing as images
    from trt_var.requests.checking import MAX_IMAGES

    check_targets([options.out], files=[options.save_npz])
    if len(options.images) > MAX_IMAGES:
        raise UsageError(f"{len(options.images)} pictures; expected at most {MAX_IMAGES}")
    with arguments.pipeline(options) as pipeline:
        images.check_size(options.out, images.grid_size(2 * len(options.images), pipeline.manifest.image_side, 2))
        given = [pictures.read_picture(path, pipeline.manifest.image_side) for path in options.images]
        pixels = np.stack([picture.pixels for picture in given])
        result = pipeline.reconstruct(pixels)
        pairs = np.stack([pixels, result.images], 1).reshape(-1, *pixels.shape[1:])
        images.save_picture(options.out, images.grid(pairs, columns=2))
        if options.save_npz:
            images.save_npz(options.save_npz, images=result.images, tokens=result.tokens, psnr=result.psnr)
        for path, picture, decibels in zip(options.images, given, result.psnr, strict=True):
            changes = f" ({', '.join(picture.changes)})" if picture.changes else ""
            print(f"{path}{changes}: PSNR {decibels:.2f} dB")
        print(f"{options.out}: {len(given)} pictures beside their reconstructions, {pipeline.engine}")
