"""Which N the load bears: fewer drafted scales are less work, and a lesser picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Estimate = Callable[[int], float]


@dataclass(frozen=True)
class Level:
    """Where a policy stands: the place in its levels, and since when a higher N would have done."""

    place: int = 0
    calm_since: float | None = None


@dataclass(frozen=True)
class Policy:
    """N falls at once when the wait passes the target, as far as it must; it rises slowly, step by step.

    Attributes:
        levels: N, falling.
        target: seconds from arrival to answer.
        margin: share of the target at which N falls: estimates err.
        calm: share of the target below which a higher N may be tried.
        spare: share of what a higher N can draw a second that arrivals may take, for it to be tried.
        hold: seconds that it must have been calm.
    """

    levels: tuple[int, ...]
    target: float
    margin: float = 0.7
    calm: float = 0.4
    spare: float = 0.95
    hold: float = 1.0

    def n_draft(self, level: Level) -> int:
        """N at a level."""
        return self.levels[level.place]

    def step(self, level: Level, seconds: Estimate, rate: Estimate, arrivals: float, now: float) -> Level:
        """Where the policy stands now.

        Args:
            level: where it stood.
            seconds: expected from arrival to answer of an image that came now, by N.
            rate: images a second that can be drawn, by N.
            arrivals: images a second that came of late.
            now: seconds on any clock that never goes back.
        """
        places = range(level.place, len(self.levels))
        bearable = [place for place in places if seconds(self.levels[place]) <= self.margin * self.target]
        place = bearable[0] if bearable else len(self.levels) - 1
        if place > level.place:
            return Level(place)
        if not place or not self._calm(self.levels[place - 1], seconds, rate, arrivals):
            return Level(place)
        since = now if level.calm_since is None else level.calm_since
        return Level(place - 1) if now - since >= self.hold else Level(place, since)

    def _calm(self, higher: int, seconds: Estimate, rate: Estimate, arrivals: float) -> bool:
        return seconds(higher) <= self.calm * self.target and arrivals <= self.spare * rate(higher)
