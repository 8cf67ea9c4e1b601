"""A request for images, understood."""

from __future__ import annotations

from dataclasses import dataclass

from trt_var.serving.engine import Ask


@dataclass(frozen=True)
class Wanted:
    """What to ask an engine, and how to answer.

    Attributes:
        form: of the files.
        quality: of those with losses, 0 to 100.
        kind: what its events are called.
        created: seconds of the epoch.
    """

    ask: Ask
    form: str
    quality: int | None
    kind: str
    created: int
