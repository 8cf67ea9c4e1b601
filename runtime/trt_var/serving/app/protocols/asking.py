"""From a client's words to what an engine is asked."""

from __future__ import annotations

import secrets
from dataclasses import fields, replace
from typing import Any

from trt_var.decoding.sampling import Sampling, preset
from trt_var.errors import UsageError
from trt_var.requests.labels import NO_CLASS
from trt_var.requests.seeds import MAX_SEED, RANDOM, RANDOM_BITS
from trt_var.serving.app.faults import Refusal
from trt_var.serving.app.protocols.wire import Range, Settings
from trt_var.serving.batching.batcher import NDraft
from trt_var.serving.batching.settings import LONGEST
from trt_var.serving.engine import Description


def sampling(given: Settings, served: Description) -> Sampling:
    """The settings of a request, single ones over those of its preset.

    Raises:
        Refusal: ``cfg`` twice, under both its names.
        UsageError: an unknown preset.
    """
    if given.cfg is not None and given.guidance_scale is not None:
        raise Refusal(400, "cfg and guidance_scale are one setting; give one of them", param="cfg", code="invalid_value")
    base = preset(given.preset or "default", len(served.schedule), served.vocabulary)
    names = [field.name for field in fields(Sampling)]
    chosen: dict[str, Any] = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if given.guidance_scale is not None:
        chosen["cfg"] = given.guidance_scale
    return replace(base, **chosen)


def n_draft(given: Settings) -> NDraft:
    """As a batcher takes it."""
    wanted = given.n_draft
    return (wanted.min, wanted.max) if isinstance(wanted, Range) else wanted


def seeds(first: int | None, images: int) -> tuple[int, ...]:
    """Consecutive ones; one drawn at random first if none is given.

    Raises:
        UsageError: out of range.
    """
    if first is None or first == RANDOM:
        first = secrets.randbits(RANDOM_BITS)
    if not 0 <= first <= MAX_SEED - images + 1:
        raise UsageError(f"seeds must lie in 0 to {MAX_SEED} (2^64 − 1); {RANDOM}, or none, asks for a random one")
    return tuple(range(first, first + images))


def timeout(header: str | None) -> float | None:
    """Seconds of an ``X-Request-Timeout`` header, by which a client may lower the service's own.

    Raises:
        Refusal: no number of seconds.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        told = f"X-Request-Timeout is no number of seconds from more than 0 to {LONGEST:g}"
        raise Refusal(400, told, code="invalid_value")
    return seconds


def title(label: int, served: Description) -> str:
    """A class for people: ``360: otter``."""
    if label in (NO_CLASS, served.classes):
        return f"{label}: no class in particular"
    return f"{label}: {served.names[label]}" if served.names else str(label)
