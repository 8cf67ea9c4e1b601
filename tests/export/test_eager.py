"""Eager PyTorch, measured against: threads and arithmetic as asked for, and told. Shapes here are small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from trt_var.bench.measure import Setting
from trt_var.bundle.manifest import decode
from trt_var.schedule import Schedule
from trt_var_export.eager import measure
from trt_var_export.eager.model import Eager
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.weights.architecture import parameter_shapes
from trt_var_export.weights.checkpoint import RandomWeights

SCHEDULE = Schedule((1, 2, 3))
SHAPE = TransformerShape(2, 128, 2, 320, 700, 16, 10, False, SCHEDULE)
VAE = VqvaeShape(32, (1, 2), 1, 2, 16, 700, 3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Eager]]:
    """Every model that is measured."""
    released = decode((Path(__file__).parents[1] / "data/d30-d16-fp16.json").read_bytes(), "d30-d16")
    manifest = msgspec.structs.replace(released, schedule=SCHEDULE.sides)
    found: list[Eager] = []
    generate = Eager.generate

    def kept(self: Eager, *asked: Any, **options: Any) -> object:
        found.append(self)
        return generate(self, *asked, **options)

    monkeypatch.setattr(measure.Bundle, "open", lambda path: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(measure, "_shapes", lambda manifest, roles: dict.fromkeys(roles, SHAPE))
    monkeypatch.setattr(measure, "released_vqvae_shape", lambda channels: VAE)
    monkeypatch.setattr(Eager, "generate", kept)
    threads = torch.get_num_threads()
    yield found
    torch.set_num_threads(threads)


def test_both_arithmetics(small: list[Eager]) -> None:
    for backend, told, weights in (
        ("eager", "eager, cpu, float32, 1 thread", torch.float32),
        ("eager-bf16", "eager, cpu, bfloat16 autocast, weights of products too, 1 thread", torch.bfloat16),
    ):
        row = measure.measure(Setting("x", backend, 2, 2, 1, threads=1))
        assert row.description.endswith(told)
        assert torch.get_num_threads() == 1
        assert len(row.scales) == 3
        assert row.anonymous and row.files and row.added is not None
        model = small[-1]
        assert {one.head.weight.dtype for one in model.models.values()} == {weights}
        assert {one.blocks[1].attn.mat_qkv.weight.dtype for one in model.models.values()} == {weights}
        assert model.vqvae.quantize.embedding.weight.dtype == torch.float32, "the decoder is left as it is"


def test_rounded_weights_compute_the_same_products() -> None:
    """bfloat16 autocast rounds the weights anyhow; kept rounded, only the sums of biases may differ."""
    logits = []
    for rounded in (False, True):
        weights = {"drafter": RandomWeights(parameter_shapes(SHAPE), 0)}
        model = Eager({"drafter": SHAPE}, weights, (VAE, RandomWeights(parameter_shapes(VAE), 2)), "cpu", torch.bfloat16)
        if rounded:
            model.round_weights(torch.bfloat16)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits.append(model._logits(model.models["drafter"], [1, 2], [], 0, 0, [{}, {}]))
    assert torch.equal(*logits)


def test_on_a_gpu_what_was_published() -> None:
    assert measure.dtype(Setting("x", "eager", 8, 1, 1, "cuda")) == torch.float16
    assert measure.dtype(Setting("x", "eager-bf16", 8, 1, 1, "cuda")) == torch.bfloat16
    assert measure.dtype(Setting("x", "eager", 8, 1, 1)) is None
