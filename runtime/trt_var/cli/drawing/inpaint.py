"""``trt-var inpaint`` and ``trt-var edit``: redraw a region of a given picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trt_var.cli import options as arguments
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trt_var.pictures.reading import Picture

CORNERS = 4
DESCRIPTIONS = {
    "inpaint": "Complete a picture: what lies in the region is drawn anew to fit what lies around it.",
    "edit": "Put something of another class into a region of a picture, fitting what lies around it.",
}


def add(parser: argparse.ArgumentParser, name: str) -> None:
    what = {"inpaint": "otter", "edit": "teapot"}[name]
    arguments.describe(
        parser,
        f"{DESCRIPTIONS[name]} The picture is centre-cropped and resized to what the models draw. Pixels outside the region "
        "stay as they are. The file written shows the input, the region in grey and the results.",
        f"{name} --image photo.png --box 64,64,192,192 --label {what}",
        f"{name} --image photo.png --mask mask.png --label {what} --num 4 --seed -1 --out-dir results",
    )
    arguments.add_engines(parser)
    parser.add_argument("--image", type=expanded, required=True, metavar="FILE", help="PNG, JPEG or WebP")
    parser.add_argument(
        "--mask",
        type=expanded,
        metavar="FILE",
        help="as large as the picture, white where redrawn (default: its transparency)",
    )
    parser.add_argument("--box", type=_box, metavar="x0,y0,x1,y1", help="redraw a box instead, in the picture's own pixels")
    shown = {"inpaint": "what the picture shows", "edit": "what the region shall show"}[name]
    parser.add_argument("--label", required=True, metavar="A", help=f"{shown}: a class number or name")
    parser.add_argument("--num", type=int, default=1, metavar="n", help="how many results (default: 1)")
    arguments.add_n_draft(parser)
    arguments.add_seed(parser, "of the first result, -1: a random one")
    arguments.add_sampling(parser)
    arguments.add_batch_size(parser, what="results drawn together")
    parser.add_argument("--raw", action="store_true", help="the decoder's pixels everywhere, also outside the region")
    parser.add_argument("--out", type=expanded, metavar="FILE", help=f"input, region and results (default: {name}.png)")
    parser.add_argument("--out-dir", type=expanded, metavar="DIR", help="one PNG a result")
    parser.set_defaults(command=_inpaint)


def _inpaint(options: argparse.Namespace) -> None:
    from trt_var import pictures
    from trt_var.files.outputs import check_targets
    from trt_var.pictures import writing as images
    from trt_var.requests.checking import MAX_IMAGES

    if options.out is None and options.out_dir is None:
        options.out = Path(f"{options.name}.png")
    check_targets([options.out], folders=[options.out_dir])
    if not 1 <= options.num <= MAX_IMAGES:
        raise UsageError(f"--num is {options.num}; expected 1 to {MAX_IMAGES}")
    with arguments.pipeline(options) as pipeline:
        side = pipeline.manifest.image_side
        if options.out:
            images.check_size(options.out, images.grid_size(options.num + 2, side, min(options.num + 2, images.ROW)))
        picture = pictures.read_picture(options.image, side)
        mask = _mask(options, picture, side)
        result = pipeline.inpaint(
            picture.pixels,
            mask,
            [options.label] * options.num,
            seeds=options.seed,
            n_draft=options.n_draft,
            sampling=arguments.sampling(options, pipeline.manifest),
            batch_size=options.batch_size,
            raw=options.raw,
        )
        if options.out:
            images.save_picture(options.out, images.beside(picture.pixels, mask, result.images), result.record())
        if options.out_dir:
            images.save_folder(options.out_dir, result.images, result.labels, result.seeds, result.records())
        written = ", ".join(str(path) for path in (options.out, options.out_dir) if path)
        changes = f" ({', '.join(picture.changes)})" if picture.changes else ""
        seed = f", seed {result.seeds[0]}" if options.seed < 0 else ""
        print(
            f"{options.image}{changes}: {mask.mean():.0%} redrawn as class {result.labels[0]}{seed}, {written}, "
            f"{pipeline.engine}"
        )


def _mask(options: argparse.Namespace, picture: Picture, side: int) -> NDArray[np.bool_]:
    from trt_var import pictures

    if options.mask and options.box:
        raise UsageError("--mask and --box are given; choose one")
    if options.box:
        mask = pictures.box_mask(options.box, picture.size, side)
    elif options.mask:
        mask = pictures.read_mask(options.mask, picture.size, side)
    elif picture.clear is not None:
        mask = picture.clear
    else:
        raise UsageError(f"nothing says what to redraw: give --mask or --box; {options.image} has no transparency")
    if not mask.any():
        raise UsageError("the region is empty after cropping to a square: nothing to redraw (see trt-var reconstruct)")
    return mask


def _box(text: str) -> tuple[int, int, int, int]:
    corners = arguments.whole_numbers(text)
    if len(corners) != CORNERS:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected x0,y0,x1,y1")
    return corners[0], corners[1], corners[2], corners[3]
