"""Specialised fine-tuning of any pair that the export knows, from a folder of pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from trt_var.bundle.manifest import Role
from trt_var.errors import BackendError, DataError, OutputError, UsageError
from trt_var.files.paths import expanded, followed
from trt_var.files.writing import replacing
from trt_var_export.weights.architecture import check_belonging, transformer_shape, vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint
from trt_var_export.weights.names import imagenet_names, known_names, told_names
from trt_var_export.weights.sources import resolve
from trt_var_training.data import Augmentation, Batches, FolderImages
from trt_var_training.trainer import Plan, settings, train
from trt_var_training.var import Teacher, VarObjective, drafter_objective, refiner_objective
from trt_var_training.weights import load_transformer, load_vqvae, save_weights

log = logging.getLogger(__name__)
MAX_BATCH, MAX_SEED = 4096, 2**63 - 1
Say = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """What to fine-tune, and how.

    Attributes:
        drafter, refiner, vae: as ``trt-var build`` takes them; the drafter is also the refiner's teacher.
        data: one folder of pictures a class.
        n_draft: how many scales the drafter will draw.
        out: where weights and checkpoints go.
        steps, learning_rate: of each of the two trainings, as ``trainer.Plan`` takes them.
        batch_size: images a batch, 1 to MAX_BATCH.
        flip: mirror every second picture.
        seed: of the batches, 0 to MAX_SEED.
        device: ``cpu`` or ``cuda``.
        class_names: ``imagenet`` or a file with a line a class; None for what the models' sources say.
        verify: how pictures are looked at before the first step: ``quick`` (headers and ends) or ``full`` (every pixel).
        drafter_key, refiner_key, vae_key: where in their files to look, for files with several models.

    Raises:
        UsageError: a number out of range.
    """

    drafter: str
    refiner: str
    vae: str
    data: Path
    n_draft: int
    out: Path
    steps: int = 2500
    batch_size: int = 64
    learning_rate: float = 1e-5
    flip: bool = False
    seed: int = 0
    device: str = "cpu"
    class_names: str | None = None
    verify: Literal["quick", "full"] = "quick"
    drafter_key: str | None = None
    refiner_key: str | None = None
    vae_key: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise UsageError(f"--batch-size is {self.batch_size}; expected 1 to {MAX_BATCH}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed is {self.seed}; expected 0 to {MAX_SEED}")
        self.plan()

    def plan(self) -> Plan:
        """Of each of the two trainings."""
        return Plan(self.steps, self.learning_rate)


def finetune(job: Job, say: Say = log.info) -> None:
    """Write ``drafter.safetensors``, ``refiner.safetensors`` and ``classes.json`` into ``job.out``.

    Run again, it goes on from the last checkpoint; a model that is done is not trained again. Every picture is looked at
    before the first step; ``say`` is called with what was found, and which class every folder is.

    Raises:
        UsageError, CheckpointError, DataError: the job contradicts itself or names what is not there.
        TrainingError: the loss is no longer a number.
        BackendError: no such device.
        OutputError: ``job.out`` cannot be written.
    """
    job = replace(job, out=expanded(job.out), data=expanded(job.data))
    if job.device == "cuda" and not torch.cuda.is_available():
        raise BackendError("PyTorch sees no CUDA device here; use --device cpu")
    drafter = resolve(job.drafter, "drafter", key=job.drafter_key)
    refiner = resolve(job.refiner, "refiner", key=job.refiner_key)
    vae = resolve(job.vae, "vae", key=job.vae_key)
    shape, vae_shape = transformer_shape(drafter, "drafter"), vqvae_shape(vae)
    check_belonging({"drafter": shape, "refiner": transformer_shape(refiner, "refiner")}, vae_shape)
    schedule = shape.schedule
    if not 1 <= job.n_draft < schedule.scales:
        raise UsageError(
            f"--n-draft is {job.n_draft}; a pair of {schedule.scales} scales is tuned for 1 to {schedule.scales - 1}"
        )
    names = _names(job, {"drafter": drafter, "refiner": refiner}, shape.classes)
    images = FolderImages(job.data, schedule.side * vae_shape.downsampling, shape.classes, names or ())
    _tell(job, images, say)
    with tqdm(total=len(images.paths), desc="pictures", disable=None, leave=False) as bar:
        images.verify(job.verify == "full", bar.update)
    try:
        followed(job.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {job.out}: {error.strerror or error}") from error
    batches = Batches(images, job.batch_size, job.seed, Augmentation(flip=job.flip))
    vqvae = load_vqvae(vae).to(job.device)
    teacher, tuned = (load_transformer(drafter, "drafter").to(job.device) for _ in range(2))
    run = _Run(job, images, class_names(images, names))
    run(drafter_objective(tuned, vqvae, batches, job.n_draft), "drafter")
    follower = load_transformer(refiner, "refiner").to(job.device)
    run(refiner_objective(follower, vqvae, batches, job.n_draft, Teacher(teacher)), "refiner")


def class_names(images: FolderImages, known: list[str] | None) -> list[str] | None:
    """What the classes of the trained models are called: the model's names, or those of folders that took its place."""
    rule = images.assignment.rule
    if rule == "ids":
        return known or imagenet_names()
    if rule != "order":
        return known
    return images.classes if all(name.isprintable() and name.strip() for name in images.classes) else None


