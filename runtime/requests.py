"""Requests: checked before anything is computed, then cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from trt_var import labels
from trt_var.decoding import Region, Request
from trt_var.errors import UsageError
from trt_var.manifest import Manifest, default_n_draft
from trt_var.sampling import Sampling, gumbel, preset, uniforms

MAX_IMAGES = 4096
MAX_BATCH = 256
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
    scales = len(manifest.schedule)
    listed = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
    if not 1 <= len(listed) <= MAX_IMAGES:
        raise UsageError(f"{len(listed)} labels; expected 1 to {MAX_IMAGES} a request")
    if not 1 <= batch_size <= MAX_BATCH:
        raise UsageError(f"batch_size is {batch_size}; expected 1 to {MAX_BATCH}")
    numbers = range(seeds, seeds + len(listed)) if isinstance(seeds, int) else seeds
    if len(numbers) != len(listed):
        raise UsageError(f"{len(numbers)} seeds for {len(listed)} labels; give one each, or the first of consecutive ones")
    if not all(0 <= seed <= MAX_SEED for seed in numbers):
        raise UsageError(f"seeds must lie in 0 to {MAX_SEED}")
    n_draft = default_n_draft(manifest) if n_draft is None else n_draft
    _check_n_draft(n_draft, manifest)
    chosen = preset(sampling, scales, manifest.vocabulary) if isinstance(sampling, str) else sampling
    chosen.check(scales, manifest.max_top_k)
    if chosen.more_smooth and (teacher is not None or manifest.smooth is None):
        reason = "does not go with a teacher" if manifest.smooth else "is not in this bundle; build it again"
        raise UsageError(f"more_smooth {reason}")
    if chosen.more_smooth and any(model.logits is None for model in manifest.models.values()):
        raise UsageError("more_smooth needs step graphs with logits, which a quantised bundle has not; use the float one")
    _check_teacher(teacher, len(listed), manifest)
    numbered = labels.resolve(listed, names, manifest.classes)
    return Run(tuple(numbered), tuple(numbers), n_draft, chosen, teacher)


def _check_teacher(teacher: NDArray[np.integer] | None, images: int, manifest: Manifest) -> None:
    if teacher is None:
        return
    expected = (images, sum(side**2 for side in manifest.schedule))
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
