"""What several commands share: their help, and options of one name, one meaning and one place in the order.

The order: bundle and backend, what is asked for, N, seed, sampling, batch, its own, what is written, --force, --json.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.errors import DataError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bundle.manifest import Manifest
    from trt_var.decoding.sampling import Sampling
    from trt_var.pipeline import Pipeline

DEFAULT = Path("engines/d30-d16")
BACKENDS = ("auto", "tensorrt", "onnxruntime", "openvino", "exact")


def describe(parser: argparse.ArgumentParser, description: str, *examples: str) -> None:
    """What a command does, and lines that somebody would type; ``# …`` behind one says what for."""
    parser.description = description
    parser.epilog = "\n".join(["examples:", *(f"  trt-var {example}" for example in examples)])


def add_bundle(parser: argparse._ActionsContainer, more: str = "") -> None:
    """Which bundle."""
    parser.add_argument(
        "--engines",
        type=expanded,
        default=DEFAULT,
        metavar="DIR",
        help=f"the bundle, digits for the one in the package, or hf://owner/name on the hub{more} (default: %(default)s)",
    )


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Which bundle on which backend."""
    group = parser.add_argument_group("bundle and backend")
    add_bundle(group)
    backend = "default: the fastest that works; exact is float32 arithmetic on ONNX Runtime's CPU provider"
    group.add_argument("--backend", choices=BACKENDS, default="auto", help=backend)
    alone = "draw every image by itself: the same whatever is drawn with it, in any arithmetic; slower"
    group.add_argument("--batch-invariant", action="store_true", help=alone)
    add_threads(group)
    kept = "keep what OpenVINO compiles in the user's cache: later starts are shorter, for as much disk as the weights take"
    group.add_argument("--keep-compiled", action="store_true", help=kept)
    again = "hash large files again, even if they are as they were when they were last found whole"
    group.add_argument("--verify", action="store_true", help=again)


def add_threads(parser: argparse._ActionsContainer, more: str = "") -> None:
    """Of an engine."""
    parser.add_argument(
        "--threads", type=int, metavar="n", help=f"of an engine on a CPU (default: all that may be used){more}"
    )


def add_n_draft(
    parser: argparse._ActionsContainer, what: str = "scales that the drafter draws (default: all but two)"
) -> None:
    """N."""
    parser.add_argument("--n-draft", type=int, metavar="N", help=what)


def add_seed(parser: argparse._ActionsContainer, what: str = "of the first image") -> None:
    """Where the random numbers begin."""
    parser.add_argument("--seed", type=int, default=0, metavar="S", help=f"{what} (default: 0)")


def add_batch_size(parser: argparse._ActionsContainer, default: int = 8, what: str = "images drawn together") -> None:
    """How many at once."""
    parser.add_argument("--batch-size", type=int, default=default, metavar="B", help=f"{what} (default: {default})")


def add_force(parser: argparse._ActionsContainer, what: str = "the bundle that is there") -> None:
    """Whether to replace."""
    parser.add_argument("--force", action="store_true", help=f"replace {what}")


def add_json(
    parser: argparse._ActionsContainer, what: str = "one JSON object on standard output, and nothing else there"
) -> None:
    """For programs; docs/reference/shell.md has the fields."""
    parser.add_argument("--json", action="store_true", help=what)


def print_json(value: dict[str, Any]) -> None:
    """One object.

    Raises:
        DataError: a figure that is not finite, for which JSON has no word.
    """
    import json

    try:
        print(json.dumps(value, indent=2, allow_nan=False))
    except ValueError as error:
        raise DataError(f"there are figures that JSON cannot have ({error}); leave out --json to see them") from error


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The bundle and backend that were asked for, opened."""
    from trt_var.pipeline import Pipeline

    names = ("batch_invariant", "threads", "keep_compiled", "verify")
    return Pipeline.load(options.engines, options.backend, **{name: getattr(options, name) for name in names})


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--preset",
        choices=("default", "code", "var", "cca", "ddo"),
        default="default",
        help="published settings, cca and ddo without guidance; single ones given beside it win",
    )
    add_guidance(group)
    group.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="likeliest tokens kept; 1 is greedy, 0 all that the graphs keep, or with --top-p 1 all (default: 600)",
    )
    group.add_argument("--top-p", type=float, metavar="P", help="probability mass kept; 0 or 1: all (default: 0.96)")
    group.add_argument("--more-smooth", action="store_true", help="average codebook rows: smoother, for the eye alone")
    group.add_argument("--temperature", type=_numbers, metavar="T,T,…", help="one, or one a scale (default: 1.0)")


def add_guidance(parser: argparse._ActionsContainer) -> None:
    """How strongly, and how many scales."""
    parser.add_argument("--cfg", type=float, metavar="G", help="guidance strength; 0 is none (default: 1.5)")
    guided = "only the first so many scales are guided; a model that guides none takes half the rows (default: all)"
    parser.add_argument("--guided-scales", type=int, metavar="k", help=guided)
    fewer = "draw only so many scales: softer, in less time (default: all)"
    parser.add_argument("--scales", type=int, metavar="k", help=fewer)


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
