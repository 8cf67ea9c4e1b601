"""Kind: checkpoints as people have them. Weights are looked at before anything is traced, compared with PyTorch or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import assert_tokens, random_weights, save_checkpoint
from trt_var import CheckpointError, ExportError
from trt_var_export import workshop
from trt_var_export.build import build
from trt_var_export.graphs import verify
from trt_var_export.graphs.conditions import write_conditions
from trt_var_export.recipe import Recipe
from trt_var_export.weights.checkpoint import StateDict
from trt_var_export.weights.files.health import SMALLEST, examined

Change = Callable[[dict[str, Tensor]], object]


def drafter() -> dict[str, Tensor]:
    weights = random_weights(TOY_DRAFTER, 7)
    return {key: weights.load(key) for key in weights.shapes}


def put(key: str, row: int, value: float) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        state[key][row, ..., 1] = value

    return change


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(self: workshop.Workshop, folder: Path) -> None:
        (folder / "manifest.json").write_text("{}")

    monkeypatch.setattr(workshop.Workshop, "fill", fill)


def recipe(folder: Path, state: dict[str, Tensor], **options: object) -> Recipe:
    torch.save(state, folder / "drafter.pth")
    refiner = save_checkpoint(random_weights(TOY_REFINER, 8), folder / "refiner.pth")
    vae = save_checkpoint(random_weights(TOY_VAE, 9), folder / "vae.pth")
    return Recipe(str(folder / "drafter.pth"), str(refiner), str(vae), folder / "out", **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_tracing")
@pytest.mark.parametrize("compare", [True, False])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(("key", "row"), [("class_emb.weight", 7), ("blocks.1.ffn.fc2.weight", 100), ("pos_1LC", 0)])
def test_weights_that_are_not_finite(tmp_path: Path, key: str, row: int, value: float, compare: bool) -> None:
    state = drafter()
    put(key, row, value)(state)
    with pytest.raises(
        CheckpointError, match=rf"drafter has weights that are not finite: {key} .* first {value:g} in row {row}"
    ):
        build(recipe(tmp_path, state, compare=compare))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_tracing")
def test_other_roles_and_many_tensors(tmp_path: Path) -> None:
    given = recipe(tmp_path, drafter())
    vae = torch.load(tmp_path / "vae.pth")
    for key in list(vae)[:7]:
        vae[key].view(-1)[0] = float("nan")
    torch.save({"ema": vae}, tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match="the vae has weights that are not finite: .*; and 2 more tensors"):
        build(given)


@pytest.mark.usefixtures("no_tracing")
def test_half_precision_has_its_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What stays in float32 may be large; that is said too."""
    state = drafter()
    put("blocks.0.attn.proj.weight", 5, 7e4)(state)
    with pytest.raises(CheckpointError, match=r"beyond float16: blocks.0.attn.proj.weight .*70000 in row 5; .*fp32"):
        build(recipe(tmp_path, state, precision="fp16"))
    build(recipe(tmp_path, state))
    assert "has weights up to 7e+04 (blocks.0.attn.proj.weight)" in caplog.text
    put("word_embed.weight", 5, 1e6)(state)
    state["blocks.0.attn.proj.weight"] *= 0.1
    build(recipe(tmp_path, state, precision="fp16", force=True))


def test_class_tables_have_the_range_of_their_type(tmp_path: Path) -> None:
    """They are computed from the weights, so their numbers can be beyond what every weight is within."""
    state = drafter()
    state["head_nm.ada_lin.1.bias"][3] = 7e4
    load = StateDict(state, {}).load
    with pytest.raises(
        CheckpointError, match=r"drafter's head's AdaLN of class 0 is not finite in float16 .*--precision fp32"
    ):
        write_conditions(tmp_path / "drafter.conditions.npy", TOY_DRAFTER, load, half=True)
    write_conditions(tmp_path / "drafter.conditions.npy", TOY_DRAFTER, load, half=False)
    state["class_emb.weight"][4] = state["shared_ada_lin.1.weight"][:] = 1e25
    with pytest.raises(CheckpointError, match="AdaLN of block 0 of class 4 is not finite in float32"):
        write_conditions(tmp_path / "drafter.conditions.npy", TOY_DRAFTER, load, half=False)


def test_weights_of_a_million() -> None:
    state = {
        key: value * 1e6 if value.is_floating_point() and value.ndim == 2 else value for key, value in drafter().items()
    }
    with pytest.raises(ExportError, match="the torch model's logits at scale 0 are not finite: what these weights compute"):
        verify.reference_scales(TOY_DRAFTER, StateDict(state, {}).load, 64)


def test_the_first_scale_is_run_where_nothing_is_compared(toy_bundle: Path, tmp_path: Path) -> None:
    graph, table = toy_bundle / "drafter.logits.onnx", np.load(toy_bundle / "drafter.conditions.npy")
    verify.check_first_scale("drafter", graph, toy_bundle / "drafter.conditions.npy", TOY_DRAFTER, "fp32")
    np.save(tmp_path / "table.npy", np.sign(table) * np.float32(3e38))
    with pytest.raises(ExportError, match="the drafter's logits at scale 0 are not finite"):
        verify.check_first_scale("drafter", graph, tmp_path / "table.npy", TOY_DRAFTER, "fp32")


TYPES = ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("name", TYPES)
def test_types_are_converted_and_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    dtype = getattr(torch, name)
    checkpoint = StateDict({"a": torch.full((2, 2), 1.5).to(dtype), "b": torch.ones(1)}, {})
    found = examined(checkpoint, dict.fromkeys("ab", torch.float32), "drafter")
    assert found.load("a").dtype == torch.float32 and bool((found.load("a") == 1.5).all())
    assert f"the drafter has 1 tensors of {name}: taken as float32" in caplog.text


def test_doubles_beyond_single_precision() -> None:
    checkpoint = StateDict({"a": torch.tensor([[1.0], [1e300]], dtype=torch.float64)}, {})
    with pytest.raises(CheckpointError, match="1 of 2, the first inf in float32 in row 1"):
        examined(checkpoint, {"a": torch.float32}, "drafter")


@pytest.mark.usefixtures("no_tracing")
def test_denormal_weights_are_zero_and_draw_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A third of some products' weights are denormal; what the bundle is made of has zeros there, and draws the same."""
    state = drafter()
    for key in ("blocks.0.ffn.fc1.weight", "blocks.1.attn.mat_qkv.weight", "head.weight"):
        state[key][::3] = 1e-40
    made = []
    monkeypatch.setattr(workshop.Workshop, "fill", lambda self, folder: made.append(self.checkpoints["drafter"]))
    build(recipe(tmp_path, state, compare=False))
    assert "denormal numbers (below 1.2e-38) in blocks.0.ffn.fc1.weight and others: taken as zero" in caplog.text
    for key, value in state.items():
        held = made[0].load(key)
        assert torch.equal(held, torch.where(value.abs() < SMALLEST, 0, value)) or not value.is_floating_point()
    drawn = [verify.reference_scales(TOY_DRAFTER, load, 64) for load in (StateDict(state, {}).load, made[0].load)]
    for before, after in zip(*drawn, strict=True):
        assert_tokens(after.outputs["tokens"], before.outputs["tokens"])
