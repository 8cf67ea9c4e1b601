"""``trt-var sample``: many images, in shards, resumable."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.errors import BackendError, OutputError, UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from tqdm import tqdm

    from trt_var.bulk import Bulk
    from trt_var.bundle.manifest import Manifest
    from trt_var.bundle.opening import Bundle


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Draw images of all classes in equal numbers; image i of the series, sorted by class, has seed S + i. "
        "They lie in mixed order, as evaluators need them, in shards that appear whole. "
        "The same command goes on where an earlier one was stopped, and the images are those of an unbroken run.",
        "sample --num 50000 --out samples --adm-npz samples.npz",
        "sample --per-class 50 --part 1/4 --out parts/1   # one of four machines; then trt-var merge",
        "sample --num 50000 --out samples --ray auto      # on all devices of a cluster",
    )
    arguments.add_engines(parser)
    parser.add_argument("--num", type=int, metavar="n", help="how many images (default: per class × classes)")
    parser.add_argument("--per-class", type=int, metavar="n", help="how many of each class, instead of or to check --num")
    arguments.add_n_draft(parser)
    arguments.add_seed(parser)
    arguments.add_sampling(parser)
    arguments.add_batch_size(parser)
    parser.add_argument("--shard", type=int, default=256, metavar="n", help="images a file (default: 256)")
    part = "draw only the i-th of n parts, into a folder of its own; trt-var merge joins them (Slurm arrays, indexed jobs)"
    parser.add_argument("--part", type=_part, metavar="i/n", help=part)
    cluster = (
        "draw on all devices of a Ray cluster: auto, local (this machine), HOST:PORT or ray://…; needs trt-var[ray-bulk]"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help=cluster)
    parser.add_argument("--out", type=expanded, required=True, metavar="DIR", help="folder of the shards")
    parser.add_argument(
        "--adm-npz",
        type=expanded,
        metavar="FILE",
        help="then all of them as arr_0, uint8 [n, H, W, 3], for the ADM evaluator",
    )
    parser.set_defaults(command=_sample)


def _sample(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from trt_var.bulk import read_mixed
    from trt_var.bulk.recipe import read_recipe
    from trt_var.bundle.opening import Bundle
    from trt_var.files.outputs import check_targets
    from trt_var.quality import samples

    if options.part and options.adm_npz:
        raise UsageError(
            "--adm-npz needs the whole series, --part draws some of it; merge the parts, then give --adm-npz alone"
        )
    check_targets(files=[options.adm_npz], folders=[options.out])
    bundle = Bundle.open(options.engines, verify=options.verify)
    wanted = _wanted(options, bundle.manifest)
    with tqdm(total=wanted.images, unit="image", disable=None) as bar:
        shards = (_here if options.ray is None else _on_cluster)(options, bundle, wanted, bar)
    of = f", part {options.part[0]}/{options.part[1]} of {wanted.num}" if options.part else ""
    engine = read_recipe(options.out).backend
    print(f"{options.out}: {wanted.images} images in {len(shards)} shards{of}, {engine}")
    if options.adm_npz:
        images = read_mixed(shards, bundle.manifest.classes)
        samples.write_images(options.adm_npz, wanted.num, bundle.manifest.image_side, images)
        print(f"{options.adm_npz}: {wanted.num} images, classes mixed")


def _here(options: argparse.Namespace, bundle: Bundle, wanted: Bulk, bar: tqdm[Any]) -> list[Path]:
    from trt_var.bulk.shards import sample

    with arguments.pipeline(options) as pipeline, _told_what_is_there(options.out, wanted):
        return sample(pipeline, wanted, options.out, bar.update)


def _on_cluster(options: argparse.Namespace, bundle: Bundle, wanted: Bulk, bar: tqdm[Any]) -> list[Path]:
    from dataclasses import replace

    from trt_var.bulk.cluster import Source, sample_on

    names = ("batch_invariant", "threads", "keep_compiled", "verify")
    source = replace(Source.of(options.engines, bundle, options.backend), **{name: getattr(options, name) for name in names})
    with _told_what_is_there(options.out, wanted):
        return sample_on(options.ray, source, wanted, options.out, bar.update, lambda count: bar.set_postfix(workers=count))


@contextmanager
def _told_what_is_there(out: Path, wanted: Bulk) -> Iterator[None]:
    """Errors that leave finished shards behind say so."""
    from trt_var.bulk.recipe import RECIPE

    try:
        yield
    except (OutputError, BackendError) as error:
        if not (out / RECIPE).is_file():
            raise
        done = len(list(out.glob("shard-*.npz")))
        told = f"{error}; {done} of {len(wanted.own)} shards are there, the same command goes on"
        raise type(error)(told) from error


def _wanted(options: argparse.Namespace, manifest: Manifest) -> Bulk:
    from trt_var.bulk import Bulk

    if options.num is None and options.per_class is None:
        raise UsageError("give --num or --per-class")
    each = None if options.per_class is None else options.per_class * manifest.classes
    if each is not None and options.num not in (None, each):
        raise UsageError(
            f"--num {options.num} is not --per-class {options.per_class} × {manifest.classes} classes = {each}; give one"
        )
    return Bulk(
        options.num if each is None else each,
        options.seed,
        options.n_draft,
        arguments.sampling(options, manifest),
        options.batch_size,
        options.shard,
        options.part,
    )


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected i/n, such as 1/4 to 4/4")
    return int(found[1]), int(found[2])
