"""Requests: checked before anything is computed, then cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Manifest, default_n_draft
from trt_var.bundle.memory import MAX_BATCH
from trt_var.decoding.loop import Region, Request
from trt_var.decoding.sampling import Sampling, gumbel, preset, uniforms
from trt_var.errors import UsageError
from trt_var.requests import labels

MAX_IMAGES = 4096
MAX_SMOOTH_BATCH = 16  # the noise of an image takes 4·V·L bytes, 11 MB for the published models
MAX_SEED = 2**63 - 1
Labels = int | str | Sequence[int | str]


@dataclass(frozen=True)
class Run:
    """A checked request of any number of images."""

    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    n_draft: int
    sampling: Sampling
    teacher: NDArray[np.integer] | None = None
    region: Region | None = None

    def __getitem__(self, images: slice) -> Run:
        teacher = None if self.teacher is None else self.teacher[images]
        return replace(self, labels=self.labels[images], seeds=self.seeds[images], teacher=teacher)

    @property
    def numbers(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Labels [n] and seeds [n]."""
        return np.array(self.labels, np.int64), np.array(self.seeds, np.uint64)

    def request(self, manifest: Manifest, batch: int) -> Request:
        """For a batch that may be larger: its last image is then repeated."""
        fill = [min(i, len(self.labels) - 1) for i in range(batch)]
        numbers = uniforms(self.seeds, sum(side**2 for side in manifest.schedule))[:, fill]
        teacher = None if self.teacher is None else self.teacher.T[:, fill]
        chosen = tuple(self.labels[i] for i in fill)
        noise = gumbel(self.seeds, len(numbers), manifest.vocabulary)[:, fill] if self.sampling.more_smooth else None
        return Request(chosen, numbers, self.n_draft, self.sampling, teacher, self.region, noise)


def prepare(
    manifest: Manifest,
    names: Sequence[str],
    wanted: Labels,
    seeds: int | Sequence[int],
    n_draft: int | None,
    sampling: Sampling | str,
    batch_size: int,
    teacher: NDArray[np.integer] | None = None,
) -> Run:
    """Check everything that a request asks for; ``names`` are the bundle's class names.

    Raises:
        UsageError: the first thing that cannot be meant.
    """
    listed = [label if isinstance(label, str) else whole(label, "a label") for label in _listed(wanted, "labels")]
    if not 1 <= len(listed) <= MAX_IMAGES:
        raise UsageError(f"{len(listed)} labels; expected 1 to {MAX_IMAGES} a request")
    batch_size = check_batch_size(batch_size)
    numbers = [whole(seed, "a seed") for seed in _listed(seeds, "seeds")]
    if _is_whole(seeds):
        numbers = [numbers[0] + i for i in range(len(listed))]
    if len(numbers) != len(listed):
        raise UsageError(f"{len(numbers)} seeds for {len(listed)} labels; give one each, or the first of consecutive ones")
    if not all(0 <= seed <= MAX_SEED for seed in numbers):
        raise UsageError(f"seeds must lie in 0 to {MAX_SEED}")
    n_draft = default_n_draft(manifest) if n_draft is None else whole(n_draft, "n_draft")
    _check_n_draft(n_draft, manifest)
    chosen = _check_sampling(sampling, manifest)
    if chosen.more_smooth and teacher is not None:
        raise UsageError("more_smooth does not go with a teacher")
    if chosen.more_smooth and min(batch_size, len(listed)) > MAX_SMOOTH_BATCH:
        raise UsageError(
            f"batch_size is {batch_size}; with more_smooth, at most {MAX_SMOOTH_BATCH} images are drawn together"
        )
    _check_teacher(teacher, len(listed), manifest)
    numbered = labels.resolve(listed, names, manifest.classes)
    return Run(tuple(numbered), tuple(numbers), n_draft, chosen, teacher)


