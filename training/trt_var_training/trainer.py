"""The training loop: one objective, AdamW, checkpoints, resume."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trt_var.errors import CheckpointError, TrainingError, UsageError
from trt_var.files.writing import replacing
from trt_var_export.weights.checkpoint import read_torch, shown

log = logging.getLogger(__name__)
MAX_STEPS, MAX_RATE = 10_000_000, 10.0


class Objective(Protocol):
    """What is trained, and how far it is from its goal."""

    @property
    def trained(self) -> nn.Module:
        """The module whose parameters are descended, on its device."""
        ...

    def losses(self, step: int) -> dict[str, Tensor]:
        """Scalars of the batch of a step, 0 to steps − 1; ``loss`` is what is descended, the others are reported."""
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

    Raises:
        UsageError: steps, learning rate or checkpoint_every out of range.
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
            f"steps is {self.steps}; expected 1 to {MAX_STEPS}": 1 <= self.steps <= MAX_STEPS,
            f"learning_rate is {self.learning_rate}; expected above 0, up to {MAX_RATE:g}": 0
            < self.learning_rate
            <= MAX_RATE,
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
    given: Mapping[str, object] | None = None,
) -> list[dict[str, float]]:
    """Train in place; goes on from ``checkpoint`` if it exists.

    A run that was broken off resumes at its last checkpoint and ends with the weights of an unbroken one.

    Args:
        objective: its ``trained`` is changed, and left in evaluation mode without gradients.
        plan: how long and how fast.
        checkpoint: written every ``plan.checkpoint_every`` steps and at the end.
        progress: called after every step with the steps done and its losses.
        given: whatever else must be the same for a run to go on, such as data and seed: names with what JSON can hold.

    Returns:
        The losses of every step of this call.

    Raises:
        CheckpointError: damaged, or of another plan, model or ``given``.
        TrainingError: the loss is no longer a number.
        OutputError: the checkpoint cannot be written.
    """
    module = objective.trained.train().requires_grad_(True)
    optimizer = _optimizer(module, plan)
    key = json.dumps({**asdict(plan), **(given or {})}, sort_keys=True)
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


def settings(checkpoint: Path) -> dict[str, object]:
    """The plan and ``given`` that a checkpoint was written with; empty if they cannot be read.

    Raises:
        CheckpointError: damaged.
    """
    state: Any = read_torch(checkpoint)
    try:
        found = json.loads(state["plan"])
    except (ValueError, TypeError, LookupError):
        found = None
    return found if isinstance(found, dict) else {}


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
        differences = "; ".join(_differences(state["plan"], key))
        raise CheckpointError(
            f"{path} belongs to another run: {differences}; remove it to begin anew, or name another --out"
        )
    try:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise CheckpointError(f"{path} belongs to another model: {shown(reason)}; remove it to begin anew") from error
    log.info("resuming %s at step %d", path, step)
    return step


def _differences(before: object, now: str) -> list[str]:
    """Which settings of a run are not those of the checkpoint."""
    try:
        old = json.loads(str(before))
    except ValueError:
        old = None
    new = json.loads(now)
    if not isinstance(old, dict):
        return ["its settings cannot be read"]
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{shown(name)} was {shown(repr(old.get(name)))}, now {shown(repr(new.get(name)))}" for name in names]
