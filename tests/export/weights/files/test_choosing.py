"""Kind: checkpoints as people have them. The model is found wherever a file keeps it; of several, none is taken silently."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import TOY_DRAFTER, TOY_VAE
from helpers import random_weights
from trt_var import CheckpointError, UsageError
from trt_var.cli.main import main
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.weights import sources
from trt_var_export.weights.architecture import transformer_shape
from trt_var_export.weights.checkpoint import Checkpoint, StateDict, open_checkpoint


def state(shape: TransformerShape | VqvaeShape = TOY_DRAFTER, seed: int = 3) -> dict[str, Tensor]:
    weights = random_weights(shape, seed)
    return {key: weights.load(key) for key in weights.shapes}


MODEL, AVERAGE, VAE = state(), state(seed=4), state(TOY_VAE)


def under(prefix: str, tensors: dict[str, Tensor] = MODEL) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def opened(content: Any, path: Path, key: str | None = None) -> Checkpoint:
    torch.save(content, path)
    return open_checkpoint(path, "var_wo_ddp", key, "--drafter-key")


def assert_is(checkpoint: Checkpoint, expected: dict[str, Tensor] = MODEL) -> None:
    assert transformer_shape(checkpoint, "drafter") == TOY_DRAFTER
    assert all(torch.equal(checkpoint.load(key), value) for key, value in expected.items())


class Whole(nn.Module):
    """A model saved whole: its class is not there when the file is read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in tensors.items():
            module: nn.Module = self
            *path, last = key.split(".")
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, value)


MOMENTS = {"state": {0: {"exp_avg": torch.ones(3, 3), "step": torch.tensor(5.0)}}, "param_groups": [{"params": [0]}]}
FILES: dict[str, Any] = {
    "module": under("module."),
    "compiled": under("_orig_mod."),
    "stacked": under("module._orig_mod.model."),
    "stacked otherwise": under("_orig_mod.model.module."),
    "compiled by block": {key.replace("blocks.0.", "blocks.0._orig_mod."): value for key, value in MODEL.items()},
    "model": {"model": MODEL, "epoch": 3},
    "lightning": {"state_dict": under("model."), "hyper_parameters": argparse.Namespace(lr=1e-3), "global_step": 7},
    "with optimiser": {"model": under("module."), "optimizer": MOMENTS, "scaler": {"scale": 65536.0}},
    "flat with optimiser": {**MODEL, "optimizer": MOMENTS},
    "flat with counters": {**MODEL, "epoch": 3, "best": np.float64(1.5), "args": argparse.Namespace(seed=np.int64(3))},
    "averaged by torch": {**under("module."), "n_averaged": torch.tensor(9)},
    "scalar": {**MODEL, "step": torch.tensor(9)},
    "parameters": {key: nn.Parameter(value, requires_grad=False) for key, value in MODEL.items()},
    "trainer": {"trainer": {"var_wo_ddp": MODEL, "vae_local": VAE, "var_opti": {"optimizer": MOMENTS}}, "args": {}},
    "nested": {"trainer": {"model": {"module": {"word_embed": {"weight": MODEL["word_embed.weight"]}, **MODEL}}}},
    "whole": Whole(MODEL),
    "whole in a dict": {"model": Whole(MODEL), "epoch": 1},
}
del FILES["nested"]["trainer"]["model"]["module"]["word_embed.weight"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_the_model_is_found(tmp_path: Path, name: str, legacy: bool) -> None:
    path = tmp_path / "checkpoint"
    torch.save(FILES[name], path, _use_new_zipfile_serialization=not legacy)
    assert_is(open_checkpoint(path, "var_wo_ddp"))


def test_a_training_checkpoint_serves_both_roles(tmp_path: Path) -> None:
    path = tmp_path / "ar-ckpt-last.pth"
    torch.save(FILES["trainer"], path)
    vae = open_checkpoint(path, "vae_local")
    assert torch.equal(vae.load("quantize.embedding.weight"), VAE["quantize.embedding.weight"])
    assert "key" not in vae.origin


def test_training_losses_beside_the_vae_are_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "vae.ckpt"
    torch.save({"state_dict": {**VAE, "loss.discriminator.main.0.weight": torch.ones(2, 2)}}, path)
    assert set(open_checkpoint(path, "vae_local").shapes) == set(VAE)
    assert "left aside: loss" in caplog.text


def test_what_changes_the_model_is_no_counter(tmp_path: Path) -> None:
    """A tensor among the model's that the model does not know is refused by name, scalars too."""
    for extra in ({"blocks.0.lora_A": torch.ones(2, 2)}, {"blocks.0.attn.proj.weight_scale": torch.tensor(2.0)}):
        with pytest.raises(CheckpointError, match=f"extra {next(iter(extra))}"):
            transformer_shape(opened({**MODEL, **extra}, tmp_path / "x"), "drafter")
    with pytest.raises(CheckpointError, match="extra text_proj.weight"):
        transformer_shape(opened({**MODEL, "text_proj.weight": torch.ones(2, 2)}, tmp_path / "x"), "drafter")


PAIRS = {
    ("model", "ema"): {"model": MODEL, "ema": under("module.", AVERAGE), "opt": MOMENTS},
    ("state_dict", "state_dict_ema"): {"state_dict": MODEL, "state_dict_ema": AVERAGE},
    ("trainer.var_wo_ddp", "trainer.var_ema"): {"trainer": {"var_wo_ddp": MODEL, "var_ema": AVERAGE, "vae_local": VAE}},
    (".", "ema_model"): {**MODEL, **under("ema_model.", AVERAGE), "ema_model.initted": torch.tensor(True)},
}


@pytest.mark.parametrize("keys", PAIRS)
def test_an_average_beside_the_model_is_never_chosen_silently(tmp_path: Path, keys: tuple[str, str]) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="a VAR transformer 2 times: .*; say which, e.g. --drafter-key") as failure:
        opened(PAIRS[keys], path)
    listed = str(failure.value).replace("ema.module", "ema")
    assert all(re.search(rf"{re.escape(key)} \(3[67] tensors, 0.5M numbers\)", listed) for key in keys)
    for key, expected in zip(keys, (MODEL, AVERAGE), strict=True):
        found = opened(PAIRS[keys], path, key)
        assert_is(found, expected)
        assert found.origin["key"].startswith(key)
    with pytest.raises(CheckpointError, match=r"no VAR transformer at --drafter-key shadow; it has one at "):
        opened(PAIRS[keys], path, "shadow")


