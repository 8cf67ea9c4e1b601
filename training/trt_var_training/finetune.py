"""Specialised fine-tuning of any pair that the export knows, from a folder of pictures."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from tqdm import tqdm

from trt_var.bundle.manifest import Role
from trt_var.errors import BackendError, DataError, OutputError, UsageError
from trt_var.files.paths import expanded, followed
from trt_var.files.writing import replacing
from trt_var_export.models.transformer import Transformer
from trt_var_export.models.vqvae import Vqvae
from trt_var_export.weights.architecture import check_belonging, transformer_shape, vqvae_shape
from trt_var_export.weights.checkpoint import Checkpoint
from trt_var_export.weights.names import imagenet_names, known_names, told_names
from trt_var_export.weights.sources import resolve
from trt_var_training.contrastive import ContrastObjective
from trt_var_training.data import Augmentation, Batches, FolderImages
from trt_var_training.folders import check_there
from trt_var_training.job import Job
from trt_var_training.trainer import Objective, Plan, settings, train
from trt_var_training.var import CLASS_DROPOUT, Teacher, drafter_objective, refiner_objective
from trt_var_training.weights import load_transformer, load_vqvae, renew_classes, save_weights

__all__ = ["Job", "finetune"]
log = logging.getLogger(__name__)
Say = Callable[[str], object]


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
    check_there(job.data)
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
    classes, names = _classes(job, {"drafter": drafter, "refiner": refiner}, shape.classes)
    images = FolderImages(job.data, schedule.side * vae_shape.downsampling, classes, names or ())
    _tell(job, images, say)
    with tqdm(total=len(images.paths), desc="pictures", disable=None, leave=False) as bar:
        images.verify(job.verify == "full", bar.update)
    try:
        followed(job.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {job.out}: {error.strerror or error}") from error
    run = _Run(job, images, classes, class_names(images, names), load_vqvae(vae).to(job.device))
    run.drafter(drafter)
    run.refiner(refiner, drafter)


def class_names(images: FolderImages, known: list[str] | None) -> list[str] | None:
    """What the classes of the trained models are called: the model's names, or those of folders that took its place."""
    rule = images.assignment.rule
    if rule == "ids":
        return known or imagenet_names()
    if rule != "order":
        return known
    return images.classes if all(name.isprintable() and name.strip() for name in images.classes) else None


def _classes(job: Job, checkpoints: dict[Role, Checkpoint], known: int) -> tuple[int, list[str] | None]:
    """How many classes the trained models know, and what they are called, before folders are looked at."""
    if job.classes is not None and job.class_count is None:
        names = told_names(job.classes, None, "--classes")
        return len(names), names
    classes = job.class_count or known
    if job.class_names is not None:
        return classes, told_names(job.class_names, classes)
    return classes, known_names(checkpoints, classes) if job.classes is None else None


def _tell(job: Job, images: FolderImages, say: Say) -> None:
    """What was found; the whole mapping is in classes.json."""
    told = job.classes is not None and job.class_count is None
    option = "--class-names" if job.class_names is not None else "--classes" if told else None
    if images.assignment.rule == "order" and option:
        raise DataError(f"no folder in {job.data} is named as a class of {option}, e.g. {images.classes[0]!r} is not")
    say(f"{job.data}: {len(images.paths)} pictures of {len(images.classes)} classes {images.assignment}")
    if images.assignment.rule == "order" and images.classes != sorted(images.classes):
        log.warning("numbers in the folders' names are counted: %s comes before %s", *_unsorted(images.classes))
    for sentence in images.left_out:
        log.warning("left out in %s: %s", job.data, sentence)


def _unsorted(names: list[str]) -> tuple[str, str]:
    return next((one, other) for one, other in pairwise(names) if one > other)


