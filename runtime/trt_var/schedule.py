"""The scales of a model: how many tokens each has and where they lie in the sequence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Patch sides of the token maps, smallest first, e.g. (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)."""

    sides: tuple[int, ...]

    @property
    def scales(self) -> int:
        """K, the number of scales."""
        return len(self.sides)

    @property
    def side(self) -> int:
        """P, the patch side of the last scale and of f_hat."""
        return self.sides[-1]

    @property
    def length(self) -> int:
        """L, the tokens of all scales together."""
        return self.begin(self.scales)

    def tokens(self, scale: int) -> int:
        """n, the tokens of one scale."""
        return self.sides[scale] ** 2

    def begin(self, scale: int) -> int:
        """The position of a scale's first token; ``begin(scales)`` is the length."""
        return sum(side**2 for side in self.sides[:scale])

    def span(self, scale: int) -> slice:
        """The positions of one scale."""
        return slice(self.begin(scale), self.begin(scale + 1))

    def levels(self) -> list[int]:
        """The scale of every position, [L]."""
        return [scale for scale in range(self.scales) for _ in range(self.tokens(scale))]
