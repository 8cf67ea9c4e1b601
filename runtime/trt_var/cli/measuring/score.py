"""``trt-var score``: how likely pictures are under classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trt_var.cli import options as arguments
from trt_var.errors import UsageError, printable
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.requests.results import Scores


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Encode pictures into tokens, and let the models judge them under each class, without guidance: the log-likelihood, "
        "in nats and bits a token. The class under which a picture is the likeliest is what the models take it for.",
        "score --engines digits --top 3 seven.png",
        "score photo.png other.jpg --labels otter,207 --json   # every figure, for a program",
    )
    accepted = "PNG, JPEG or WebP; centre-cropped and resized to what the models draw"
    parser.add_argument("images", type=expanded, nargs="+", metavar="FILE", help=accepted)
    arguments.add_engines(parser)
    parser.add_argument("--labels", metavar="A,B,…", help="class numbers or names (default: all classes)")
    arguments.add_n_draft(parser, "scales that the drafter judges (default: all but two)")
    arguments.add_batch_size(parser, what="pictures with classes at once")
    parser.add_argument("--top", type=int, default=5, metavar="n", help="the likeliest so many are shown (default: 5)")
    arguments.add_json(parser)
    parser.set_defaults(command=_score)


def _score(options: argparse.Namespace) -> None:
    import numpy as np
    from tqdm import tqdm

    from trt_var.pictures import reading as pictures

    if options.top < 1:
        raise UsageError(f"--top is {options.top}; expected 1 or more")
    with arguments.pipeline(options) as pipeline:
        pixels = np.stack([pictures.read_picture(path, pipeline.manifest.image_side).pixels for path in options.images])
        labels = None if options.labels is None else [label.strip() for label in options.labels.split(",")]
        classes = pipeline.manifest.classes if labels is None else len(set(labels))
        with tqdm(total=len(pixels) * classes, unit="score", disable=None) as bar:
            scores = pipeline.score(
                pixels, labels, n_draft=options.n_draft, batch_size=options.batch_size, progress=bar.update
            )
        names = pipeline.class_names
    print(_json(options.images, scores) if options.json else _table(options.images, scores, names, options.top))


def _json(paths: list[Path], scores: Scores) -> str:
    return json.dumps({"images": [str(path) for path in paths], **json.loads(scores.as_json())})


def _table(paths: list[Path], scores: Scores, names: tuple[str, ...], top: int) -> str:
    lines = []
    for path, nats, a_token, bits in zip(paths, scores.nats, scores.nats_per_token, scores.bits_per_token, strict=True):
        lines.append(printable(str(path)))
        for i in (-nats).argsort(kind="stable")[:top]:
            label = int(scores.labels[i])
            name = f" {printable(names[label].split(',')[0])}" if label < len(names) else ""
            lines.append(f"  {label:5}{name}: {a_token[i]:.3f} nats, {bits[i]:.3f} bits a token; {nats[i]:.1f} nats in all")
    return "\n".join(lines)
