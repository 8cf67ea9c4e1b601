"""TensorRT engines beside a bundle's graphs: where they lie, what they were built for, the shapes of their profiles.

Nothing here imports TensorRT: the builder (export/engines.py), the runtime and the memory plan share it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from trt_var.decoding import DECODER_BATCH
from trt_var.errors import BundleError
from trt_var.manifest import HEAD_WIDTH, Graph, Manifest, Model, Role
from trt_var.requests import MAX_BATCH
from trt_var.schedule import Schedule

log = logging.getLogger(__name__)
SCHEMA = 1
FOLDER = "tensorrt"
RECORD = "record.json"
MAX_RECORD = 16 << 20  # bytes
KEPT_MESSAGES = 20
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
_TYPE = re.compile(r"Datatype: (\w+)")
Kind = Literal["tensorrt", "rtx", "simulated"]
FINAL = ".final"  # an engine without keys and values, for the last scale: nothing reads them
MODULES: dict[Kind, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx_bindings", "simulated": "trt_var.simulated"}
EXTRAS: dict[Kind, str] = {"tensorrt": "gpu", "rtx": "rtx", "simulated": "cpu"}
Shape = tuple[int, ...]


class Batch(msgspec.Struct, frozen=True):
    """The batch sizes that engines are built for; ``usual`` is what they are tuned for."""

    smallest: int
    usual: int
    largest: int


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One optimisation profile: smallest, usual and largest shape of every input."""

    name: str
    shapes: dict[str, tuple[Shape, Shape, Shape]]


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan.

    Attributes:
        sources: sha256 of the bundle's files that it was built from.
        layers: how many of each kind and type of their input, as the builder's own account of the engine has them.
        scratch: bytes of scratch memory for the largest shapes.
    """

    plan: str
    size: int
    sha256: str
    sources: dict[str, str]
    seconds: float
    profiles: tuple[Profile, ...]
    layers: dict[str, int] = {}
    scratch: int = 0


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder of engines was built with and for."""

    schema: int
    kind: Kind
    version: str
    target: str
    batch: Batch
    serves: tuple[int, ...]
    engines: dict[str, Engine]


def folder(bundle: Path, kind: Kind, version: str, target: str) -> Path:
    """Where the engines of a kind, version and GPU lie."""
    return bundle / FOLDER / f"{kind}-{version}-{target}"


def read_record(path: Path) -> Record:
    """Read a folder's record.

    Raises:
        BundleError: none there, damaged, or with contents that contradict each other.
    """
    file = path / RECORD
    try:
        if not file.is_file():
            raise BundleError(f"no engines at {path} (no {RECORD}); build them with trt-var engines")
        with file.open("rb") as opened:
            data = opened.read(MAX_RECORD + 1)
        if len(data) > MAX_RECORD:
            raise BundleError(f"{file} is larger than {MAX_RECORD} bytes: not a record; build the engines again")
        record = msgspec.json.decode(data, type=Record)
    except OSError as error:
        raise BundleError(f"cannot read {file} ({error.strerror}); build the engines with trt-var engines") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{file} is not a valid record: {error}; build the engines again") from error
    if record.schema != SCHEMA:
        raise BundleError(f"{file} has schema {record.schema}, this version reads {SCHEMA}; build the engines again")
    if problems := list(_problems(record)):
        raise BundleError(f"{file} cannot be meant: {'; '.join(problems)}; build them with trt-var engines")
    return record


def _problems(record: Record) -> Iterator[str]:
    """What a record may not say."""
    batch = record.batch
    if not 1 <= batch.smallest <= batch.usual <= batch.largest <= MAX_BATCH:
        yield f"batch must rise within 1 to {MAX_BATCH}"
    for name, engine in record.engines.items():
        if not _plain(engine.plan):
            yield f"the plan of {name} must be a plain file name"
        if not engine.sources or not all(map(_plain, engine.sources)):
            yield f"the sources of {name} must be plain file names"
        if not engine.profiles or not all(_rising(*one) for profile in engine.profiles for one in profile.shapes.items()):
            yield f"the profiles of {name} must hold shapes that rise and have one rank"


def _plain(name: str) -> bool:
    """Whether a name is a file's in the folder itself."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")


def _rising(name: str, shapes: tuple[Shape, Shape, Shape]) -> bool:
    """Whether an input's three shapes are of one rank, none smaller than the one before; only a cache may be empty."""
    least = 0 if name.startswith("past_") else 1
    return len(set(map(len, shapes))) == 1 and all(least <= a <= b <= c for a, b, c in zip(*shapes, strict=True))


@dataclass(frozen=True)
class Pass:
    """One run of a step graph: n positions of which the last m are drawn, behind T past ones."""

    name: str
    n: int
    m: int
    past: int


def passes(manifest: Manifest, role: Role, *, shadow: bool = False) -> list[Pass]:
    """Every pass that a role can be asked for, by the N that the bundle serves; single scales, then hand-overs.

    With ``shadow`` the refiner may also run over every scale that the drafter draws.
    """
    schedule = Schedule(manifest.schedule)
    scales = schedule.scales
    if role == "drafter":
        return [_single(schedule, scale) for scale in range(max(manifest.serves))]
    served = [n for n in manifest.serves if n < scales]
    first = {0} & set(served)
    singles = sorted({scale for n in served for scale in range(n + 1, scales)} | (set(range(scales)) if shadow else first))
    handed = [Pass(f"hand-over {n}", schedule.begin(n + 1), schedule.tokens(n), 0) for n in served if n]
    return [_single(schedule, scale) for scale in singles] + handed


