"""What to build, and who watches."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from trt_var.schedule import Schedule

log = logging.getLogger(__name__)
Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Attributes:
        drafter, refiner, vae: as sources.resolve takes them; without a refiner, plain VAR.
        out: the bundle's folder.
        precision: fp32; fp16 with norms, residual, softmax statistics and f_hat in float32; or bf16, the weights of products
            in bfloat16 and everything else as in fp32, for CPUs.
        max_top_k: how many candidates the graphs keep, the ceiling of top_k.
        finetuned: the only N that the pair will serve; d30 and d16 then mean the pair that CoDe released for it.
        schedule: patch sides, for checkpoints that do not tell them.
        force: replace a bundle that lies at ``out``.
        compare: run every graph against the torch model.
        class_names: ``imagenet`` or a file with a line a class; None for what the weights' source says.
        drafter_key, refiner_key, vae_key: where in their files to look, for files with several models: ``ema``,
            ``trainer.var_wo_ddp``; ``.`` for the names without anything before them.
    """

    drafter: str
    refiner: str | None
    vae: str
    out: Path
    precision: Precision = "fp32"
    max_top_k: int = 1024
    finetuned: int | None = None
    schedule: Schedule | None = None
    force: bool = False
    compare: bool = True
    class_names: str | None = None
    drafter_key: str | None = None
    refiner_key: str | None = None
    vae_key: str | None = None


class Progress(Protocol):
    """Called when a stage begins, and for each of its steps."""

    def stage(self, name: str, steps: int) -> None: ...

    def step(self) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, steps: int) -> None:
        log.info("%s", name)

    def step(self) -> None:
        pass
