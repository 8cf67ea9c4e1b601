"""How a batcher works, as data."""

from __future__ import annotations

from dataclasses import dataclass

from trt_var.bundle.manifest import Manifest, default_n_draft
from trt_var.bundle.memory import MAX_BATCH
from trt_var.decoding.numbers import lies_in, shown
from trt_var.errors import UsageError

MOST_WAITING, LONGEST = 100_000, 86_400.0


@dataclass(frozen=True)
class Batching:
    """Settings of a batcher.

    Attributes:
        batch: images drawn together at most; None to measure when it starts which number pays.
        longest_batch: seconds that a batch may take where its size is measured.
        waiting: images that may wait; more are refused.
        timeout: seconds after which a request is given up, where it does not ask for less.
        n_draft: N of requests that name none; None for the bundle's default.
        floor: the least N that load may bring requests to that name none; None for no change under load.
        target: seconds from arrival to answer that N is lowered for.
        failures: batches that fail one after the other before the batcher counts as broken.

    Example:
        >>> from trt_var import Pipeline
        >>> Batching(n_draft=5, floor=2).levels(Pipeline.load("digits").manifest)  # N, as the load rises
        (5, 4, 3, 2)
    """

    batch: int | None = None
    longest_batch: float = 2.0
    waiting: int = 256
    timeout: float = 60.0
    n_draft: int | None = None
    floor: int | None = None
    target: float = 1.0
    failures: int = 3

    def check(self, manifest: Manifest) -> None:
        """Compare every value with its range.

        Raises:
            UsageError: naming the value and its range.
        """
        _check_whole(self.batch, "batch", 1, MAX_BATCH)
        _check_whole(self.waiting, "waiting", 1, MOST_WAITING)
        _check_whole(self.failures, "failures", 1, MOST_WAITING)
        for name in ("longest_batch", "timeout", "target"):
            value = getattr(self, name)
            if not (lies_in(value, 0, LONGEST) and value > 0):
                raise UsageError(f"{name} is {shown(value)}; expected seconds, more than 0 and at most {LONGEST:g}")
        for name in ("n_draft", "floor"):
            value = getattr(self, name)
            if value is not None and value not in manifest.serves:
                served = ", ".join(map(str, manifest.serves))
                raise UsageError(f"{name} is {shown(value)}; this bundle serves N = {served}")
        if self.floor is not None and self.floor > self.ceiling(manifest):
            raise UsageError(f"floor is {self.floor}, above N = {self.ceiling(manifest)}, from which load lowers it")

    def ceiling(self, manifest: Manifest) -> int:
        """N of requests that name none, as long as load does not lower it."""
        return default_n_draft(manifest) if self.n_draft is None else self.n_draft

    def levels(self, manifest: Manifest) -> tuple[int, ...]:
        """N of requests that name none, falling: what load chooses from, or one."""
        ceiling = self.ceiling(manifest)
        floor = ceiling if self.floor is None else self.floor
        return tuple(sorted((n for n in manifest.serves if floor <= n <= ceiling), reverse=True))

    def all_levels(self, manifest: Manifest) -> tuple[int, ...]:
        """Every N that load may come to, falling: requests may leave open more than those that name none."""
        return tuple(sorted((n for n in manifest.serves if self.floor is None or n >= self.floor), reverse=True))


def _check_whole(value: object, name: str, least: int, most: int) -> None:
    if value is None and name == "batch":
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} is {shown(value)}; expected a whole number from {least} to {most}")
