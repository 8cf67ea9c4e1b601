"""Condition contrastive alignment: its loss by hand, its pairs, its resume."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TOY_DRAFTER, TOY_SCHEDULE, TOY_VAE
from helpers import assert_close
from trt_var.errors import UsageError
from trt_var_training.contrastive import Contrast, ContrastObjective, log_likelihoods, published_lambda
from trt_var_training.data import ArrayImages, Batches
from trt_var_training.trainer import Plan, train
from trt_var_training.var import Forcing, fresh_transformer
from trt_var_training.vqvae import fresh_vqvae

LN2 = math.log(2)


@pytest.fixture
def batches() -> Batches:
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 256, (6, 2, 2, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    return Batches(ArrayImages(images, list(range(6))), 6, 3)


def objective(
    batches: Batches, contrast: Contrast, class_dropout: float = 0.1, span: tuple[int, int] = (0, 2)
) -> ContrastObjective:
    model, reference = (fresh_transformer(TOY_DRAFTER, 0) for _ in range(2))
    return ContrastObjective(model, reference, fresh_vqvae(TOY_VAE, 0), batches, span, contrast, class_dropout)


def test_loss_by_hand() -> None:
    """β 0.5, λ 4. The first pair: −log σ(0.5·2) − 4·log σ(−0.5·3); the second has one label twice: −2·log σ(−0.5·1)."""
    found = Contrast(0.5, 4.0).loss(torch.tensor([2.0, -1.0]), torch.tensor([3.0, -1.0]), torch.tensor([False, True]))
    told_apart = 0.31326169 + 4 * 1.70141328
    alike = 2 * 0.97407698
    assert_close(found, (told_apart + alike) / 2 / 4, absolute=1e-6)
    below_one = Contrast(0.5, 0.25).loss(torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([False]))
    assert_close(below_one, 0.31326169 + 0.25 * 1.70141328, absolute=1e-6)


def test_log_likelihoods_by_hand() -> None:
    """Two positions of two rows over two codes, with probabilities 1/4 and 3/4."""
    logits = torch.tensor([0.0, math.log(3)]).expand(2, 2, 2)
    found = log_likelihoods(logits, torch.tensor([[1, 0], [0, 0]]))
    assert_close(found, [math.log(3 / 16), math.log(1 / 16)], absolute=1e-6)


def test_whole_objective_by_hand(batches: Batches) -> None:
    """After one step the loss is that of log-likelihoods taken one picture, label and model at a time."""
    contrast = Contrast(0.7, 3.0)
    trained = objective(batches, contrast, 0.3)
    train(trained, Plan(1, 1e-2))
    found = {name: float(value) for name, value in trained.losses(1).items()}
    model, vqvae = trained.trained, fresh_vqvae(TOY_VAE, 0)
    reference = fresh_transformer(TOY_DRAFTER, 0).requires_grad_(False)
    batch = Forcing(model, vqvae, batches, (0, 2), 0.3)(1)  # type: ignore[arg-type]
    assert len(batch.tokens) == TOY_SCHEDULE.begin(2) and batch.dropped.any() and not batch.dropped.all()

    def gap(i: int, label: int) -> float:
        both = []
        for one in (model, reference):
            forcing = Forcing(one, vqvae, batches, (0, 2), 0.3)  # type: ignore[arg-type]
            logits = forcing.logits(one, batch.features[:, i : i + 1], torch.tensor([label]))  # type: ignore[arg-type]
            both.append(sum(float(logits[n, 0].log_softmax(0)[batch.tokens[n, i]]) for n in range(len(batch.tokens))))
        return both[0] - both[1]

    def minus_log_sigmoid(x: float) -> float:
        return math.log1p(math.exp(-x))

    expected, null = 0.0, TOY_DRAFTER.classes
    labels = batch.labels.tolist()
    for i in range(len(labels)):
        other = labels[(i + 1) % len(labels)]
        if batch.dropped[i]:
            expected += 2 * minus_log_sigmoid(0.7 * gap(i, null))
        elif other == labels[i]:
            expected += 2 * minus_log_sigmoid(0.7 * gap(i, other))
        else:
            expected += minus_log_sigmoid(0.7 * gap(i, labels[i])) + 3 * minus_log_sigmoid(-0.7 * gap(i, other))
    assert_close(found["loss"], expected / len(labels) / 3, absolute=1e-5)


def test_beginning_and_dropped_labels(batches: Batches) -> None:
    """Model and reference agree at first; with all labels dropped, every pair is two unconditional pictures."""
    begin = objective(batches, Contrast(0.02, 50.0), 1.0).losses(0)
    assert_close(begin["loss"].detach(), 2 * LN2 / 50, absolute=1e-6)
    assert begin["own"] == begin["other"] == 0


def test_labels_are_told_apart(batches: Batches) -> None:
    history = train(objective(batches, Contrast(1.0, 1.0)), Plan(30, 1e-2))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"], f"{history[0]['loss']:.3f} → {history[-1]['loss']:.3f}"
    assert history[-1]["own"] > history[-1]["other"]


def test_resumed_run_equals_unbroken_one(batches: Batches, tmp_path: Path) -> None:
    """The reference is not what was trained, but what training started from."""
    plan, contrast = Plan(4, 1e-3, checkpoint_every=2), Contrast(0.5, 2.0)
    whole, broken, resumed = (objective(batches, contrast, span=(1, 4)) for _ in range(3))
    train(whole, plan)

    def stop(done: int, losses: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, plan, tmp_path / "run.checkpoint", stop)
    assert len(train(resumed, plan, tmp_path / "run.checkpoint")) == 2
    for value, other in zip(resumed.trained.parameters(), whole.trained.parameters(), strict=True):
        assert torch.equal(value, other)


def test_published_settings_and_mistakes() -> None:
    assert [published_lambda(depth) for depth in (5, 16, 20, 24, 30, 36)] == [50, 50, 50, 100, 1000, 1000]
    for wrong, message in (((0.0, 1.0), "--beta is 0"), ((0.1, -1.0), "--lambda is -1"), ((float("nan"), 1.0), "--beta")):
        with pytest.raises(UsageError, match=message):
            Contrast(*wrong)
