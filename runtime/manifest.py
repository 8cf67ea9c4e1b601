"""The bundle's manifest: what a bundle holds, as data. docs/bundle.md describes every field."""

from __future__ import annotations

from typing import Literal

import msgspec
from trt_var.errors import BundleError

SCHEMA = 2
FILE_NAME = "manifest.json"
MAX_BYTES = 4 << 20

Role = Literal["drafter", "refiner"]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An ONNX graph and the external data file that it points into."""

    onnx: str
    weights: str


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transformer: its step graph, perhaps with logits too, its condition table, where its weights came from."""

    depth: int
    width: int
    heads: int
    parameters: int
    step: Graph
    conditions: str
    origin: dict[str, str]
    logits: Graph | None = None

    @property
    def vectors(self) -> int:
        """Condition vectors of a class: its embedding, six a block, two of the head."""
        return 6 * self.depth + 3


class Judge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A classifier of real pictures, and the statistics of its features over them."""

    graph: Graph
    reference: str
    features: int
    accuracy: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole bundle."""

    schema: int
    generator: str
    precision: Literal["fp32", "fp16"]
    schedule: tuple[int, ...]
    image_side: int
    vocabulary: int
    code_width: int
    classes: int
    max_top_k: int
    serves: tuple[int, ...]
    models: dict[Role, Model]
    quantiser: tuple[Graph, ...]
    decoder: Graph
    encoder: Graph
    vae_origin: dict[str, str]
    vae_channels: int
    files: dict[str, File]
    class_names: str | None = None
    report: str | None = None
    judge: Judge | None = None
    quantised: dict[Literal["drafter", "refiner", "decoder"], dict[str, str]] | None = None
    smooth: tuple[Graph, ...] | None = None


def default_n_draft(manifest: Manifest) -> int:
    """The N of a fine-tuned pair, else all scales but the last two, as far as the pair serves that."""
    return min(manifest.serves, key=lambda n: abs(n - (len(manifest.schedule) - 2)))


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """Parse and check a manifest.

    Raises:
        BundleError: not JSON, of a newer schema, a field missing or of another type, or fields that contradict.
    """

    class Version(msgspec.Struct):
        schema: int

    try:
        schema = msgspec.json.decode(data, type=Version).schema
        if schema != SCHEMA:
            fix = "update trt-var" if schema > SCHEMA else "build the bundle again"
            raise BundleError(f"{where} has schema {schema}, this version reads {SCHEMA}: {fix}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"{where} is not a valid manifest: {error}; build the bundle again") from error
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    scales = len(manifest.schedule)
    sides = list(manifest.schedule)
    used = [manifest.decoder, manifest.encoder, *manifest.quantiser, *(model.step for model in manifest.models.values())]
    used += [manifest.judge.graph] if manifest.judge else []
    used += [*(manifest.smooth or ()), *(model.logits for model in manifest.models.values() if model.logits)]
    names = {name for graph in used for name in (graph.onnx, graph.weights)}
    names |= {model.conditions for model in manifest.models.values()}
    names |= {name for name in (manifest.class_names, manifest.report) if name}
    names |= {manifest.judge.reference} if manifest.judge else set()
    problems = {
        "schedule must rise from 1 or more": not sides or sides[0] < 1 or sides != sorted(set(sides)),
        "one quantiser graph a scale": len(manifest.quantiser) != scales,
        "one smoothing graph a scale, or none": len(manifest.smooth or manifest.quantiser) != scales,
        "models must hold a drafter": "drafter" not in manifest.models,
        "serves must lie in 0..K": not manifest.serves or any(not 0 <= n <= scales for n in manifest.serves),
        "serves below K needs a refiner": any(n < scales for n in manifest.serves) and "refiner" not in manifest.models,
        "sizes must be positive": min(manifest.image_side, manifest.vocabulary, manifest.classes, manifest.max_top_k) < 1,
        f"files must list {sorted(names - manifest.files.keys())}": not names <= manifest.files.keys(),
    }
    broken = [problem for problem, found in problems.items() if found]
    if broken:
        raise BundleError(f"{where} contradicts itself: {'; '.join(broken)}; build the bundle again")
