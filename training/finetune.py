"""Specialised fine-tuning of any pair that the export knows, from a folder of pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from trt_var.errors import BackendError, CheckpointError, DataError, OutputError, UsageError
from trt_var.export.sources import resolve
from trt_var.training.data import Augmentation, Batches, FolderImages
from trt_var.training.trainer import Plan, train
from trt_var.training.var import Teacher, VarObjective, drafter_objective, refiner_objective
from trt_var.training.weights import load_transformer, load_vqvae, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What to fine-tune, and how.

    Attributes:
        drafter, refiner, vae: as ``trt-var build`` takes them; the drafter is also the refiner's teacher.
        data: one folder of pictures a class.
        n_draft: how many scales the drafter will draw.
        out: where weights and checkpoints go.
        steps, batch_size, learning_rate: of each of the two trainings.
        flip: mirror every second picture.
        seed: of the batches.
        device: ``cpu`` or ``cuda``.
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


def finetune(job: Job) -> None:
    """Write ``drafter.safetensors`` and ``refiner.safetensors`` into ``job.out``.

    Run again, it goes on from the last checkpoint; a model that is done is not trained again.

    Raises:
        UsageError, CheckpointError, DataError: the job contradicts itself or names what is not there.
        TrainingError: the loss is no longer a number.
        BackendError: no such device.
    """
    if job.device == "cuda" and not torch.cuda.is_available():
        raise BackendError("PyTorch sees no CUDA device here; use --device cpu")
    drafter = load_transformer(resolve(job.drafter, "drafter"), "drafter")
    refiner = load_transformer(resolve(job.refiner, "refiner"), "refiner")
    vqvae = load_vqvae(resolve(job.vae, "vae"))
    schedule = drafter.shape.schedule
    if refiner.shape.schedule != schedule or refiner.shape.vocabulary != drafter.shape.vocabulary:
        raise CheckpointError(f"the refiner's scales {refiner.shape.schedule.sides} are not the drafter's {schedule.sides}")
    if not 1 <= job.n_draft < schedule.scales:
        raise UsageError(f"n_draft is {job.n_draft}; a pair can be tuned for 1 to {schedule.scales - 1}")
    plan = Plan(job.steps, job.learning_rate)
    images = FolderImages(job.data, schedule.side * vqvae.shape.downsampling)
    if len(images.classes) > drafter.shape.classes:
        raise DataError(f"{job.data} has {len(images.classes)} classes, the drafter knows {drafter.shape.classes}")
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {job.out}: {error.strerror or error}") from error
    batches = Batches(images, job.batch_size, job.seed, Augmentation(flip=job.flip))
    teacher = Teacher(load_transformer(resolve(job.drafter, "drafter"), "drafter").to(job.device))
    for model in (drafter, refiner, vqvae):
        model.to(job.device)
    _run(job, plan, "drafter", drafter_objective(drafter, vqvae, batches, job.n_draft))
    _run(job, plan, "refiner", refiner_objective(refiner, vqvae, batches, job.n_draft, teacher))


def _run(job: Job, plan: Plan, name: str, objective: VarObjective) -> None:
    given = repr((job.drafter, job.refiner, job.vae, str(job.data), job.n_draft, job.batch_size, job.flip, job.seed))
    checkpoint = job.out / f"{name}-n{job.n_draft}.checkpoint"
    with tqdm(total=plan.steps, desc=name, disable=None) as bar:

        def show(done: int, losses: dict[str, float]) -> None:
            bar.update(done - bar.n)
            bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()})

        history = train(objective, plan, checkpoint, show, given)
    save_weights(job.out / f"{name}.safetensors", objective.trained)
    if history:
        last = np.mean([step["loss"] for step in history[-50:]])
        log.info("%s: mean loss of the last %d steps %.4f", name, len(history[-50:]), last)
