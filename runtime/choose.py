"""Choosing N, batch and precision under targets, from measured times or from a device's peak rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from trt_var import plan
from trt_var.errors import UsageError
from trt_var.manifest import Manifest
from trt_var.measure import EAGER, Row
from trt_var.schedule import Schedule

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


def read_rows(path: Path) -> list[Row]:
    """The rows of a report of ``trt-var bench``, eager PyTorch left out.

    Raises:
        UsageError: no such file, or not a report.
    """

    class Report(msgspec.Struct):
        rows: list[Row]

    try:
        if path.stat().st_size > MAX_REPORT:
            raise UsageError(f"{path} is larger than {MAX_REPORT} bytes: not a report")
        rows = msgspec.json.decode(path.read_bytes(), type=Report).rows
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); trt-var bench --out DIR writes DIR/report.json") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not a report of trt-var bench ({error})") from error
    return [row for row in rows if row.setting.backend != EAGER]


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
