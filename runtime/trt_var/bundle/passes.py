"""The passes of a decoding: which positions every run of a step graph takes, and behind which past ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_var.bundle.manifest import Manifest, Role
from trt_var.schedule import Schedule


def last_scales(scales: int, n_draft: int) -> dict[Role, int]:
    """The roles that draw, with the last scale of each; ``scales`` may be fewer than there are, where drawing ends early."""
    last: dict[Role, int] = {"drafter": min(n_draft, scales) - 1} if n_draft else {}
    return last if n_draft >= scales else last | {"refiner": scales - 1}


def unguided(guidance: Sequence[float], scales: int, n_draft: int) -> frozenset[Role]:
    """The roles that draw scales without guidance alone; ``guidance`` is the strength of every scale [K]."""
    firsts: dict[Role, int] = {"drafter": 0, "refiner": n_draft}
    last = last_scales(scales, n_draft)
    return frozenset(role for role, end in last.items() if not any(guidance[firsts[role] : end + 1]))


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
