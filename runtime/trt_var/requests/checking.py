"""Requests: checked before anything is computed, then cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Manifest, default_n_draft
from trt_var.bundle.memory import MAX_BATCH
from trt_var.decoding.feeds import Region, Request
from trt_var.decoding.numbers import is_scalar, plain, shown, whole
from trt_var.decoding.sampling import Sampling, gumbel, preset, uniforms
from trt_var.decoding.scoring import FORCED
from trt_var.errors import UsageError
from trt_var.requests import labels
from trt_var.requests import seeds as seeding

MAX_IMAGES = 4096
MAX_SMOOTH_BATCH = 16  # the noise of an image takes 4·V·L bytes, 11 MB for the published models
INSTEAD_OF_NONE = {"labels": "or -1 for no class in particular", "seeds": "or -1 for random ones"}
Labels = int | str | Sequence[int | str] | NDArray[np.integer]
Seeds = int | Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Kept:
    """What inpainting keeps of an image.

    Attributes:
        region: for the decoding.
        redrawn: bool [H, W], True where the image is redrawn.
        pixels: uint8 [H, W, 3], the image.

    ``Pipeline.kept`` makes one, and has an example.
    """

    region: Region
    redrawn: NDArray[np.bool_]
    pixels: NDArray[np.uint8]

    def over(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Drawn images [n, H, W, 3], with the kept one's pixels outside what is redrawn."""
        return np.where(self.redrawn[:, :, None], images, self.pixels)


@dataclass(frozen=True)
class Run:
    """A checked request of any number of images; ``Pipeline.prepare`` makes one, and has an example."""

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

    def scales(self, manifest: Manifest) -> int:
        """How many scales are drawn."""
        return self.sampling.scales or len(manifest.schedule)

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
    seeds: Seeds,
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
    given = [whole(seed, "a seed") for seed in _listed(seeds, "seeds")]
    numbers = seeding.resolve(given, len(listed), is_scalar(plain(seeds)))
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


def prepare_scoring(
    manifest: Manifest, names: Sequence[str], wanted: Labels | None, n_draft: int | None, batch_size: int
) -> Run:
    """Check what scoring is asked for, all classes if none are named; the request holds each class once.

    Raises:
        UsageError: the first thing that cannot be meant.
    """
    if any(model.logits is None for model in manifest.models.values()):
        raise UsageError(
            "score needs step graphs with logits, which this bundle has not; use the float one it was made from"
        )
    if wanted is None:
        numbered = list(range(manifest.classes))
    else:
        listed = [label if isinstance(label, str) else whole(label, "a label") for label in _listed(wanted, "labels")]
        numbered = labels.resolve(listed, names, manifest.classes)
    chosen = default_n_draft(manifest) if n_draft is None else whole(n_draft, "n_draft")
    _check_n_draft(chosen, manifest)
    check_batch_size(batch_size)
    if not numbered:
        raise UsageError("no classes to score under; expected one or several, or None for all")
    return Run(tuple(dict.fromkeys(numbered)), (), chosen, FORCED)


def check_series(
    manifest: Manifest, ends: tuple[int, int], n_draft: int | None, sampling: Sampling | str, batch_size: int
) -> Run:
    """Check what a long series will ask for, by a batch with its first and last seed; the checked batch has its settings.

    No seed is drawn at random: a series is asked for again by its seeds.

    Raises:
        UsageError: the first thing that cannot be meant.
    """
    seeding.check_range(*ends)
    size = max(2, min(whole(batch_size, "batch_size"), MAX_BATCH))
    given = [ends[0]] * (size - 1) + [ends[1]]
    return prepare(manifest, (), [0] * size, given, n_draft, sampling, batch_size)


def check_batch_size(batch_size: int) -> int:
    """A batch size that has been looked at.

    Raises:
        UsageError: out of range.
    """
    size = whole(batch_size, "batch_size")
    if not 1 <= size <= MAX_BATCH:
        raise UsageError(f"batch_size is {size}; expected 1 to {MAX_BATCH}")
    return size


def _listed(values: Any, name: str) -> list[Any]:
    """One value or several as a list, which ends soon after what a request may have."""
    values = plain(values)
    if values is None:
        raise UsageError(f"{name} are None; expected one or a sequence of them, {INSTEAD_OF_NONE[name]}")
    if is_scalar(values):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, (bytes, Mapping)) or getattr(values, "ndim", 1) != 1:
        raise UsageError(f"{name} are {shown(values)}; expected one or a sequence of them")
    if isinstance(values, Sized) and len(values) > MAX_IMAGES:
        raise UsageError(f"{len(values)} {name}; expected 1 to {MAX_IMAGES} a request")
    return list(islice(values, MAX_IMAGES + 1))


def _check_sampling(sampling: Sampling | str, manifest: Manifest) -> Sampling:
    """The settings of a request, with numbers for all that stands for one."""
    scales = len(manifest.schedule)
    chosen = sampling
    if isinstance(chosen, str):
        chosen = preset(chosen, scales, manifest.vocabulary)
    if not isinstance(chosen, Sampling):
        hint = "Sampling.from_json" if isinstance(chosen, Mapping) else "a Sampling or the name of a preset"
        raise UsageError(f"sampling is {shown(chosen)}; expected {hint}")
    chosen.check(scales, manifest.max_top_k, manifest.vocabulary if manifest.untruncated else 0)
    if chosen.more_smooth and manifest.smooth is None:
        raise UsageError("more_smooth is not in this bundle; build it again")
    if chosen.more_smooth and any(model.logits is None for model in manifest.models.values()):
        raise UsageError("more_smooth needs step graphs with logits, which a quantised bundle has not; use the float one")
    return chosen.resolved(manifest.vocabulary, manifest.max_top_k, manifest.untruncated)


def _check_teacher(teacher: NDArray[np.integer] | None, images: int, manifest: Manifest) -> None:
    if teacher is None:
        return
    expected = (images, sum(side**2 for side in manifest.schedule))
    if not isinstance(teacher, np.ndarray):
        raise UsageError(f"teacher is {shown(teacher)}; expected an array of whole numbers {expected}")
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
