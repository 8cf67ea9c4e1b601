"""Options that several commands share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bundle.manifest import Manifest
    from trt_var.decoding.sampling import Sampling
    from trt_var.pipeline import Pipeline

BACKENDS = ("auto", "tensorrt", "onnxruntime", "openvino", "exact")


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Which bundle on which backend."""
    parser.add_argument(
        "--engines",
        type=expanded,
        default=Path("engines/d30-d16"),
        metavar="DIR",
        help="the bundle, or digits for the one inside the package (default: %(default)s)",
    )
    backend = "default: the fastest that works; exact is float32 arithmetic on ONNX Runtime's CPU provider"
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help=backend)
    alone = "draw every image by itself: the same whatever is drawn with it, in any arithmetic; slower"
    parser.add_argument("--batch-invariant", action="store_true", help=alone)
    parser.add_argument("--threads", type=int, metavar="n", help="of an engine on a CPU (default: all that may be used)")
    kept = "keep what OpenVINO compiles in the user's cache: later starts are shorter, for as much disk as the weights take"
    parser.add_argument("--keep-compiled", action="store_true", help=kept)
    again = "hash large files again, even if they are as they were when they were last found whole"
    parser.add_argument("--verify", action="store_true", help=again)


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The bundle and backend that were asked for, opened."""
    from trt_var.pipeline import Pipeline

    names = ("batch_invariant", "threads", "keep_compiled", "verify")
    return Pipeline.load(options.engines, options.backend, **{name: getattr(options, name) for name in names})


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn."""
    parser.add_argument(
        "--preset",
        choices=("default", "code", "var", "cca", "ddo"),
        default="default",
        help="published settings, cca and ddo without guidance; single ones given beside it win",
    )
    add_guidance(parser)
    parser.add_argument(
        "--scales", type=int, metavar="k", help="draw only so many scales: softer, in less time (default: all)"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="likeliest tokens kept; 1 is greedy, 0 all that the graphs keep, or with --top-p 1 all (default: 600)",
    )
    parser.add_argument("--top-p", type=float, metavar="P", help="probability mass kept; 0 or 1: all (default: 0.96)")
    parser.add_argument("--more-smooth", action="store_true", help="average codebook rows: smoother, for the eye alone")
    parser.add_argument("--temperature", type=_numbers, metavar="T[,T…]", help="one, or one a scale (default: 1.0)")


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """How strongly, and for how long."""
    parser.add_argument("--cfg", type=float, metavar="G", help="guidance strength; 0 is none (default: 1.5)")
    guided = "only the first so many scales are guided; a model that guides none takes half the rows (default: all)"
    parser.add_argument("--guided-scales", type=int, metavar="k", help=guided)


def sampling(options: argparse.Namespace, manifest: Manifest) -> Sampling:
    """The settings that were asked for; what was not comes from the preset."""
    from dataclasses import replace

    from trt_var.decoding.sampling import preset

    base = preset(options.preset, len(manifest.schedule), manifest.vocabulary)
    names = ("cfg", "top_k", "top_p", "temperature", "guided_scales", "scales")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    asked = replace(base, **chosen, more_smooth=options.more_smooth)
    return asked.resolved(manifest.vocabulary, manifest.max_top_k, manifest.untruncated)


def whole_numbers(text: str) -> list[int]:
    """Whole numbers separated by commas, for argparse."""
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected whole numbers separated by commas")
    return [int(part) for part in parts]


def _numbers(text: str) -> float | tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected a number, or one a scale separated by commas") from None
    return numbers[0] if len(numbers) == 1 else numbers