def _single(schedule: Schedule, scale: int) -> Pass:
    return Pass(f"scale {scale}", schedule.tokens(scale), schedule.tokens(scale), schedule.begin(scale))


def graphs(manifest: Manifest) -> dict[str, Graph]:
    """What engines are built from, by name: every graph, and the transformer that draws the last scale once more."""
    every = [*(model.step for model in manifest.models.values()), *manifest.quantiser, manifest.decoder, manifest.encoder]
    found = {Path(graph.onnx).stem: graph for graph in every}
    last = "refiner" if "refiner" in manifest.models and min(manifest.serves) < len(manifest.schedule) else "drafter"
    return found | {f"{last}{FINAL}": found[last]}


def profiles(manifest: Manifest, graph: str, batch: Batch, *, shadow: bool = False) -> tuple[Profile, ...]:
    """The profiles of an engine, by its name: one a scale, and one for all of the refiner's hand-overs."""
    sizes = (batch.smallest, batch.usual, batch.largest)
    if graph.removesuffix(FINAL) in manifest.models:
        role: Role = "drafter" if graph.startswith("drafter") else "refiner"
        found = passes(manifest, role, shadow=shadow)
        if graph.endswith(FINAL):
            end = Schedule(manifest.schedule).length
            found = [one for one in found if one.past + one.n == end]
        return tuple(_step_profiles(manifest, role, found, sizes))
    schedule, code = Schedule(manifest.schedule), manifest.code_width
    if graph == "encoder":
        side = manifest.image_side
        shapes: dict[str, list[Shape]] = {"image": [(b, 3, side, side) for b in sizes]}
    elif graph == "decoder":
        shapes = {"f_hat": [(min(b, DECODER_BATCH), code, schedule.side, schedule.side) for b in sizes]}
    else:
        n = schedule.tokens(int(graph.removeprefix("quantise_")))
        maps: list[Shape] = [(b, code, schedule.side, schedule.side) for b in sizes]
        keep: list[Shape] = [(b, 1, schedule.side, schedule.side) for b in sizes]
        shapes = {"tokens": [(n, b) for b in sizes], "f_hat": maps, "kept": maps, "keep": keep}
    return (Profile("batch", {name: _three(listed) for name, listed in shapes.items()}),)


def _step_profiles(manifest: Manifest, role: Role, found: list[Pass], sizes: tuple[int, int, int]) -> Iterator[Profile]:
    model, code = manifest.models[role], manifest.code_width
    for one in (one for one in found if one.name.startswith("scale")):
        shapes = [step_shapes(model, code, one, b) for b in sizes]
        yield Profile(one.name, {name: _three([shape[name] for shape in shapes]) for name in shapes[0]})
    handed = sorted((one for one in found if not one.name.startswith("scale")), key=lambda one: one.n)
    if handed:
        usual = handed[len(handed) // 2 if len(handed) < 3 else -2]  # of all N, all scales but two
        chosen = [
            Pass("", min(one.n for one in handed), min(one.m for one in handed), 0),
            usual,
            Pass("", handed[-1].n, max(one.m for one in handed), 0),
        ]
        shapes = [step_shapes(model, code, one, b) for one, b in zip(chosen, sizes, strict=True)]
        yield Profile("hand-over", {name: _three([shape[name] for shape in shapes]) for name in shapes[0]})


def step_shapes(model: Model, code_width: int, one: Pass, batch: int) -> dict[str, Shape]:
    """Shape of every input of a step graph in one pass."""
    rows = 2 * batch
    shapes: dict[str, Shape] = {
        "features": (one.n, batch, code_width),
        "conditions": (rows, model.vectors, model.width),
        "uniforms": (one.m, batch),
        **dict.fromkeys(("guidance", "temperature", "top_p", "top_k"), (1, batch)),
    }
    cache = (one.past, rows, model.heads, HEAD_WIDTH)
    return shapes | {f"past_{which}_{block}": cache for block in range(model.depth) for which in "kv"}


def _three(shapes: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    return shapes[0], shapes[1], shapes[2]


def _kind(line: str) -> str:
    """``attention Half`` and the like from a line of the builder's account: name, types of inputs and outputs."""
    named = line.split(", Inputs:", 1)[0]
    kinds = {"attention": ("_mha", "fmha"), "gemm": ("Fc", "gemm", "gemv", "MatMul"), "conv": ("Conv", "conv")}
    kind = next((kind for kind, parts in kinds.items() if any(part in named for part in parts)), "other")
    types = _TYPE.findall(line)
    return f"{kind} {types[0]}" if types and kind != "other" else kind


def make_logger(trt: Any) -> Any:
    """A logger for TensorRT's objects that keeps what went wrong (``last()``), and the builder's account of an engine."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is found at run time
        _messages: list[str]
        layers: Counter[str]
        scratch: int

        def __init__(self) -> None:
            super().__init__()
            self.clear()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._messages = [*self._messages[-KEPT_MESSAGES:], message]
                return
            if message.startswith("Layers:"):
                self.layers += Counter(_kind(line) for line in message.splitlines() if "LayerType: " in line)
            elif match := _SCRATCH.match(message):
                self.scratch = max(self.scratch, int(match[1]))
            log.debug("%s", message)

        def last(self) -> str:
            return self._messages[-1] if self._messages else "no reason given"

        def clear(self) -> None:
            self._messages = []
            self.layers = Counter()
            self.scratch = 0

    return Logger()
