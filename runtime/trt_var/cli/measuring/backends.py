"""``trt-var backends``: what is usable here, and why the others are not."""

from __future__ import annotations

import argparse
import sys

from trt_var.cli import options as arguments
from trt_var.cli.progress import FAINT, GREEN, painted


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser, "List the backends, usable or not and why.", "backends", "backends --json | jq -r .auto   # what auto takes"
    )
    arguments.add_json(parser)
    parser.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> None:
    from trt_var.backends import choosing as backends

    statuses = backends.statuses()
    chosen = backends.fastest(statuses)
    if options.json:
        names = ("name", "usable", "broken", "detail")
        listed = [{name: getattr(status, name) for name in names} for status in statuses]
        arguments.print_json({"auto": chosen.name if chosen else None, "backends": listed})
        return
    for status in statuses:
        mark = "auto" if status is chosen else "yes" if status.usable else "no"
        print(f"{status.name:12} {painted(f'{mark:5}', GREEN if status.usable else FAINT, sys.stdout)} {status.detail}")
