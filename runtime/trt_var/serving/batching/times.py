"""How long batches take: measured before anything is served, and how much longer they take meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

NEW = 0.1  # the share of a new batch in what is known
LEAST, MOST = 0.1, 100.0  # times as long: what stood still for a while says nothing of the next batch


class Times:
    """Seconds of a batch by N and size. What was not measured is estimated from what was.

    Attributes:
        slowdown: how many times as long batches took of late.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, float]] = {}
        self.slowdown = 1.0

    @classmethod
    def of(cls, measured: Mapping[int, Mapping[int, float]]) -> Times:
        """Seconds by N and size, as ``measured`` has them."""
        found = cls()
        for n_draft, sizes in measured.items():
            for batch, seconds in sizes.items():
                found.add(n_draft, batch, seconds)
        return found

    def add(self, n_draft: int, batch: int, seconds: float) -> None:
        """A batch was measured, with nothing else going on."""
        self._seconds.setdefault(n_draft, {})[batch] = seconds

    def observe(self, n_draft: int, batch: int, seconds: float) -> None:
        """A batch was drawn. What slows one N down does so with all, also those that were not drawn for long."""
        expected = self._measured(n_draft, batch)
        if expected:
            times = min(max(seconds / expected, LEAST), MOST)
            self.slowdown += NEW * (times - self.slowdown)

    def seconds(self, n_draft: int, batch: int) -> float:
        """Of a batch; 0 as long as nothing was measured."""
        return self.slowdown * self._measured(n_draft, batch)

    def measured(self) -> dict[int, dict[int, float]]:
        """Seconds by N and size."""
        return {n: dict(known) for n, known in self._seconds.items()}

    def _measured(self, n_draft: int, batch: int) -> float:
        """Between measured sizes in proportion, of the nearest N that was measured."""
        if not self._seconds:
            return 0.0
        nearest = min(self._seconds, key=lambda n: (abs(n - n_draft), n))
        known = self._seconds[nearest]
        if batch in known:
            return known[batch]
        below = max((size for size in known if size < batch), default=0)
        above = min((size for size in known if size > batch), default=0)
        if not below:
            return known[above]
        if not above:
            return known[below] * batch / below
        return known[below] + (known[above] - known[below]) * (batch - below) / (above - below)
