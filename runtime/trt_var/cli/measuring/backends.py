"""``trt-var backends``: what is usable here, and why the others are not."""

from __future__ import annotations

import argparse
from typing import Any


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name, help="what can run bundles on this machine", description="List the backends, usable or not and why."
    )
    parser.set_defaults(command=_list, name=name)


def _list(options: argparse.Namespace) -> None:
    from trt_var.backends import choosing as backends

    statuses = backends.statuses()
    chosen = backends.fastest(statuses)
    for status in statuses:
        mark = "auto" if status is chosen else "yes" if status.usable else "no"
        print(f"{status.name:12} {mark:5} {status.detail}")
