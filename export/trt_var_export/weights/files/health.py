"""Weights looked at before anything is made of them: numbers that are none, beyond a type's range, too small to matter."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trt_var.errors import CheckpointError
from trt_var_export.weights.files.tensors import Checkpoint, shown
from trt_var_export.weights.random_weights import RandomWeights

log = logging.getLogger(__name__)
LARGEST_HALF = torch.finfo(torch.float16).max
SMALLEST = torch.finfo(torch.float32).tiny  # of normal numbers; below it processors are slow, and precision ends
MAX_LISTED = 5


class Flushed:
    """A checkpoint whose denormal numbers are zero.

    Args:
        keys: the tensors that have some.
    """

    def __init__(self, checkpoint: Checkpoint, keys: frozenset[str]) -> None:
        self._checkpoint, self._keys, self.origin = checkpoint, keys, checkpoint.origin
        self.metadata = checkpoint.metadata

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """As ``Checkpoint.shapes``."""
        return self._checkpoint.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        """As ``Checkpoint.dtypes``."""
        return self._checkpoint.dtypes

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        value = self._checkpoint.load(key)
        return torch.where(value.abs() < SMALLEST, 0.0, value) if key in self._keys else value


@dataclass(frozen=True)
class _Found:
    """What is the matter with a tensor; empty texts for nothing."""

    broken: str = ""
    beyond_half: str = ""
    denormal: int = 0
    largest: float = 0.0


def examined(
    checkpoint: Checkpoint, kinds: Mapping[str, torch.dtype], what: str, step: Callable[[], object] = lambda: None
) -> Checkpoint:
    """Look at every weight once, and say what is unusual; one tensor is in memory at a time.

    Args:
        kinds: the names of the weights, with the type that each will have.
        what: the model's role, for messages.
        step: called after every tensor.

    Returns:
        The checkpoint, with denormal numbers as zero.

    Raises:
        CheckpointError: weights that are not finite, or beyond the range of the type that they are to have, with the tensor,
            the first such row and how many there are.
    """
    if isinstance(checkpoint, RandomWeights):
        return checkpoint
    _say_types(checkpoint, kinds, what)
    found = {}
    for key, dtype in kinds.items():
        found[key] = _examine(checkpoint.load(key), checkpoint.dtypes[key], dtype)
        step()
    _refuse({key: one.broken for key, one in found.items() if one.broken}, what, "weights that are not finite", "")
    remedy = "; build with --precision fp32"
    _refuse({key: one.beyond_half for key, one in found.items() if one.beyond_half}, what, "weights beyond float16", remedy)
    if large := {key: one.largest for key, one in found.items() if one.largest > LARGEST_HALF}:
        key = max(large, key=lambda name: large[name])
        log.warning(
            "the %s has weights up to %.3g (%s), far beyond what training gives: is the file damaged?", what, large[key], key
        )
    denormal = {key: one.denormal for key, one in found.items() if one.denormal}
    if denormal:
        log.warning(
            "the %s has %d denormal numbers (below %.2g) in %s%s: taken as zero, since processors compute slowly with them",
            *(what, sum(denormal.values()), SMALLEST, next(iter(denormal)), " and others" if len(denormal) > 1 else ""),
        )
    return Flushed(checkpoint, frozenset(denormal)) if denormal else checkpoint


def _examine(value: Tensor, source: str, dtype: torch.dtype) -> _Found:
    magnitude = value.abs()
    largest = float(magnitude.amax()) if value.numel() else 0.0
    if not largest < float("inf"):
        narrowed = " in float32" if source == "float64" else ""
        return _Found(broken=_where(value, ~value.isfinite(), narrowed))
    beyond = _where(value, magnitude > LARGEST_HALF, "") if dtype == torch.float16 and largest > LARGEST_HALF else ""
    denormal = int(torch.count_nonzero((magnitude > 0) & (magnitude < SMALLEST))) if _smallest(magnitude) else 0
    return _Found("", beyond, denormal, largest)


def _smallest(magnitude: Tensor) -> bool:
    """Whether there is anything below the normal numbers, zeros included."""
    return bool(magnitude.numel()) and float(magnitude.amin()) < SMALLEST


def _where(value: Tensor, wrong: Tensor, remark: str) -> str:
    """``[10, 64]: 3 of 640, the first inf in row 5``."""
    first = [int(index) for index in wrong.nonzero()[0]] if value.ndim else []
    row = f" in row {first[0]}" if len(first) > 1 else f" at {first[0]}" if first else ""
    number = float(value[tuple(first)])
    return f"{list(value.shape)} has {int(wrong.sum())} of {value.numel()}, the first {number:g}{remark}{row}"


def _refuse(problems: Mapping[str, str], what: str, which: str, remedy: str) -> None:
    if not problems:
        return
    listed = [f"{shown(key)} {text}" for key, text in list(problems.items())[:MAX_LISTED]]
    more = f"; and {len(problems) - MAX_LISTED} more tensors" if len(problems) > MAX_LISTED else ""
    end = remedy or "; the file is damaged, or the training diverged: take another checkpoint"
    raise CheckpointError(f"the {what} has {which}: {'; '.join(listed)}{more}{end}")


def _say_types(checkpoint: Checkpoint, kinds: Mapping[str, torch.dtype], what: str) -> None:
    types = Counter(checkpoint.dtypes[key] for key in kinds)
    del types["float32"]
    for name, count in types.items():
        rounded = ", which rounds them" if name == "float64" else ""
        log.warning("the %s has %d tensors of %s: taken as float32%s", what, count, name, rounded)