def check_series(
    manifest: Manifest, ends: tuple[int, int], n_draft: int | None, sampling: Sampling | str, batch_size: int
) -> Run:
    """Check what a long series will ask for, by a batch with its first and last seed; the checked batch has its settings.

    Raises:
        UsageError: the first thing that cannot be meant.
    """
    size = max(2, min(whole(batch_size, "batch_size"), MAX_BATCH))
    seeds = [ends[0]] * (size - 1) + [ends[1]]
    return prepare(manifest, (), [0] * size, seeds, n_draft, sampling, batch_size)


def whole(value: object, name: str) -> int:
    """A whole number, Python's or NumPy's.

    Raises:
        UsageError: anything else, bools and floats too; or of more than 64 bits.
    """
    if not _is_whole(value):
        raise UsageError(f"{name} is {repr(value)[:40]}; expected a whole number")
    if abs(int(value)) >= 1 << 64:
        raise UsageError(f"{name} has more than 64 bits; expected a smaller number")
    return int(value)


def check_batch_size(batch_size: int) -> int:
    """A batch size that has been looked at.

    Raises:
        UsageError: out of range.
    """
    if not 1 <= whole(batch_size, "batch_size") <= MAX_BATCH:
        raise UsageError(f"batch_size is {batch_size}; expected 1 to {MAX_BATCH}")
    return int(batch_size)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _listed(values: Any, name: str) -> list[Any]:
    """One value or several as a list, which ends soon after what a request may have."""
    if isinstance(values, str) or _is_whole(values):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, (bytes, dict)) or getattr(values, "ndim", 1) != 1:
        raise UsageError(f"{name} are {repr(values)[:40]}; expected one or a sequence of them")
    if isinstance(values, (list, tuple, np.ndarray)) and len(values) > MAX_IMAGES:
        raise UsageError(f"{len(values)} {name}; expected 1 to {MAX_IMAGES} a request")
    return list(islice(values, MAX_IMAGES + 1))


def _check_sampling(sampling: Sampling | str, manifest: Manifest) -> Sampling:
    scales = len(manifest.schedule)
    chosen = preset(sampling, scales, manifest.vocabulary) if isinstance(sampling, str) else sampling
    if not isinstance(chosen, Sampling):
        raise UsageError(f"sampling is {repr(chosen)[:40]}; expected a Sampling or the name of a preset")
    chosen.check(scales, manifest.max_top_k)
    if chosen.more_smooth and manifest.smooth is None:
        raise UsageError("more_smooth is not in this bundle; build it again")
    if chosen.more_smooth and any(model.logits is None for model in manifest.models.values()):
        raise UsageError("more_smooth needs step graphs with logits, which a quantised bundle has not; use the float one")
    return chosen


def _check_teacher(teacher: NDArray[np.integer] | None, images: int, manifest: Manifest) -> None:
    if teacher is None:
        return
    expected = (images, sum(side**2 for side in manifest.schedule))
    if not isinstance(teacher, np.ndarray):
        raise UsageError(f"teacher is {repr(teacher)[:40]}; expected an array of whole numbers {expected}")
    if teacher.shape != expected or teacher.dtype.kind not in "iu":
        raise UsageError(f"teacher has shape {teacher.shape} {teacher.dtype}; expected whole numbers {expected}")
    if teacher.min() < 0 or teacher.max() >= manifest.vocabulary:
        raise UsageError(f"teacher's tokens must lie in 0 to {manifest.vocabulary - 1}")


def _check_n_draft(n_draft: int, manifest: Manifest) -> None:
    scales = len(manifest.schedule)
    if n_draft in manifest.serves:
        return
    if not 0 <= n_draft <= scales:
        raise UsageError(f"n_draft is {n_draft}; expected 0 to {scales}")
    if "refiner" not in manifest.models:
        raise UsageError(
            f"n_draft is {n_draft}, but this bundle has no refiner; it draws all {scales} scales with the drafter"
        )
    served = ", ".join(map(str, manifest.serves))
    raise UsageError(f"n_draft is {n_draft}, but this pair was fine-tuned for N = {served} and serves no other")
