"""How long batches take, measured while they are drawn; and what that says of a wait."""

from __future__ import annotations

NEW = 0.2  # the share of a new measurement in what is known


class Times:
    """Seconds of a batch by N and size. What was not measured is estimated from what was."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, float]] = {}

    def add(self, n_draft: int, batch: int, seconds: float) -> None:
        """A batch was drawn."""
        known = self._seconds.setdefault(n_draft, {})
        known[batch] = seconds if batch not in known else (1 - NEW) * known[batch] + NEW * seconds

    def seconds(self, n_draft: int, batch: int) -> float:
        """Of a batch: between measured sizes in proportion, of the nearest N that was measured; 0 as long as nothing was."""
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

    def measured(self) -> dict[int, dict[int, float]]:
        """Seconds by N and size."""
        return {n: dict(known) for n, known in self._seconds.items()}
