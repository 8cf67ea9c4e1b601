"""``trt-var info``: what a bundle holds, its checks, its memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trt_var.files.paths import expanded

MIB = 1 << 20


def add(subparsers: Any, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="what a bundle holds, whether it is whole, what memory it needs",
        description="Describe a bundle, compare every file with its checksum, and list the memory by batch size.",
    )
    parser.add_argument(
        "bundle", type=expanded, metavar="DIR", help="the bundle's folder; or a drawn picture: how it was made"
    )
    parser.set_defaults(command=_info, name=name)


def _info(options: argparse.Namespace) -> None:
    from trt_var.backends.tensorrt import record as engines
    from trt_var.bundle.manifest import default_n_draft
    from trt_var.bundle.memory import need
    from trt_var.bundle.opening import Bundle
    from trt_var.files.outputs import MOVING

    if options.bundle.suffix.lower() in MOVING and options.bundle.is_file():
        _print_record(options.bundle)
        return
    bundle = Bundle.open(options.bundle)
    manifest = bundle.manifest
    bundle.verify()
    total = sum(file.size for file in manifest.files.values())
    print(f"{bundle.path}: {manifest.precision}, {total / MIB:.0f} MiB, built by {manifest.generator}")
    print(f"images      {manifest.image_side}×{manifest.image_side}, {manifest.classes} classes")
    print(f"scales      {' '.join(map(str, manifest.schedule))} ({bundle.schedule.length} tokens)")
    for role, model in manifest.models.items():
        origin = ", ".join(f"{key} {value}" for key, value in model.origin.items())
        print(f"{role:11} depth {model.depth}, width {model.width}, {model.parameters / 1e6:.1f}M parameters, from {origin}")
    print(
        f"vae         {manifest.vae_channels} channels, from {', '.join(f'{k} {v}' for k, v in manifest.vae_origin.items())}"
    )
    print(f"n-draft     {', '.join(map(str, manifest.serves))}")
    print(f"top-k       up to {manifest.max_top_k}")
    for part, groups in (manifest.quantised or {}).items():
        print(f"{part:11} {', '.join(f'{group} {kind}' for group, kind in groups.items())}")
    print(f"checksums   {len(manifest.files)} files as built")
    for folder in sorted((bundle.path / engines.FOLDER).glob(f"*/{engines.RECORD}")):
        record = engines.read_record(folder.parent)
        size, served = sum(engine.size for engine in record.engines.values()), ", ".join(map(str, record.serves))
        print(
            f"engines     {folder.parent.name}: {len(record.engines)}, {size / MIB:.0f} MiB, N = {served}, batches of "
            f"{record.batch.smallest} to {record.batch.largest}"
        )
    n_draft = default_n_draft(manifest)
    print(f"\nmemory at n-draft {n_draft}, MiB; what an engine adds of its own, packed weights for one, is not counted")
    print(f"mapped from files, once for all processes: {need(manifest, n_draft, 1).weights / MIB:.0f}")
    print("a request, of the process's own:")
    print("batch  cache  activations  total")
    for batch in (1, 8, 32, 64):
        parts = need(manifest, n_draft, batch)
        own = parts.cache + parts.activations
        print(f"{batch:5}  {parts.cache / MIB:5.0f}  {parts.activations / MIB:11.0f}  {own / MIB:5.0f}")


def _print_record(path: Path) -> None:
    """Labels, seeds, settings, bundle and backend of a drawn picture."""
    import msgspec

    from trt_var.errors import DataError, printable
    from trt_var.pictures.encoding import read_record

    try:
        record = msgspec.json.decode(read_record(path), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(f"the record in {path} is damaged: {error}") from error
    for name, value in record.items():
        print(f"{printable(name):15} {printable(msgspec.json.encode(value).decode())}")
