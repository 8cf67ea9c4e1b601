"""VQVAE and VAR on tiny models: losses fall, runs resume exactly, later scales are not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_SCHEDULE, TOY_VAE
from helpers import assert_close, random_weights
from trt_var.errors import CheckpointError, TrainingError, UsageError
from trt_var_export.graphs.conditions import condition_columns
from trt_var_export.graphs.modules import Encode
from trt_var_export.models.transformer import Transformer
from trt_var_export.weights.architecture import hollow
from trt_var_export.weights.checkpoint import open_checkpoint
from trt_var_training.data import ArrayImages, Augmentation, Batches
from trt_var_training.trainer import Objective, Plan, train
from trt_var_training.var import (
    Teacher,
    VarObjective,
    drafter_objective,
    features_of,
    forced_logits,
    fresh_transformer,
    refiner_objective,
)
from trt_var_training.vqvae import VqvaeObjective, fresh_vqvae
from trt_var_training.weights import load_transformer, save_weights

SIDE = 8


@pytest.fixture
def batches() -> Batches:
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 256, (12, 2, 2, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    return Batches(ArrayImages(images, [i % 10 for i in range(12)]), 8, 3, Augmentation(degrees=5, shift=0.1))


def vqvae_objective(batches: Batches) -> VqvaeObjective:
    return VqvaeObjective(fresh_vqvae(TOY_VAE, 0), TOY_SCHEDULE, batches, revive_until=4, revive_every=2)


def var_objective(batches: Batches) -> VarObjective:
    return VarObjective(fresh_transformer(TOY_DRAFTER, 0), fresh_vqvae(TOY_VAE, 0), batches)


def refining_objective(batches: Batches) -> VarObjective:
    teacher = Teacher(fresh_transformer(TOY_DRAFTER, 5).requires_grad_(False))
    return refiner_objective(fresh_transformer(TOY_REFINER, 0), fresh_vqvae(TOY_VAE, 0), batches, 2, teacher)


OBJECTIVES = pytest.mark.parametrize("make", [vqvae_objective, var_objective, refining_objective])


@OBJECTIVES
def test_loss_falls(make: Callable[[Batches], Objective], batches: Batches) -> None:
    history = train(make(batches), Plan(30, 2e-3))
    first, last = (float(np.mean([step["loss"] for step in part])) for part in (history[:5], history[-5:]))
    assert last < 0.9 * first, f"loss {first:.3f} → {last:.3f}"


@OBJECTIVES
def test_resumed_run_equals_unbroken_one(make: Callable[[Batches], Objective], batches: Batches, tmp_path: Path) -> None:
    plan = Plan(8, 1e-3, checkpoint_every=3)
    whole = make(batches)
    train(whole, plan)

    def stop(done: int, losses: dict[str, float]) -> None:
        if done == 5:  # two steps after a checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make(batches), plan, tmp_path / "run.checkpoint", stop)
    resumed = make(batches)
    history = train(resumed, plan, tmp_path / "run.checkpoint")
    assert len(history) == 5
    _assert_same(resumed.trained, whole.trained)


def _assert_same(found: nn.Module, expected: nn.Module) -> None:
    for (name, value), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(value, other), f"{name}: max difference {(value - other).abs().max():.3g}"


def test_finished_run_is_not_repeated(batches: Batches, tmp_path: Path) -> None:
    train(var_objective(batches), Plan(2, 1e-3), tmp_path / "run.checkpoint")
    assert train(var_objective(batches), Plan(2, 1e-3), tmp_path / "run.checkpoint") == []


def test_checkpoints_of_other_runs_are_refused(batches: Batches, tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    train(var_objective(batches), Plan(1, 1e-3), path)
    with pytest.raises(CheckpointError, match="another run: steps was 1, now 2; remove"):
        train(var_objective(batches), Plan(2, 1e-3), path)
    with pytest.raises(CheckpointError, match="another run: data was None, now 'other'; remove"):
        train(var_objective(batches), Plan(1, 1e-3), path, given={"data": "other"})
    with pytest.raises(CheckpointError, match="another model"):
        train(refining_objective(batches), Plan(1, 1e-3), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        train(var_objective(batches), Plan(1, 1e-3), path)


def test_diverging_run_is_told(batches: Batches) -> None:
    objective = var_objective(batches)
    nn.init.constant_(objective.trained.head.weight, float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        train(objective, Plan(2, 1e-3))
    with pytest.raises(UsageError, match="learning_rate"):
        Plan(1, -1.0)


def test_forced_pass_is_block_causal_and_equals_decoding() -> None:
    """A change at scale 2 leaves the logits of scales 0 and 1 alone, and changes all positions of scale 2."""
    model = fresh_transformer(TOY_DRAFTER, 0).eval().requires_grad_(False)
    schedule = TOY_SCHEDULE
    features = torch.randn(schedule.length, 2, TOY_DRAFTER.code_width)
    changed = features.clone()
    changed[schedule.span(2).start] += 1
    labels = torch.tensor([1, TOY_DRAFTER.classes])
    logits, other = forced_logits(model, features, labels), forced_logits(model, changed, labels)
    assert_close(other[: schedule.begin(2)], logits[: schedule.begin(2)])
    assert (other[schedule.span(2)] != logits[schedule.span(2)]).any(-1).all(), "no mask inside a scale"
    short = forced_logits(model, features[: schedule.begin(2)], labels)
    assert_close(short, logits[: schedule.begin(2)], absolute=1e-5)


@pytest.mark.parametrize("shape", [TOY_DRAFTER, TOY_REFINER], ids=["shared", "own"])
def test_conditions_equal_the_folded_table(shape: object) -> None:
    weights = random_weights(TOY_DRAFTER if shape is TOY_DRAFTER else TOY_REFINER, 3)
    model = load_transformer(weights, "model")
    table = torch.cat([columns for _, columns in condition_columns(model.shape, weights.load)], 1)
    assert_close(model.conditions(torch.arange(model.shape.classes + 1)), table, absolute=1e-6)


def test_features_are_those_of_the_encoder() -> None:
    encode = Encode(fresh_vqvae(TOY_VAE, 0), TOY_SCHEDULE)
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    tokens, features = features_of(encode, images)
    expected, f_hats = encode(images)
    assert torch.equal(tokens, expected.long())
    assert features.shape == (TOY_SCHEDULE.length, 2, TOY_VAE.code_width)
    assert not features[0].any()
    pooled = nn.functional.interpolate(f_hats[1], size=(3, 3), mode="area").flatten(2).permute(2, 0, 1)
    assert_close(features[TOY_SCHEDULE.span(2)], pooled.detach(), absolute=1e-5)


def test_tuning_leaves_the_other_scales_out(batches: Batches) -> None:
    """The drafter's loss does not depend on what later scales hold, the refiner's not on the drafter's targets."""
    vqvae = fresh_vqvae(TOY_VAE, 0)
    model: Transformer = fresh_transformer(TOY_DRAFTER, 0).requires_grad_(True)
    whole = VarObjective(model, vqvae, batches, (0, 2)).losses(0)
    tuned = drafter_objective(model, vqvae, batches, 2).losses(0)
    assert_close(tuned["loss"].detach(), whole["loss"].detach())
    tuned["loss"].backward()
    later = model.pos_1LC.grad[0, TOY_SCHEDULE.begin(2) :]
    assert not later.any(), f"largest gradient of a later scale {later.abs().max():.3g}"
    teacher = Teacher(fresh_transformer(TOY_DRAFTER, 0).requires_grad_(False))
    same = refiner_objective(fresh_transformer(TOY_DRAFTER, 0), vqvae, batches, 2, teacher).losses(0)
    assert_close(same["divergence"].detach(), 0.0, absolute=1e-6)


def test_saved_weights_are_a_checkpoint(tmp_path: Path) -> None:
    model = fresh_transformer(TOY_REFINER, 0)
    save_weights(tmp_path / "model.safetensors", model)
    found = load_transformer(open_checkpoint(tmp_path / "model.safetensors", ""), "model")
    assert found.shape == TOY_REFINER
    _assert_same(found, model)
    assert hollow(TOY_REFINER).levels.tolist() == found.levels.tolist()
