"""Sampling settings and the uniform numbers that an image's seed stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import UsageError

MAX_CFG = 100.0
MAX_TEMPERATURE = 100.0
MIN_TEMPERATURE = 1e-3
MIN_TOP_P = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        cfg: strength of classifier-free guidance at the last scale; it ramps up linearly from 0 at the first.
        top_k: how many of the likeliest tokens stay; 1 is greedy.
        top_p: probability mass that stays, 1e-6 to 1.
        temperature: one for all scales, or one for each, 1e-3 to 100.
        more_smooth: average codebook rows instead of taking the drawn one: smoother pictures, for the eye alone.
    """

    cfg: float = 1.5
    top_k: int = 600
    top_p: float = 0.96
    temperature: float | tuple[float, ...] = 1.0
    more_smooth: bool = False

    def temperatures(self, scales: int) -> tuple[float, ...]:
        """The temperature of every scale."""
        if isinstance(self.temperature, tuple):
            return self.temperature
        return (self.temperature,) * scales

    def check(self, scales: int, max_top_k: int) -> None:
        """Compare every value with its range.

        Raises:
            UsageError: naming the value, its range and, for top_k, the limit of the bundle.
        """
        if not _lies_in(self.cfg, 0, MAX_CFG):
            raise UsageError(f"cfg is {self.cfg!r}; expected a number from 0 to {MAX_CFG:g}")
        if not (_lies_in(self.top_k, 1, max_top_k) and isinstance(self.top_k, (int, np.integer))):
            raise UsageError(
                f"top_k is {self.top_k!r}; this bundle takes 1 to {max_top_k} (build with a larger --max-top-k for more)"
            )
        if not _lies_in(self.top_p, MIN_TOP_P, 1):
            raise UsageError(f"top_p is {self.top_p!r}; expected a number from {MIN_TOP_P:g} to 1")
        temperatures = self.temperatures(scales)
        if len(temperatures) != scales:
            raise UsageError(f"temperature has {len(temperatures)} values; expected 1 or {scales}, one a scale")
        if not all(_lies_in(t, MIN_TEMPERATURE, MAX_TEMPERATURE) for t in temperatures):
            raise UsageError(
                f"temperature is {self.temperature!r}; expected numbers from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            )
        if not isinstance(self.more_smooth, bool):
            raise UsageError(f"more_smooth is {self.more_smooth!r}; expected True or False")


def _lies_in(value: object, smallest: float, largest: float) -> bool:
    """Whether it is a number, no bool, of a range; NaN lies in none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return bool(smallest <= value <= largest)


PRESETS = {"default": Sampling(), "code": Sampling(), "var": Sampling(top_k=900)}


def preset(name: str, scales: int, vocabulary: int) -> Sampling:
    """Named settings: ``default``, or published evaluation settings, ``code`` (CoDe) and ``var`` (VAR).

    CoDe draws all scales but the last three at temperature 1.1. A vocabulary below a preset's top_k is kept whole.

    Raises:
        UsageError: unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f"preset is {name!r}; expected {', '.join(PRESETS)}")
    base = PRESETS[name]
    warm = max(scales - 3, 0) if name == "code" else 0
    temperature = (1.1,) * warm + (1.0,) * (scales - warm) if warm else 1.0
    return replace(base, top_k=min(base.top_k, vocabulary), temperature=temperature)


def gumbel(seeds: Sequence[int], length: int, vocabulary: int) -> NDArray[np.float32]:
    """Gumbel noise for every token of every position [L, B, V]: a stream of the seed, apart from that of ``uniforms``.

    Exponential numbers come as small as 0, whose logarithm is none.
    """
    streams = [np.random.Generator(np.random.Philox(key=seed).jumped()) for seed in seeds]
    drawn = [stream.standard_exponential((length, vocabulary), dtype=np.float32) for stream in streams]
    return -np.log(np.maximum(np.stack(drawn, axis=1), np.finfo(np.float32).tiny))


def uniforms(seeds: Sequence[int], length: int) -> NDArray[np.float32]:
    """One number in [0, 1) for every position of every image, [L, B]: the Philox stream of the image's own seed."""
    streams = [np.random.Generator(np.random.Philox(key=seed)).random(length, dtype=np.float32) for seed in seeds]
    return np.stack(streams, axis=1)
