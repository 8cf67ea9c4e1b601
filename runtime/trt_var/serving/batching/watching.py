"""What a batcher tells of its work, for metrics and logs."""

from __future__ import annotations


class Watcher:
    """Called from the workers' threads. This one does nothing; others override what they care for."""

    def rejected(self, reason: str, images: int) -> None:
        """A request was refused: ``full`` or ``deadline``."""

    def began(self, images: int, waits: list[float]) -> None:
        """A batch begins; seconds that each of its images has waited."""

    def scale(self, index: int, seconds: float) -> None:
        """A scale was drawn."""

    def batch(self, n_draft: int, images: int, seconds: float) -> None:
        """A batch was drawn to its end."""

    def cancelled(self, stage: str, images: int) -> None:
        """Callers have gone while ``queued`` or ``running``."""

    def late(self, requests: int) -> None:
        """Requests were not done by their deadline."""

    def failed(self, images: int) -> None:
        """An engine failed over a batch."""