@dataclass(frozen=True)
class _Run:
    """The trainings of one job and what they share; ``names`` are those of the result's ``classes`` classes."""

    job: Job
    images: FolderImages
    classes: int
    names: list[str] | None
    vqvae: Vqvae

    def __post_init__(self) -> None:
        content = {"folders": self.images.assignment.labels, "rule": self.images.assignment.rule, "names": self.names}
        with replacing(self.job.out / "classes.json") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")

    def drafter(self, source: Checkpoint) -> None:
        """Train it on the scales that it will draw."""
        job, model = self.job, self._load(source, "drafter")
        objective = (
            self._contrast(model, (0, job.n_draft), 0)
            if job.guidance_free
            else drafter_objective(model, self.vqvae, self._batches(), job.n_draft, job.label_dropout)
        )
        self._train(objective, f"drafter-n{job.n_draft}", job.plan(), self._given(model))
        save_weights(job.out / "drafter.safetensors", model, names=self.names)

    def refiner(self, source: Checkpoint, drafter: Checkpoint) -> None:
        """Train it on all scales, if that is asked for, then on those that it will draw."""
        job, model = self.job, self._load(source, "refiner")
        dropout, first, skip = job.label_dropout, job.n_draft, job.distil_steps
        teacher = self._teacher(drafter) if skip or not job.guidance_free else None
        if skip and teacher:
            distilled = refiner_objective(model, self.vqvae, self._batches(), 0, teacher, dropout)
            self._train(distilled, "refiner-distilled", Plan(skip, job.learning_rate), self._given())
        if job.guidance_free or not teacher:
            objective: Objective = self._contrast(model, (first, model.shape.schedule.scales), skip)
        else:
            objective = refiner_objective(model, self.vqvae, self._batches(skip), first, teacher, dropout)
        given = self._given(model) | ({"distil_steps": skip} if skip else {})
        self._train(objective, f"refiner-n{first}", job.plan(), given)
        save_weights(job.out / "refiner.safetensors", model, names=self.names)

    def _load(self, source: Checkpoint, role: Role) -> Transformer:
        model = load_transformer(source, role)
        if self.job.classes is not None:
            renew_classes(model, self.classes, self.job.seed)
        return model.to(self.job.device)

    def _teacher(self, source: Checkpoint) -> Teacher:
        """The untouched drafter, with its own classes."""
        return Teacher(load_transformer(source, "drafter").to(self.job.device), knows_classes=self.job.classes is None)

    def _batches(self, skip: int = 0) -> Batches:
        return Batches(self.images, self.job.batch_size, self.job.seed, Augmentation(flip=self.job.flip), skip)

    def _contrast(self, model: Transformer, span: tuple[int, int], skip: int) -> ContrastObjective:
        """The reference is the model as this stage finds it."""
        contrast, batches = self.job.contrast(model.shape.depth), self._batches(skip)
        reference = copy.deepcopy(model)
        return ContrastObjective(model, reference, self.vqvae, batches, span, contrast, self.job.label_dropout)

    def _train(self, objective: Objective, name: str, plan: Plan, given: dict[str, object]) -> None:
        checkpoint = self.job.out / f"{name}.checkpoint"
        with tqdm(total=plan.steps, desc=name, disable=None) as bar:

            def show(done: int, losses: dict[str, float]) -> None:
                bar.update(done - bar.n)
                bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()})

            if checkpoint.exists() and "classes" not in settings(checkpoint) and self.images.is_plain():
                given = {key: value for key, value in given.items() if key != "classes"}  # of a version that kept none
            history = train(objective, plan, checkpoint, show, given)
        if history:
            last = np.mean([step["loss"] for step in history[-50:]])
            log.info("%s: mean loss of the last %d steps %.4f", name, len(history[-50:]), last)

    def _given(self, own: Transformer | None = None) -> dict[str, object]:
        """What must be the same for a run to go on; what has its default is left out where earlier versions left it out.

        Args:
            own: the model that is trained on its own scales, for N; None where all scales are.
        """
        job = self.job
        given = {key: getattr(job, key) for key in ("drafter", "refiner", "vae", "batch_size", "flip", "seed")}
        keys = {key: getattr(job, key) for key in ("drafter_key", "refiner_key", "vae_key")}
        given |= {key: value for key, value in keys.items() if value is not None}
        given |= {"data": str(job.data), "classes": dict(self.images.assignment.labels)}
        if job.label_dropout != CLASS_DROPOUT:
            given["label_dropout"] = job.label_dropout
        if job.classes is not None:
            given["class_count"] = self.classes
        if own:
            given["n_draft"] = job.n_draft
            contrast = job.contrast(own.shape.depth)
            given |= {"beta": contrast.beta, "lambda": contrast.negative_weight} if job.guidance_free else {}
        return given
