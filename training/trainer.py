"""The training loop: one objective, AdamW, checkpoints, resume."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from trt_var.errors import CheckpointError, TrainingError, UsageError
from trt_var.export.checkpoint import read_torch
from trt_var.files import replacing

log = logging.getLogger(__name__)


class Objective(Protocol):
    """What is trained, and how far it is from its goal."""

    @property
    def trained(self) -> nn.Module: ...

    def losses(self, step: int) -> dict[str, Tensor]:
        """Scalars of one batch; ``loss`` is what is descended, the others are reported."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        steps: batches in all.
        learning_rate: at its height; it rises over the first ``warmup`` of the steps and falls as a cosine to zero.
        warmup: fraction of the steps.
        weight_decay: of matrices and convolutions; biases, gains and embeddings of rank one have none.
        betas: of AdamW.
        clip: largest norm of the gradient.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 2.0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        checks = {
            f"steps is {self.steps}; expected 1 or more": self.steps >= 1,
            f"learning_rate is {self.learning_rate}; expected above 0": 0 < self.learning_rate < math.inf,
            f"checkpoint_every is {self.checkpoint_every}; expected 1 or more": self.checkpoint_every >= 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(message)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(self.steps - rise, 1)))


def train(
    objective: Objective,
    plan: Plan,
    checkpoint: Path | None = None,
    progress: Callable[[int, dict[str, float]], object] | None = None,
    given: str = "",
) -> list[dict[str, float]]:
    """Train in place; goes on from ``checkpoint`` if it exists.

    A run that was broken off resumes at its last checkpoint and ends with the weights of an unbroken one.

    Args:
        checkpoint: written every ``plan.checkpoint_every`` steps and at the end.
        progress: called after every step with the steps done and its losses.
        given: whatever else must be the same for a run to go on, such as data and seed.

    Returns:
        The losses of every step of this call.

    Raises:
        CheckpointError: damaged, or of another plan.
        TrainingError: the loss is no longer a number.
    """
    module = objective.trained.train().requires_grad_(True)
    optimizer = _optimizer(module, plan)
    key = json.dumps({**asdict(plan), "given": given}, sort_keys=True)
    step = _resume(checkpoint, key, module, optimizer) if checkpoint and checkpoint.exists() else 0
    history: list[dict[str, float]] = []
    for done in range(step + 1, plan.steps + 1):
        history.append(_descend(objective, plan, optimizer, done - 1))
        if progress:
            progress(done, history[-1])
        if checkpoint and (done % plan.checkpoint_every == 0 or done == plan.steps):
            _save(checkpoint, key, module, optimizer, done)
    module.eval().requires_grad_(False)
    return history


def _descend(objective: Objective, plan: Plan, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    losses = objective.losses(step)
    if not losses["loss"].isfinite():
        raise TrainingError(f"the loss is {losses['loss'].item()} at step {step}; lower the learning rate or check the data")
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(objective.trained.parameters(), plan.clip)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _optimizer(module: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.squeeze().ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.squeeze().ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=plan.betas)


def _save(path: Path, key: str, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"plan": key, "step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
    with replacing(path) as file:
        torch.save(state, file)


def _resume(path: Path, key: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state: Any = read_torch(path)
    if not isinstance(state, dict) or not {"plan", "step", "module", "optimizer"} <= state.keys():
        raise CheckpointError(f"{path} is no checkpoint of a training run; remove it or name another")
    if state["plan"] != key:
        raise CheckpointError(f"{path} belongs to another run ({state['plan']}, not {key}); remove it to begin anew")
    try:
        module.load_state_dict(state["module"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} belongs to another model: {str(error).splitlines()[-1].strip()}") from error
    optimizer.load_state_dict(state["optimizer"])
    log.info("resuming %s at step %d", path, state["step"])
    return int(state["step"])
