"""``trt-var run``: labels → pictures."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bundle.manifest import Manifest
    from trt_var.pipeline import Pipeline
    from trt_var.requests.results import Generation

FEW = 16
RETRIEVER = 207


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Generate one image a label. Image i has seed S + i; the same label, seed and settings give the same image whatever "
        "is drawn with it.",
        "run --engines digits --labels 3,seven --out digits.png",
        'run --n-draft 8 --labels "golden retriever,360" --preset code',
        "run --labels 207 --num 16 --seed 100 --out-dir pictures --save-npz pictures.npz",
        "run --labels otter --steps otter.gif   # the picture after every scale",
    )
    arguments.add_engines(parser)
    parser.add_argument(
        "--labels",
        metavar="A,B,…",
        help="class numbers or names; --labels=-1,3: no class, class 3 (default: 207, or all of a few)",
    )
    parser.add_argument("--num", type=int, metavar="n", help="how many images; labels repeat in turn (default: one a label)")
    arguments.add_n_draft(
        parser,
        "scales that the drafter draws: 0 is the plain refiner, all scales the plain drafter (default: all but two, or what "
        "a fine-tuned pair serves)",
    )
    arguments.add_seed(parser, "of the first image, -1: a random one")
    arguments.add_sampling(parser)
    arguments.add_batch_size(parser, what="images drawn together; with --steps, all are")
    parser.add_argument(
        "--out",
        type=expanded,
        metavar="FILE",
        help="all images in one picture (default: grid.png, unless another output is named)",
    )
    parser.add_argument("--out-dir", type=expanded, metavar="DIR", help="one PNG an image")
    parser.add_argument(
        "--save-npz", type=expanded, metavar="FILE", help="images, tokens, labels, seeds and a record as arrays"
    )
    parser.add_argument(
        "--steps", type=expanded, metavar="FILE", help="the pictures after every scale: .gif moves, .png has a row an image"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from trt_var.files.outputs import check_targets
    from trt_var.requests.checking import check_batch_size

    if not (options.out or options.out_dir or options.save_npz or options.steps):
        options.out = Path("grid.png")
    check_targets([options.out], [options.steps], [options.save_npz], [options.out_dir])
    check_batch_size(options.batch_size)
    with arguments.pipeline(options) as pipeline:
        wanted = _labels(options, pipeline.manifest)
        _check_sizes(options, pipeline.manifest, len(wanted))
        settings = {
            "seeds": options.seed,
            "n_draft": options.n_draft,
            "sampling": arguments.sampling(options, pipeline.manifest),
        }
        started = time.monotonic()
        if options.steps:
            result = _steps(pipeline, wanted, settings, options.steps)
        else:
            with tqdm(total=len(wanted), unit="image", disable=None if len(wanted) > options.batch_size else True) as bar:
                result = pipeline.generate(wanted, **settings, batch_size=options.batch_size, progress=bar.update)
        seconds = time.monotonic() - started
        written = _write(options, result)
        seeds = f", seeds from {result.seeds[0]}" if options.seed < 0 else ""
        files = ", ".join(map(str, written))
        print(f"{len(result.images)} images in {seconds:.1f} s on {pipeline.engine}{seeds}: {files}")


def _check_sizes(options: argparse.Namespace, manifest: Manifest, count: int) -> None:
    from trt_var.pictures.writing import check_size, grid_size

    side, scales = manifest.image_side, len(manifest.schedule)
    if options.out and count:
        check_size(options.out, grid_size(count, side))
    if options.steps and count:
        moves = options.steps.suffix.lower() == ".gif"
        check_size(options.steps, grid_size(count, side) if moves else grid_size(count * scales, side, scales))


def _labels(options: argparse.Namespace, manifest: Manifest) -> list[int | str]:
    from trt_var.requests.checking import MAX_IMAGES

    wanted: list[int | str] = [label.strip() for label in options.labels.split(",")] if options.labels else []
    if "" in wanted:
        raise UsageError(f"--labels has an empty one, number {wanted.index('') + 1}; expected A,B,…")
    if options.labels is None:
        wanted = (
            list(range(manifest.classes)) if manifest.classes <= FEW else [RETRIEVER if manifest.classes > RETRIEVER else 0]
        )
    if options.num is not None and wanted:
        if options.num < 1:
            raise UsageError(f"--num is {options.num}; expected 1 or more")
        wanted = [wanted[i % len(wanted)] for i in range(min(options.num, MAX_IMAGES + 1))]
    return wanted


def _steps(pipeline: Pipeline, wanted: list[int | str], settings: dict[str, Any], path: Path) -> Generation:
    """All images in one batch, with the file of previews; the last preview is the result."""
    from trt_var.pictures import writing as images

    previews = list(pipeline.stream(wanted, **settings))
    result = previews[-1].generation
    images.save_steps(path, [preview.images for preview in previews], result.record())
    return result


def _write(options: argparse.Namespace, result: Generation) -> list[Path]:
    import numpy as np

    from trt_var.pictures import writing as images

    written = [options.steps] if options.steps else []
    if options.out:
        written.append(options.out)
        images.save_picture(options.out, images.grid(result.images), result.record())
    if options.out_dir:
        written.append(options.out_dir)
        images.save_folder(options.out_dir, result.images, result.labels, result.seeds, result.records())
    if options.save_npz:
        written.append(options.save_npz)
        drawn = {name: getattr(result, name) for name in ("images", "tokens", "labels", "seeds")}
        images.save_npz(options.save_npz, **drawn, record=np.array(result.record()))
    return written
