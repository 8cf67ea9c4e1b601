"""The reference of a bundle's manifest: its structs, with what docs/bundle.md says of their fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from trt_var.bundle import manifest

SAID = Path(__file__).parents[1] / "docs" / "bundle.md"
STRUCTS = (manifest.Manifest, manifest.Model, manifest.Graph, manifest.File, manifest.Judge)
BEGIN = f"""# Manifest schema

Schema {manifest.SCHEMA}, generated from `runtime/trt_var/bundle/manifest.py`. A bundle has it as `manifest.json`; unknown
fields are refused. What the files are: [Bundles](../bundle.md). For other programs, as [JSON Schema](manifest.schema.json).
"""


def pages() -> dict[str, str | bytes]:
    """Markdown of the page, and the same as JSON Schema."""
    parts = [BEGIN]
    said = _said()
    for struct in STRUCTS:
        rows = ["| field | type | what |", "|---|---|---|"]
        for field in msgspec.structs.fields(struct):
            what = said.get(field.name, "") if struct is manifest.Manifest else ""
            default = "" if field.required else f"; `{_json(field.default)}` if it is missing"
            rows.append(f"| `{field.encode_name}` | {_type(inspect.type_info(field.type))}{default} | {what} |")
        title = struct.__name__
        if struct is not manifest.Manifest:
            rows = [re.sub(r" \|  \|$|\| what \|$", " |", row).replace("|---|---|---|", "|---|---|") for row in rows]
        parts += [f"## {title} {{ #{title.lower()} }}", (struct.__doc__ or "").strip(), "\n".join(rows)]
    as_json = msgspec.json.format(msgspec.json.encode(msgspec.json.schema(manifest.Manifest)), indent=2)
    return {"reference/manifest.md": "\n\n".join(parts) + "\n", "reference/manifest.schema.json": as_json}


def problems() -> Iterator[str]:
    """Fields that docs/bundle.md does not describe, and structs that have no part of the page."""
    said = _said()
    for field in msgspec.structs.fields(manifest.Manifest):
        if field.name not in said:
            yield f"bundle.md does not describe the manifest's field {field.name}"
    structs = {value for value in vars(manifest).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)}
    for missing in structs - set(STRUCTS):
        yield f"website/schema.py leaves out {missing.__name__}"


def _said() -> dict[str, str]:
    """Of each field, what the table of docs/bundle.md says; links as they hold one folder deeper."""
    table = SAID.read_text("utf-8").partition("Manifest, schema")[2].partition("Tensors of a step graph")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE)
    deeper = [(names, re.sub(r"\]\((?=[\w-]+\.md)", "](../", what)) for names, what in rows]
    return {name: what for names, what in deeper for name in re.findall(r"`(\w+)`", names)}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _type(kind: inspect.Type) -> str:
    """A type with its range, in words."""
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_type(one) for one in kind.types)
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, inspect.StructType):
        return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
    if isinstance(kind, inspect.VarTupleType):
        most = f", at most {kind.max_length}" if kind.max_length else ""
        return f"list of {_type(kind.item_type)}{most}"
    if isinstance(kind, inspect.DictType):
        return f"object: {_type(kind.key_type)} → {_type(kind.value_type)}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        name = "whole number" if isinstance(kind, inspect.IntType) else "number"
        if kind.ge is None:
            return name
        return f"{name}, {kind.ge} or more" if kind.le is None else f"{name}, {kind.ge} to {kind.le}"
    if isinstance(kind, inspect.StrType):
        return "64 hexadecimal digits" if "a-f" in (kind.pattern or "") else "text"
    return {inspect.NoneType: "null", inspect.BoolType: "true or false"}[type(kind)]
