"""Sampling settings and the uniform numbers that an image's seed stands for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Role
from trt_var.bundle.passes import unguided
from trt_var.decoding.numbers import LONGEST, is_scalar, lies_in, plain, shown
from trt_var.errors import UsageError

log = logging.getLogger(__name__)
MAX_CFG = 100.0
MAX_TEMPERATURE = 100.0
MIN_TEMPERATURE = 1e-3
MIN_TOP_P = 1e-6
TOP_K = 600  # where nothing else is asked for; alone of all it gives way to a bundle that keeps fewer
MOST_SCALES = 64


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Numbers may be Python's, NumPy's or a tensor's, several of them in any sequence.

    Attributes:
        cfg: strength of classifier-free guidance at the last scale; it ramps up linearly from 0 at the first. 0 is none.
        top_k: how many of the likeliest tokens stay; 1 is greedy, 0 is off: the whole vocabulary if top_p is off, too, else
            as many as the bundle's graphs keep. 600, the default, stands for all of a smaller vocabulary, too; no other
            number is lowered.
        top_p: probability mass that stays, 1e-6 to 1; 0 is off, as 1.
        temperature: one for all scales, or one for each, 1e-3 to 100.
        more_smooth: average codebook rows instead of taking the drawn one: smoother pictures, for the eye alone.
        guided_scales: how many scales are guided, the first ones, 0 to K; None for all. A model that is guided in none takes
            half the rows (docs/guidance.md).
        scales: how many scales are drawn, 1 to K; None for all. Fewer are a softer picture, in less time.

    Example:
        >>> settings = Sampling(cfg=3.0, top_p=0.9)
        >>> settings.guidance(scales=4).tolist()  # of each scale
        [0.0, 1.0, 2.0, 3.0]
        >>> Sampling.from_json('{"top_k": 1}') == Sampling(top_k=1)
        True
    """

    cfg: float = 1.5
    top_k: int = TOP_K
    top_p: float = 0.96
    temperature: float | tuple[float, ...] = 1.0
    more_smooth: bool = False
    guided_scales: int | None = None
    scales: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = plain(getattr(self, field.name))
            if field.name == "temperature" and not is_scalar(value) and isinstance(value, Iterable):
                value = tuple(plain(one) for one in islice(value, MOST_SCALES + 1))
            object.__setattr__(self, field.name, value)

    def as_json(self) -> str:
        """As a JSON object, which ``from_json`` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Sampling:
        """Settings from ``data``, JSON or what a JSON parser made of it; what is missing has its default.

        Raises:
            UsageError: no JSON object, a setting that there is not, or one of another type.
        """
        try:
            found = dict(data) if isinstance(data, Mapping) else msgspec.json.decode(data, type=dict[str, Any])
            settings = msgspec.convert(found, cls)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"sampling is not settings as JSON: {error}") from error
        known = [field.name for field in fields(cls)]
        strangers = [str(name) for name in found if name not in known]
        if strangers:
            raise UsageError(f"sampling has {', '.join(strangers)[:LONGEST]}; expected {', '.join(known)}")
        return settings

    def temperatures(self, scales: int) -> tuple[float, ...]:
        """The temperature of each of K ``scales``."""
        if isinstance(self.temperature, tuple):
            return self.temperature
        return (self.temperature,) * scales

    def guidance(self, scales: int) -> NDArray[np.float32]:
        """The strength t of each of K ``scales`` [K]: cfg·k / (K − 1), 0 from the first that is not guided on."""
        strength = np.float32(self.cfg) * np.arange(scales, dtype=np.float32) / max(scales - 1, 1)
        strength[scales if self.guided_scales is None else self.guided_scales :] = 0
        return np.asarray(strength, np.float32)

    def unguided(self, scales: int, n_draft: int) -> frozenset[Role]:
        """The roles that draw without guidance alone with N = ``n_draft``, of K ``scales`` or as many as are drawn."""
        return unguided(self.guidance(scales).tolist(), self.scales or scales, n_draft)

    def resolved(self, vocabulary: int, max_top_k: int, untruncated: bool = False) -> Sampling:
        """With numbers in place of what stands for them, for a bundle whose graphs keep ``max_top_k`` tokens at most.

        With ``untruncated`` they draw from the whole vocabulary where nothing shall be cut off.
        """
        given, top_k = self.top_k, self.top_k
        if untruncated and self._cuts_nothing(vocabulary):
            top_k = vocabulary
        elif given in (0, TOP_K) and not isinstance(given, bool):
            top_k = min(given or max_top_k, max_top_k)
            if top_k < min(given or vocabulary, vocabulary):
                log.warning("top_k %d: the graphs of this bundle keep %d of %d tokens", given, top_k, vocabulary)
        return replace(self, top_k=top_k, top_p=1.0 if lies_in(self.top_p, 0, 0) else self.top_p)

    def _cuts_nothing(self, vocabulary: int) -> bool:
        """Whether top-k and top-p are both off."""
        return self.top_k in (0, vocabulary) and not isinstance(self.top_k, bool) and self.top_p in (0, 1)

    def check(self, scales: int, max_top_k: int, vocabulary: int = 0) -> None:
        """Compare every value with its range, for K ``scales`` and graphs that keep ``max_top_k`` tokens at most.

        With ``vocabulary``, they draw from all of it where nothing shall be cut off.

        Raises:
            UsageError: naming the value, its range and, for top_k, the limit of the bundle.
        """
        if not lies_in(self.cfg, 0, MAX_CFG):
            raise UsageError(f"cfg is {shown(self.cfg)}; expected a number from 0 to {MAX_CFG:g}")
        fits = isinstance(self.top_k, int) and (lies_in(self.top_k, 0, max_top_k) or self.top_k == TOP_K)
        if not (fits or (vocabulary and self._cuts_nothing(vocabulary))):
            raise UsageError(
                f"top_k is {shown(self.top_k)}; this bundle takes 1 to {max_top_k}, whole numbers, or 0 for all of these "
                "(build with a larger --max-top-k for more)"
            )
        if not (lies_in(self.top_p, MIN_TOP_P, 1) or lies_in(self.top_p, 0, 0)):
            raise UsageError(f"top_p is {shown(self.top_p)}; expected a number from {MIN_TOP_P:g} to 1, or 0 for off")
        temperatures = self.temperatures(scales)
        if len(temperatures) != scales:
            raise UsageError(f"temperature has {len(temperatures)} values; expected 1 or {scales}, one a scale")
        if not all(lies_in(t, MIN_TEMPERATURE, MAX_TEMPERATURE) for t in temperatures):
            raise UsageError(
                f"temperature is {shown(self.temperature)}; expected numbers from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
                f"{'; for the likeliest token always, top_k=1' if lies_in(self.temperature, 0, 0) else ''}"
            )
        if not isinstance(self.more_smooth, bool):
            raise UsageError(f"more_smooth is {shown(self.more_smooth)}; expected True or False")
        _check_count(self.guided_scales, "guided_scales", 0, scales)
        _check_count(self.scales, "scales", 1, scales)


def _check_count(value: int | None, name: str, least: int, most: int) -> None:
    if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most):
        raise UsageError(f"{name} is {shown(value)}; expected a whole number from {least} to {most}, or None for all {most}")


PRESETS = {
    "default": Sampling(),
    "code": Sampling(),
    "var": Sampling(top_k=900),
    "cca": Sampling(cfg=0.0, top_k=900),
    "ddo": Sampling(cfg=0.0, top_k=0, top_p=1.0),
}


def preset(name: str, scales: int, vocabulary: int) -> Sampling:
    """Named settings: ``default``, or published evaluation settings.

    ``code`` (CoDe) and ``var`` (VAR); without guidance ``cca`` (CCA's VAR_sample.py, ``--cfg=0.0``) and ``ddo`` (DDO's
    VAR_sample.py cuts nothing off; its paper samples without guidance, docs/guidance.md).

    CoDe draws all scales but the last three at temperature 1.1. A vocabulary below a preset's top_k is kept whole.

    Raises:
        UsageError: unknown name.

    Args:
        name: of these.
        scales: K, of the bundle.
        vocabulary: V, of the bundle.

    Example:
        >>> preset("code", scales=10, vocabulary=4096).temperature
        (1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.0, 1.0, 1.0)
        >>> preset("cca", scales=10, vocabulary=4096).cfg
        0.0
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
