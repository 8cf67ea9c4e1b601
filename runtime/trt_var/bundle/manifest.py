"""The bundle's manifest: what a bundle holds, as data. docs/bundle.md describes every field."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trt_var.errors import BundleError, printable

SCHEMA = 2
FILE_NAME = "manifest.json"
MAX_BYTES = 4 << 20
MAX_NAME = 255  # bytes, what file systems take
HEAD_WIDTH = 64

Role = Literal["drafter", "refiner"]
Count = Annotated[int, Meta(ge=0)]
Side = Annotated[int, Meta(ge=1, le=256)]
# no control characters: what a manifest says is shown on terminals
Text = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and sha256 of one file."""

    size: Count
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An ONNX graph and the external data file that it points into."""

    onnx: Text
    weights: Text


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transformer: its step graph, perhaps with logits too, its condition table, where its weights came from."""

    depth: Annotated[int, Meta(ge=1, le=128)]
    width: int
    heads: Annotated[int, Meta(ge=1, le=256)]
    parameters: Count
    step: Graph
    conditions: Text
    origin: dict[Text, Text]
    logits: Graph | None = None

    @property
    def vectors(self) -> int:
        """Condition vectors of a class: its embedding, six a block, two of the head."""
        return 6 * self.depth + 3


class Judge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A classifier of real pictures, and the statistics of its features over them."""

    graph: Graph
    reference: Text
    features: Annotated[int, Meta(ge=1, le=65536)]
    accuracy: Annotated[float, Meta(ge=0, le=1)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole bundle."""

    schema: int
    generator: Text
    precision: Literal["fp32", "fp16", "bf16"]
    schedule: Annotated[tuple[Side, ...], Meta(max_length=64)]
    image_side: Annotated[int, Meta(ge=1, le=4096)]
    vocabulary: Annotated[int, Meta(ge=2, le=65536)]
    code_width: Annotated[int, Meta(ge=1, le=4096)]
    classes: Annotated[int, Meta(ge=1, le=10**6)]
    max_top_k: Annotated[int, Meta(ge=1, le=65536)]
    serves: Annotated[tuple[int, ...], Meta(max_length=65)]
    models: dict[Role, Model]
    quantiser: tuple[Graph, ...]
    decoder: Graph
    encoder: Graph
    vae_origin: dict[Text, Text]
    vae_channels: Annotated[int, Meta(ge=1, le=65536)]
    files: dict[Text, File]
    class_names: Text | None = None
    report: Text | None = None
    judge: Judge | None = None
    quantised: dict[Literal["drafter", "refiner", "decoder"], dict[Text, Text]] | None = None
    smooth: tuple[Graph, ...] | None = None
    one_row: bool = False
    untruncated: bool = False


def grids(manifest: Manifest) -> frozenset[str]:
    """What layers are rounded to: of ``int8``, ``fp8``, ``weights`` (of int8, alone) and ``float``; empty if none is."""
    return frozenset(grid for groups in (manifest.quantised or {}).values() for grid in groups.values())


def default_n_draft(manifest: Manifest) -> int:
    """The N of a fine-tuned pair, else all scales but the last two, as far as the pair serves that."""
    return min(manifest.serves, key=lambda n: abs(n - (len(manifest.schedule) - 2)))


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def identity(manifest: Manifest) -> str:
    """The sha256 of the manifest, which holds those of all files: it stands for the whole bundle."""
    return hashlib.sha256(encode(manifest)).hexdigest()


def decode(data: bytes, where: str) -> Manifest:
    """Parse and check a manifest.

    Raises:
        BundleError: not JSON, of a newer schema, a field missing, of another type or out of range, names that are no plain
            file names, or fields that contradict.
    """

    class Version(msgspec.Struct):
        schema: int

    try:
        schema = msgspec.json.decode(data, type=Version).schema
        if schema != SCHEMA:
            fix = "update trt-var" if schema > SCHEMA else "build the bundle again"
            raise BundleError(f"{where} has schema {schema}, this version reads {SCHEMA}: {fix}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not a valid manifest: {printable(str(error))}; build the bundle again") from error
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    names = {name for graph in _graphs(manifest) for name in (graph.onnx, graph.weights)}
    names |= {model.conditions for model in manifest.models.values()}
    names |= {name for name in (manifest.class_names, manifest.report) if name}
    names |= {manifest.judge.reference} if manifest.judge else set()
    for name in sorted({*names, *manifest.files}):
        if not _is_plain(name):
            raise BundleError(
                f"{where} names {name[:MAX_NAME]!r}, which may lie outside the bundle; expected plain file names; refused"
            )
    scales, sides, serves = len(manifest.schedule), list(manifest.schedule), manifest.serves
    problems = {
        "schedule must rise from 1 or more": not sides or sides != sorted(set(sides)),
        "image_side must be a multiple of the last scale's side": bool(sides) and manifest.image_side % sides[-1] > 0,
        "max_top_k must be at most the vocabulary": manifest.max_top_k > manifest.vocabulary,
        "width must be 64 a head": any(model.width != HEAD_WIDTH * model.heads for model in manifest.models.values()),
        "one quantiser graph a scale": len(manifest.quantiser) != scales,
        "one smoothing graph a scale, or none": len(manifest.smooth or manifest.quantiser) != scales,
        "graphs must end in .onnx": any(not graph.onnx.endswith(".onnx") for graph in _graphs(manifest)),
        "models must hold a drafter": "drafter" not in manifest.models,
        "serves must lie in 0..K": not serves or any(not 0 <= n <= scales for n in serves),
        "serves must differ": len(set(serves)) != len(serves),
        "serves below K needs a refiner": any(n < scales for n in serves) and "refiner" not in manifest.models,
        f"files must list {sorted(names - manifest.files.keys())}": not names <= manifest.files.keys(),
    }
    broken = [problem for problem, found in problems.items() if found]
    if broken:
        raise BundleError(f"{where} contradicts itself: {'; '.join(broken)}; build the bundle again")


def _graphs(manifest: Manifest) -> Iterator[Graph]:
    """Every graph that the manifest names."""
    yield from (manifest.decoder, manifest.encoder, *manifest.quantiser, *(manifest.smooth or ()))
    for model in manifest.models.values():
        yield from (graph for graph in (model.step, model.logits) if graph)
    if manifest.judge:
        yield manifest.judge.graph


def _is_plain(name: str) -> bool:
    """Whether a file of that name lies in the bundle's own folder, on every system."""
    return name not in ("", ".", "..", FILE_NAME) and not set("/\\:") & set(name) and len(name.encode()) <= MAX_NAME
