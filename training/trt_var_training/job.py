"""What ``trt-var finetune`` is asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trt_var.errors import UsageError
from trt_var_training.contrastive import Contrast, published_lambda
from trt_var_training.trainer import MAX_STEPS, Plan
from trt_var_training.var import CLASS_DROPOUT

MAX_BATCH, MAX_SEED, MAX_CLASSES = 4096, 2**63 - 1, 10**6


@dataclass(frozen=True)
class Job:
    """What to fine-tune, and how.

    Attributes:
        drafter, refiner, vae: as ``trt-var build`` takes them; the drafter is also the refiner's teacher.
        data: one folder of pictures a class.
        n_draft: how many scales the drafter will draw.
        out: where weights and checkpoints go.
        steps, learning_rate: of each model's training on its own scales, as ``trainer.Plan`` takes them.
        distil_steps: of the refiner's distillation over all scales before that; 0 for none.
        batch_size: images a batch, 1 to MAX_BATCH.
        flip: mirror every second picture.
        label_dropout: share of labels replaced by the null class, 0 to 1.
        guidance_free: train the own scales by CCA's objective instead of cross-entropy and divergence.
        beta, negative_weight: of CCA's objective, β and λ; None for what was published.
        seed: of the batches, 0 to MAX_SEED.
        device: ``cpu`` or ``cuda``.
        classes: a number, or a file with a line a class: the data's classes are not those of the checkpoints.
        class_names: ``imagenet`` or a file with a line a class; None for what the models' sources say.
        verify: how pictures are looked at before the first step: ``quick`` (headers and ends) or ``full`` (every pixel).
        drafter_key, refiner_key, vae_key: where in their files to look, for files with several models.

    Raises:
        UsageError: a number out of range, or two settings that exclude each other.
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
    distil_steps: int = 0
    label_dropout: float = CLASS_DROPOUT
    guidance_free: bool = False
    beta: float | None = None
    negative_weight: float | None = None
    classes: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise UsageError(f"--batch-size is {self.batch_size}; expected 1 to {MAX_BATCH}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed is {self.seed}; expected 0 to {MAX_SEED}")
        if not 0 <= self.label_dropout <= 1:
            raise UsageError(f"--label-dropout is {self.label_dropout:g}; expected 0 to 1, e.g. {CLASS_DROPOUT}")
        if not 0 <= self.distil_steps <= MAX_STEPS:
            raise UsageError(f"--distil-steps is {self.distil_steps}; expected 0 to {MAX_STEPS}")
        self._check_guidance()
        self._check_classes()
        self.plan()

    def _check_guidance(self) -> None:
        given = {"--beta": self.beta, "--lambda": self.negative_weight}
        asked = [name for name, value in given.items() if value is not None]
        if asked and not self.guidance_free:
            raise UsageError(f"{asked[0]} belongs to --guidance-free; add that, or leave it out")
        if self.guidance_free and self.batch_size < 2:
            raise UsageError("--batch-size is 1; --guidance-free takes negative labels from the batch: expected 2 or more")
        self.contrast(1)

    def _check_classes(self) -> None:
        if self.classes is None:
            return
        if self.guidance_free:
            raise UsageError(
                "--classes with --guidance-free: the frozen reference does not know the new classes; fine-tune with "
                "--classes first, then its result with --guidance-free"
            )
        count = self.class_count
        if count is None and self.class_names is not None:
            raise UsageError("--classes FILE names the classes already; leave --class-names out")
        if count is not None and not 1 <= count <= MAX_CLASSES:
            raise UsageError(f"--classes is {count}; expected 1 to {MAX_CLASSES}, or a file with a line a class")

    @property
    def class_count(self) -> int | None:
        """How many classes ``classes`` says; None if it is no number."""
        return int(self.classes) if self.classes and self.classes.isascii() and self.classes.isdigit() else None

    def plan(self) -> Plan:
        """Of each model's training on its own scales."""
        return Plan(self.steps, self.learning_rate)

    def contrast(self, depth: int) -> Contrast:
        """CCA's settings for a model of this depth."""
        given = {"beta": self.beta, "negative_weight": self.negative_weight}
        return Contrast(**{"negative_weight": published_lambda(depth)} | {k: v for k, v in given.items() if v is not None})
