"""``trt-var plan``: what a request costs on a GPU, before one is rented."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trt_var.errors import UsageError

GB, TERA, MAX_LISTED = 1e9, 1e12, 4096


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="memory, operations and the time bound of a bundle on a GPU",
        description="List, by batch size, the memory that a bundle needs, its operations and traffic, the time that the "
        "device's peak rates do not allow to beat (decoder left out), and the largest batch that fits. Needs no GPU.",
    )
    parser.add_argument("--engines", type=Path, required=True, metavar="DIR", help="the bundle")
    parser.add_argument("--device", default="l20", metavar="GPU", help="l4, l20, l40s, a10, a100, h100, h200, 4090, 5090")
    parser.add_argument("--batch", type=_batches, default="1,8,64", metavar="B,B,…", help="default: %(default)s")
    parser.add_argument("--n-draft", type=int, metavar="N", help="default: all scales but two")
    parser.set_defaults(command=_plan, name=name)


def _plan(options: argparse.Namespace) -> None:
    from trt_var import plan
    from trt_var.bundle import Bundle
    from trt_var.manifest import default_n_draft

    manifest = Bundle.open(options.engines).manifest
    gpu = plan.device(options.device)
    n_draft = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    if not all(1 <= batch <= MAX_LISTED for batch in options.batch):
        raise UsageError(f"--batch lists {options.batch}; expected 1 to {MAX_LISTED}")
    found = {batch: plan.plan(manifest, gpu, n_draft, batch) for batch in options.batch}
    print(f"{options.engines} ({manifest.precision}) on {options.device}, {gpu.memory / GB:.0f} GB, N = {n_draft}")
    print("batch  weights  cache  activations  total GB   TFLOP  traffic GB  at least")
    for batch, cost in found.items():
        memory = cost.memory
        parts = (memory.weights / GB, memory.cache / GB, memory.activations / GB, memory.total / GB)
        print(
            f"{batch:5}  {parts[0]:7.2f}  {parts[1]:5.2f}  {parts[2]:11.2f}  {parts[3]:8.2f}  {cost.operations / TERA:6.2f}"
            f"  {cost.traffic / GB:10.2f}  {cost.seconds * 1000:5.0f} ms"
            + ("" if memory.total <= plan.USABLE * gpu.memory else "  does not fit")
        )
    print(f"largest batch that fits: {plan.largest_batch(manifest, gpu, n_draft)}")


def _batches(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]