def test_in_safetensors_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**under("module."), **under("ema.", AVERAGE)}, path)
    with pytest.raises(CheckpointError, match="2 times"):
        open_checkpoint(path, "var_wo_ddp")
    assert_is(open_checkpoint(path, "var_wo_ddp", "ema"), AVERAGE)


def test_an_average_alone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert_is(opened({"model_ema": MODEL}, tmp_path / "x"))
    assert "taking a VAR transformer at model_ema" in caplog.text


def test_wrong_roles_are_named(tmp_path: Path) -> None:
    for content, part, message in (
        ({"state_dict": VAE}, "var_wo_ddp", "holds a VQVAE, not a VAR transformer: give it as --vae"),
        (under("module."), "vae_local", "holds a VAR transformer, not a VQVAE: give it as --drafter or --refiner"),
    ):
        torch.save(content, tmp_path / "x")
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / "x", part)


def test_the_first_generation_is_told_what_it_lacks() -> None:
    old = {key: value for key, value in MODEL.items() if not key.endswith("scale_mul_1H11")}
    with pytest.raises(CheckpointError, match=r"no blocks.0.attn.scale_mul_1H11: .*first generation.*attn_l2_norm=False"):
        transformer_shape(StateDict(old, {}), "drafter")


def test_a_released_schedule_is_known_by_its_positions(caplog: pytest.LogCaptureFixture) -> None:
    weights = sources.resolve("random:d16", "drafter")
    bare = StateDict(
        {key: torch.empty(shape, device="meta") for key, shape in weights.shapes.items() if key != "lvl_1L"}, {}
    )
    assert transformer_shape(bare, "drafter").schedule.sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert "no lvl_1L" in caplog.text and "1,2,3,4,5,6,8,10,13,16; give --schedule" in caplog.text


def test_the_option_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"drafter": PAIRS["model", "ema"], "vae": {"model": VAE, "ema": VAE}}
    for part, content in files.items():
        torch.save(content, tmp_path / f"{part}.pth")
    call = [
        "build",
        "--out",
        str(tmp_path / "x"),
        "--drafter",
        str(tmp_path / "drafter.pth"),
        "--vae",
        str(tmp_path / "vae.pth"),
    ]
    assert main(call) == 1
    assert "say which, e.g. --drafter-key ema" in capsys.readouterr().err
    assert main([*call, "--drafter-key", "model"]) == 1
    assert "say which, e.g. --vae-key ema" in capsys.readouterr().err
    assert main([*call, "--drafter-key", "model", "--refiner-key", "ema"]) == 2
    assert "--refiner-key looks into the refiner's file" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_keys_look_into_files_alone() -> None:
    for text in ("random:d2", "d16"):
        with pytest.raises(UsageError, match="--drafter-key ema looks into a file"):
            sources.resolve(text, "drafter", key="ema")
