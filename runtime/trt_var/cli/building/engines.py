"""``trt-var engines``: a bundle's graphs → TensorRT or TensorRT-RTX engines."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from trt_var.bundle.hub.address import Address, is_address, parsed
from trt_var.cli import options as arguments
from trt_var.cli.progress import Bars
from trt_var.errors import UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.backends.tensorrt.record import Batch, Guidance


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Turn a bundle's graphs into engines that lie beside them: TensorRT for the GPU that is there, or TensorRT-RTX "
        "ahead of time for a compute capability, without any GPU. One optimisation profile a scale and one for the "
        "refiner's hand-over share the weights.",
        "engines engines/d30-d16 --batch 1,8,64",
        "engines engines/d30-d16 --kind rtx --target sm89 --n-draft 8   # no GPU is needed",
    )
    parser.add_argument(
        "bundle", type=expanded, metavar="DIR", help="the bundle; --precision fp16 ones give fused attention"
    )
    add_options(parser)
    parser.add_argument("--graphs", type=_names, default=(), metavar="A,B,…", help="some graphs only, e.g. drafter,decoder")
    arguments.add_force(parser, "the engines that are there")
    parser.set_defaults(command=_engines)


def add_options(parser: argparse._ActionsContainer) -> None:
    """What ``trt-var build --tensorrt`` takes too."""
    parser.add_argument(
        "--kind",
        choices=("tensorrt", "rtx", "simulated"),
        default="tensorrt",
        help="default: tensorrt; simulated is for tests",
    )
    parser.add_argument("--target", metavar="SM", help="for rtx: sm75, sm80, sm86, sm89, sm120 or sm121")
    parser.add_argument(
        "--n-draft",
        dest="n_drafts",
        type=arguments.whole_numbers,
        default=(),
        metavar="N,N,…",
        help="only the N that will be asked for: fewer profiles, smaller engines (default: all that the bundle serves)",
    )
    parser.add_argument(
        "--shadow", action="store_true", help="profiles for the refiner beside the drafter, where --n-draft leaves 0 out"
    )
    parser.add_argument(
        "--guidance",
        type=_guidance,
        default=("guided",),
        metavar="A,B,…",
        help="what will be asked for: guided; free, one row an image; refiner-free, one row where the refiner draws without "
        "guidance; or several, in one engine (default: guided)",
    )
    parser.add_argument(
        "--batch", type=_batch, default="1,8,64", metavar="MIN,OPT,MAX", help="batch sizes (default: %(default)s)"
    )


def _engines(options: argparse.Namespace) -> None:
    if is_address(options.bundle):
        raise UsageError(_elsewhere(parsed(options.bundle)))
    build(options.bundle, options, options.graphs, options.force)


def _elsewhere(address: Address) -> str:
    """The hub's cache is its client's, and a bundle's next commit lies in another folder of it."""
    load = f"hf download {address.repository} --revision {shlex.quote(address.revision)} --local-dir engines/mine"
    place = shlex.quote(f"engines/mine/{address.folder}".rstrip("/"))
    return f"engines lie beside their bundle, in a folder of yours; first {load}, then trt-var engines {place}"


def build(bundle: Path, options: argparse.Namespace, graphs: tuple[str, ...] = (), force: bool = False) -> None:
    """Build with progress bars, and say what came of it."""
    from trt_var.backends.tensorrt.record import read_record
    from trt_var_export.engines import EngineRecipe, build_engines

    started, bars = time.monotonic(), Bars()
    try:
        recipe = EngineRecipe(
            bundle, options.kind, options.target, options.batch, graphs, tuple(options.n_drafts), force, options.shadow
        )
        out = build_engines(replace(recipe, guidance=options.guidance), bars)
    finally:
        bars.close()
    for name, engine in read_record(out).engines.items():
        print(f"{name:12} {engine.size / 1e6:8.1f} MB  {len(engine.profiles):2} profiles  {engine.seconds:6.1f} s")
    print(f"{out} built in {time.monotonic() - started:.0f} s")


def _names(text: str) -> tuple[str, ...]:
    """``drafter,decoder`` → its parts."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _guidance(text: str) -> tuple[Guidance, ...]:
    from trt_var.backends.tensorrt.record import Guidance

    known: tuple[Guidance, ...] = get_args(Guidance)
    names = _names(text)
    if not names or not set(names) <= set(known):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: expected one or several of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _batch(text: str) -> Batch:
    from trt_var.backends.tensorrt.record import Batch

    try:
        return Batch(*map(int, text.split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: expected three sizes, e.g. 1,8,64") from None
