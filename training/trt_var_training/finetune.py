"""Specialised fine-tuning of any pair that the export knows, from a folder of pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from trt_var.errors import BackendError, DataError, OutputError, UsageError
from trt_var_export.weights.architecture import check_belonging, transformer_shape, vqvae_shape
from trt_var_export.weights.sources import resolve
from trt_var_training.data import Augmentation, Batches, FolderImages
from trt_var_training.trainer import Plan, train
from trt_var_training.var import Teacher, VarObjective, drafter_objective, refiner_objective
from trt_var_training.weights import load_transformer, load_vqvae, save_weights

log = logging.getLogger(__name__)
MAX_BATCH, MAX_SEED = 4096, 2**63 - 1


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


def finetune(job: Job) -> None:
    """Write ``drafter.safetensors`` and ``refiner.safetensors`` into ``job.out``.

    Run again, it goes on from the last checkpoint; a model that is done is not trained again.

    Raises:
        UsageError, CheckpointError, DataError: the job contradicts itself or names what is not there.
        TrainingError: the loss is no longer a number.
        BackendError: no such device.
        OutputError: ``job.out`` cannot be written.
    """
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
    images = FolderImages(job.data, schedule.side * vae_shape.downsampling)
    if len(images.classes) > shape.classes:
        raise DataError(f"{job.data} has {len(images.classes)} classes, the drafter knows {shape.classes}")
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {job.out}: {error.strerror or error}") from error
    batches = Batches(images, job.batch_size, job.seed, Augmentation(flip=job.flip))
    vqvae = load_vqvae(vae).to(job.device)
    teacher, tuned = (load_transformer(drafter, "drafter").to(job.device) for _ in range(2))
    _run(job, "drafter", drafter_objective(tuned, vqvae, batches, job.n_draft))
    follower = load_transformer(refiner, "refiner").to(job.device)
    _run(job, "refiner", refiner_objective(follower, vqvae, batches, job.n_draft, Teacher(teacher)))


def _run(job: Job, name: str, objective: VarObjective) -> None:
    plan = job.plan()
    given = {key: getattr(job, key) for key in ("drafter", "refiner", "vae", "n_draft", "batch_size", "flip", "seed")}
    given["data"] = str(job.data)
    keys = {key: getattr(job, key) for key in ("drafter_key", "refiner_key", "vae_key")}
    given |= {key: value for key, value in keys.items() if value is not None}
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
