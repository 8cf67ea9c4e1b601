"""The record of TensorRT engines beside a bundle's graphs: where they lie and what they were built for.

Nothing here imports TensorRT: the builder (trt_var_export/engines.py) and the runtime share it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from trt_var.bundle.manifest import Role
from trt_var.bundle.memory import MAX_BATCH
from trt_var.errors import BundleError

SCHEMA = 1
FOLDER = "tensorrt"
RECORD = "record.json"
MAX_RECORD = 16 << 20  # bytes
Kind = Literal["tensorrt", "rtx", "simulated"]
FINAL = ".final"  # an engine without keys and values, for the last scale: nothing reads them
MODULES: dict[Kind, str] = {
    "tensorrt": "tensorrt",
    "rtx": "tensorrt_rtx_bindings",
    "simulated": "trt_var.backends.tensorrt.simulated.engine",
}
EXTRAS: dict[Kind, str] = {"tensorrt": "gpu", "rtx": "rtx", "simulated": "cpu"}
Shape = tuple[int, ...]
Guidance = Literal["guided", "free", "refiner-free"]
GUIDED: tuple[Guidance, ...] = ("guided",)


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
    """What a folder of engines was built with and for; ``guidance`` says what takes one row an image, see ``rows``."""

    schema: int
    kind: Kind
    version: str
    target: str
    batch: Batch
    serves: tuple[int, ...]
    engines: dict[str, Engine]
    guidance: tuple[Guidance, ...] = GUIDED


def rows(guidance: Collection[Guidance], role: Role) -> tuple[int, ...]:
    """How many rows an image has in the passes of a model, rising: two where it is guided, one where it is not."""
    one = "free" in guidance or (role == "refiner" and "refiner-free" in guidance)
    two = "guided" in guidance or (role == "drafter" and "refiner-free" in guidance)
    return (*((1,) if one else ()), *((2,) if two else ()))


def halves(guidance: Collection[Guidance], role: Role) -> bool:
    """Whether there are passes with one row an image."""
    return 1 in rows(guidance, role)


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
