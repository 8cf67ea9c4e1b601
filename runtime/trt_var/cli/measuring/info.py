"""``trt-var info``: what a bundle holds, its checks, its memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.cli import options as arguments
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    from trt_var.bundle.opening import Bundle

MIB = 1 << 20


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Describe a bundle, compare every file with its checksum, and list the memory by batch size; or say how a picture "
        "was made.",
        "info digits",
        "info engines/d30-d16 --json | jq .memory",
        "info grid.png   # how it was made",
    )
    parser.add_argument(
        "bundle",
        type=expanded,
        metavar="DIR|FILE",
        help="the bundle's folder, or digits; or a drawn picture: how it was made",
    )
    arguments.add_json(parser)
    parser.set_defaults(command=_info)


def _info(options: argparse.Namespace) -> None:
    from trt_var.bundle.opening import Bundle
    from trt_var.files.outputs import MOVING

    if options.bundle.suffix.lower() in MOVING and options.bundle.is_file():
        record = _record(options.bundle)
        arguments.print_json(record) if options.json else _print_record(record)
        return
    bundle = Bundle.open(options.bundle)
    bundle.verify()
    found = _described(bundle)
    arguments.print_json(found) if options.json else _print(found)


def _described(bundle: Bundle) -> dict[str, Any]:
    """What ``--json`` prints; docs/reference/shell.md says what the fields mean."""
    from trt_var.bundle.manifest import default_n_draft
    from trt_var.bundle.memory import need

    manifest = bundle.manifest
    n_draft = default_n_draft(manifest)
    needs = {batch: need(manifest, n_draft, batch) for batch in (1, 8, 32, 64)}
    return {
        "path": str(bundle.path),
        "precision": manifest.precision,
        "generator": manifest.generator,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files.values()),
        "image_side": manifest.image_side,
        "classes": manifest.classes,
        "schedule": list(manifest.schedule),
        "tokens": bundle.schedule.length,
        "models": {
            role: {"depth": model.depth, "width": model.width, "parameters": model.parameters, "origin": model.origin}
            for role, model in manifest.models.items()
        },
        "vae": {"channels": manifest.vae_channels, "origin": manifest.vae_origin},
        "serves": list(manifest.serves),
        "max_top_k": manifest.max_top_k,
        "quantised": manifest.quantised or {},
        "engines": _engines(bundle.path),
        "memory": {
            "n_draft": n_draft,
            "weights": needs[1].weights,
            "batches": [
                {"batch": batch, "cache": one.cache, "activations": one.activations} for batch, one in needs.items()
            ],
        },
    }


def _engines(folder: Path) -> list[dict[str, Any]]:
    """TensorRT's, beside the graphs."""
    from trt_var.backends.tensorrt import record as engines

    found = []
    for place in sorted((folder / engines.FOLDER).glob(f"*/{engines.RECORD}")):
        record = engines.read_record(place.parent)
        found.append(
            {
                "name": place.parent.name,
                "engines": len(record.engines),
                "bytes": sum(engine.size for engine in record.engines.values()),
                "serves": list(record.serves),
                "batch": [record.batch.smallest, record.batch.largest],
            }
        )
    return found


def _print(found: dict[str, Any]) -> None:
    precision = f"{found['precision']}{', quantised' if found['quantised'] else ''}"
    print(f"{found['path']}: {precision}, {found['bytes'] / MIB:.0f} MiB, built by {found['generator']}")
    print(f"images      {found['image_side']}×{found['image_side']}, {found['classes']} classes")
    print(f"scales      {_listed(found['schedule'], ' ')} ({found['tokens']} tokens)")
    for role, model in found["models"].items():
        size = f"depth {model['depth']}, width {model['width']}, {model['parameters'] / 1e6:.1f}M parameters"
        print(f"{role:11} {size}, from {_origin(model)}")
    print(f"vae         {found['vae']['channels']} channels, from {_origin(found['vae'])}")
    print(f"n-draft     {_listed(found['serves'])}")
    print(f"top-k       up to {found['max_top_k']}")
    for part, groups in found["quantised"].items():
        print(f"{part:11} {', '.join(f'{group} {kind}' for group, kind in groups.items())}")
    print(f"checksums   {found['files']} files as built")
    for one in found["engines"]:
        print(
            f"engines     {one['name']}: {one['engines']}, {one['bytes'] / MIB:.0f} MiB, N = {_listed(one['serves'])}, "
            f"batches of {one['batch'][0]} to {one['batch'][1]}"
        )
    memory = found["memory"]
    counted = "what an engine adds of its own, packed weights for one, is not counted"
    print(f"\nmemory at n-draft {memory['n_draft']}, MiB; {counted}")
    print(f"mapped from files, once for all processes: {memory['weights'] / MIB:.0f}")
    print("a request, of the process's own:")
    print("batch  cache  activations  total")
    for one in memory["batches"]:
        parts = (one["cache"] / MIB, one["activations"] / MIB)
        print(f"{one['batch']:5}  {parts[0]:5.0f}  {parts[1]:11.0f}  {sum(parts):5.0f}")


def _listed(values: list[int], between: str = ", ") -> str:
    return between.join(map(str, values))


def _origin(part: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in part["origin"].items())


def _record(path: Path) -> dict[str, Any]:
    """Labels, seeds, settings, bundle and backend of a drawn picture."""
    import msgspec

    from trt_var.errors import DataError
    from trt_var.pictures.encoding import read_record

    try:
        return msgspec.json.decode(read_record(path), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(f"the record in {path} is damaged: {error}") from error


def _print_record(record: dict[str, Any]) -> None:
    import msgspec

    from trt_var.errors import printable

    for name, value in record.items():
        print(f"{printable(name):15} {printable(msgspec.json.encode(value).decode())}")
