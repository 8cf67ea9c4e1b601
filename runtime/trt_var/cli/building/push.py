"""``trt-var push``: a bundle onto the Hugging Face hub."""

from __future__ import annotations

import argparse

from trt_var.cli import options as arguments
from trt_var.files.paths import expanded


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Compare every file of a bundle with its checksum, and upload what the manifest names, with a model card, in one "
        "commit: the folder's README.md, else what trt-var card writes, unless somebody's own is there. A bundle that is "
        "there is replaced; something else is not. Log in before with hf auth login, or set HF_TOKEN. What is printed "
        "loads the bundle at this commit.",
        "push engines/d30-d16 me/d30-d16 --private",
        'push engines/d30-d16-int8 me/d30-d16 --revision int8 --message "int8 products"',
    )
    parser.add_argument("bundle", type=expanded, metavar="DIR", help="the bundle's folder, or digits")
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the hub; made if it is not there")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="made if it is not there (default: main)")
    parser.add_argument("--private", action="store_true", help="for its owner alone; one that is there must be so")
    parser.add_argument("--message", default="", metavar="TEXT", help="of the commit (default: the bundle's checksum)")
    parser.set_defaults(command=_push)


def _push(options: argparse.Namespace) -> None:
    from trt_var.bundle.opening import Bundle
    from trt_var.bundle.sharing.pushing import push

    bundle = Bundle.open(options.bundle, verify=True)
    given = {name: getattr(options, name) for name in ("revision", "private", "message")}
    print(push(bundle, options.repository, **given))
