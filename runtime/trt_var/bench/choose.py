"""Choosing N, batch and precision under targets, from measured times or from a device's peak rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from trt_var.bench import plan
from trt_var.bench.measure import EAGERS, Models, Row, models
from trt_var.bundle.manifest import Manifest
from trt_var.bundle.memory import MAX_BATCH
from trt_var.errors import UsageError
from trt_var.schedule import Schedule

FASTEST = 1e-9  # seconds that anything here can have taken
MAX_REPORT = 64 << 20
# FID over 50 000 ImageNet images of VAR-d30 + d16 by N (arXiv 2411.17787): fine-tuned for that N, and as they were trained
FINETUNED = {9: 1.94, 8: 1.98, 7: 2.11, 6: 2.27}
TRAINING_FREE = {10: 1.95, 9: 1.99, 8: 2.10, 7: 2.26, 6: 2.42}
PAIR = {"drafter": 30, "refiner": 16}


@dataclass(frozen=True)
class Candidate:
    """One way of drawing a batch.

    Attributes:
        engines, backend: what draws it; the device's name where nothing was measured.
        n_draft, batch: see ``Pipeline.generate``.
        seconds: of a batch, the decoder included if it was measured.
        memory: bytes.
        origin: ``measured``, ``composed`` of measured scales, or ``bound``, which nothing can be faster than.
    """

    engines: str
    backend: str
    n_draft: int
    batch: int
    seconds: float
    memory: int
    origin: str

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class Targets:
    """What must hold; None for what need not.

    Attributes:
        latency: seconds a batch at most.
        memory: bytes at most.
        fid: published FID at most.
    """

    latency: float | None = None
    memory: float | None = None
    fid: float | None = None

    def misses(self, candidate: Candidate, fid: float | None) -> Iterator[str]:
        """Why a candidate does not do."""
        if self.latency is not None and candidate.seconds > self.latency:
            yield f"{candidate.seconds:.3g} s is above {self.latency:g} s"
        if self.memory is not None and candidate.memory > self.memory:
            yield f"{candidate.memory / 1e9:.2f} GB is above {self.memory / 1e9:g} GB"
        if self.fid is not None and fid is None:
            yield "no FID is published for this N"
        elif self.fid is not None and fid is not None and fid > self.fid:
            yield f"FID {fid} is above {self.fid:g}"


@dataclass(frozen=True)
class Choice:
    """The best candidate, or none, and why each of the others does not do (empty: it does, but another is better)."""

    best: Candidate | None
    others: Sequence[tuple[Candidate, list[str]]]


def choose(candidates: Sequence[Candidate], targets: Targets, fids: dict[int, float]) -> Choice:
    """With a FID to keep, the most images a second under the targets; else the largest N, then the most images a second."""
    judged = [(one, list(targets.misses(one, fids.get(one.n_draft)))) for one in candidates]
    fitting = [one for one, reasons in judged if not reasons]

    def worth(one: Candidate) -> tuple[float, ...]:
        return (one.rate,) if targets.fid is not None else (one.n_draft, one.rate)

    best = max(fitting, key=worth, default=None)
    return Choice(best, [(one, reasons) for one, reasons in judged if one is not best])


def published_fids(manifest: Manifest) -> dict[int, float]:
    """FID by N of the released pair, fine-tuned if the bundle serves one N alone; nothing for other models."""
    depths = {role: model.depth for role, model in manifest.models.items()}
    if depths != PAIR or manifest.classes != 1000:
        return {}
    return FINETUNED if len(manifest.serves) == 1 else TRAINING_FREE


def read_rows(path: Path, manifest: Manifest) -> list[Row]:
    """The rows of a report of ``trt-var bench`` that are of a bundle's models, in whatever precision; none of eager PyTorch.

    Raises:
        UsageError: no such file; not a report; none of these models; a row that this bundle cannot have given.
    """

    class Report(msgspec.Struct):
        bundles: dict[str, Models]
        rows: list[Row]

    try:
        report = msgspec.json.decode(_content(path), type=Report)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); trt-var bench --out DIR writes DIR/report.json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a report of trt-var bench ({error})") from error
    wanted, rows = models(manifest), [row for row in report.rows if row.setting.backend not in EAGERS]
    alike = {name for name, found in report.bundles.items() if found.alike(wanted)}
    chosen = [row for row in rows if row.setting.engines in alike]
    if rows and not chosen:
        raise UsageError(f"{path} measured other models ({', '.join(report.bundles)}), not those of --engines; bench these")
    for row in chosen:
        if problem := next(_problems(row, manifest), None):
            raise UsageError(f"{path} has a row with {problem}; measure again with trt-var bench")
    return chosen


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; trt-var bench --out DIR writes DIR/report.json")
    with path.open("rb") as file:
        data = file.read(MAX_REPORT + 1)
    if len(data) > MAX_REPORT:
        raise UsageError(f"{path} is larger than {MAX_REPORT} bytes: not a report")
    return data


def _problems(row: Row, manifest: Manifest) -> Iterator[str]:
    """What no measurement of this bundle can have given."""
    setting, scales = row.setting, len(manifest.schedule)
    if setting.n_draft not in manifest.serves:
        yield f"N = {setting.n_draft}, expected {', '.join(map(str, manifest.serves))}"
    if not 1 <= setting.batch <= MAX_BATCH:
        yield f"batch {setting.batch}, expected 1 to {MAX_BATCH}"
    if len(row.scales) != scales:
        yield f"{len(row.scales)} scales, expected {scales}"
    if not all(math.isfinite(time) and time > FASTEST for time in (row.first, row.total, row.decoder, *row.scales)):
        yield f"times that are not all finite and above {FASTEST:g} s"
    if row.peak <= 0 or (row.device_memory is not None and row.device_memory <= 0):
        yield "memory that is not above 0"
    if not (setting.engines.isprintable() and setting.backend.isprintable()):
        yield "names that are no text"


def measured(rows: Sequence[Row], manifest: Manifest) -> list[Candidate]:
    """What was measured, and what can be composed: every N served, where both plain models were measured alike."""
    found = [_candidate(row) for row in rows]
    known = {(one.engines, one.backend, one.batch, one.n_draft) for one in found}
    by_place: dict[tuple[str, str, int], dict[int, Row]] = {}
    for row in rows:
        by_place.setdefault((row.setting.engines, row.setting.backend, row.setting.batch), {})[row.setting.n_draft] = row
    scales = len(manifest.schedule)
    for place, plain in by_place.items():
        if 0 in plain and scales in plain:
            missing = [n for n in manifest.serves if (*place, n) not in known]
            found += [_composed(plain[scales], plain[0], manifest, n) for n in missing]
    return found


def bounds(manifest: Manifest, engines: str, device: str, batches: Sequence[int]) -> list[Candidate]:
    """Every N and batch that fits the device, at the time that its peak rates do not allow to beat, decoder left out."""
    gpu = plan.device(device)
    found = []
    for n_draft in manifest.serves:
        for batch in batches:
            cost = plan.plan(manifest, gpu, n_draft, batch)
            if cost.memory.total <= plan.USABLE * gpu.memory:
                found.append(Candidate(engines, device, n_draft, batch, cost.seconds, cost.memory.total, "bound"))
    return found


def _candidate(row: Row) -> Candidate:
    setting = row.setting
    memory = row.peak if row.device_memory is None else row.device_memory
    return Candidate(setting.engines, setting.backend, setting.n_draft, setting.batch, row.total, memory, "measured")


def _composed(drafter: Row, refiner: Row, manifest: Manifest, n_draft: int) -> Candidate:
    """The drafter's first scales, the hand-over at the refiner's time for so many positions, the refiner's other scales."""
    schedule = Schedule(manifest.schedule)
    positions = [schedule.tokens(scale) for scale in range(schedule.scales)]
    slope, fixed = np.polyfit(positions, refiner.scales, 1)
    hand_over = max(fixed + slope * schedule.begin(n_draft + 1), refiner.scales[n_draft])
    seconds = sum(drafter.scales[:n_draft]) + hand_over + sum(refiner.scales[n_draft + 1 :]) + drafter.decoder
    memory = max(_candidate(drafter).memory, _candidate(refiner).memory)
    return replace(_candidate(drafter), n_draft=n_draft, seconds=float(seconds), memory=memory, origin="composed")
