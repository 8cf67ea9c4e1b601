"""``trt-var card``: a bundle's model card, from its own records."""

from __future__ import annotations

import argparse

from trt_var.cli import options as arguments
from trt_var.errors import UsageError
from trt_var.files.paths import expanded


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Write a model card as the Hugging Face hub has it: what is in the bundle, how to use it, memory, where its weights "
        "come from, measured quality. What the bundle does not record is called unknown.",
        "card digits",
        "card engines/d30-d16 --place hf://me/d30-d16 --quality quality.json --out engines/d30-d16/README.md",
    )
    parser.add_argument("bundle", type=expanded, metavar="DIR", help="the bundle's folder, digits, or hf://owner/name")
    parser.add_argument("--place", metavar="PLACE", help="what others load it by (default: DIR)")
    figures = "figures of pictures, what trt-var eval --json wrote (default: none)"
    parser.add_argument("--quality", type=expanded, metavar="FILE", help=figures)
    parser.add_argument("--out", type=expanded, metavar="FILE", help="the card (default: on standard output)")
    parser.set_defaults(command=_card)


def _card(options: argparse.Namespace) -> None:
    from trt_var.bundle.manifest import identity
    from trt_var.bundle.opening import Bundle
    from trt_var.bundle.sharing import figures
    from trt_var.bundle.sharing.card import card
    from trt_var.files.outputs import check_targets
    from trt_var.files.writing import replacing

    check_targets(files=[options.out])
    measured = figures.read(options.quality) if options.quality else None
    bundle = Bundle.open(options.bundle)
    if measured and measured.bundle not in (None, identity(bundle.manifest)):
        raise UsageError(f"{options.quality} has figures of another bundle; measure this one with trt-var eval")
    text = card(bundle, options.place or bundle.source or str(options.bundle), measured)
    if options.out is None:
        print(text, end="")
        return
    with replacing(options.out) as file:
        file.write(text.encode())
    print(options.out)