def _names(job: Job, checkpoints: dict[Role, Checkpoint], classes: int) -> list[str] | None:
    if job.class_names is not None:
        return told_names(job.class_names, classes)
    return known_names(checkpoints, classes)


def _tell(job: Job, images: FolderImages, say: Say) -> None:
    """What was found; the whole mapping is in classes.json."""
    if images.assignment.rule == "order" and job.class_names is not None:
        raise DataError(f"no folder in {job.data} is named as a class of --class-names, e.g. {images.classes[0]!r} is not")
    say(f"{job.data}: {len(images.paths)} pictures of {len(images.classes)} classes {images.assignment}")
    if images.assignment.rule == "order" and images.classes != sorted(images.classes):
        log.warning("numbers in the folders' names are counted: %s comes before %s", *_unsorted(images.classes))
    for sentence in images.left_out:
        log.warning("left out in %s: %s", job.data, sentence)


def _unsorted(names: list[str]) -> tuple[str, str]:
    return next((one, other) for one, other in pairwise(names) if one > other)


@dataclass(frozen=True)
class _Run:
    """What the trainings of one job share."""

    job: Job
    images: FolderImages
    names: list[str] | None

    def __post_init__(self) -> None:
        content = {"folders": self.images.assignment.labels, "rule": self.images.assignment.rule, "names": self.names}
        with replacing(self.job.out / "classes.json") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")

    def __call__(self, objective: VarObjective, name: str) -> None:
        job, plan = self.job, self.job.plan()
        checkpoint = job.out / f"{name}-n{job.n_draft}.checkpoint"
        with tqdm(total=plan.steps, desc=name, disable=None) as bar:

            def show(done: int, losses: dict[str, float]) -> None:
                bar.update(done - bar.n)
                bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()})

            history = train(objective, plan, checkpoint, show, self._given(checkpoint))
        save_weights(job.out / f"{name}.safetensors", objective.trained, names=self.names)
        if history:
            last = np.mean([step["loss"] for step in history[-50:]])
            log.info("%s: mean loss of the last %d steps %.4f", name, len(history[-50:]), last)

    def _given(self, checkpoint: Path) -> dict[str, object]:
        """What must be the same for a run to go on. Earlier versions did not write the classes down."""
        job = self.job
        given = {key: getattr(job, key) for key in ("drafter", "refiner", "vae", "n_draft", "batch_size", "flip", "seed")}
        keys = {key: getattr(job, key) for key in ("drafter_key", "refiner_key", "vae_key")}
        given |= {key: value for key, value in keys.items() if value is not None}
        given |= {"data": str(job.data), "classes": dict(self.images.assignment.labels)}
        if checkpoint.exists() and "classes" not in settings(checkpoint) and self.images.is_plain():
            del given["classes"]
        return given
