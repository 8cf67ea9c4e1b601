"""``trt-var merge``: parts of a series of images into one folder."""

from __future__ import annotations

import argparse

from trt_var.cli import options as arguments
from trt_var.files.paths import expanded


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Join the parts of a series to the folder that one unbroken run would have written, byte for byte. "
        "Every shard is read through; the folder appears whole or not at all. The parts stay as they are.",
        "merge parts/1 parts/2 parts/3 parts/4 --out samples",
    )
    parser.add_argument("parts", nargs="+", type=expanded, metavar="DIR", help="folders of all parts, in any order")
    parser.add_argument("--out", type=expanded, required=True, metavar="DIR", help="a new or an empty folder")
    parser.set_defaults(command=_merge)


def _merge(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from trt_var.bulk import merge
    from trt_var.files.outputs import check_targets

    check_targets(folders=[options.out])
    with tqdm(unit="image", disable=None) as bar:
        shards = merge(options.parts, options.out, bar.update)
    print(f"{options.out}: {len(shards)} shards of {len(options.parts)} parts")
