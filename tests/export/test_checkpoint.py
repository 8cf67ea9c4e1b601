from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import TOY_DRAFTER, TOY_VAE
from helpers import assert_close, random_weights, save_checkpoint
from safetensors.torch import save_file
from trt_var import CheckpointError, UsageError
from trt_var.export import sources
from trt_var.export.architecture import transformer_shape, vqvae_shape
from trt_var.export.checkpoint import StateDict, open_checkpoint
from trt_var.schedule import Schedule


@pytest.mark.parametrize("kind", ["flat", "nested", "safetensors"])
def test_formats_hold_the_same_model(tmp_path: Path, kind: str) -> None:
    weights = random_weights(TOY_DRAFTER, 3)
    if kind == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file({key: weights.load(key) for key in weights.shapes}, path)
    else:
        path = save_checkpoint(weights, tmp_path / "model.pth", "var_wo_ddp" if kind == "nested" else None)
    checkpoint = open_checkpoint(path, "var_wo_ddp")
    assert transformer_shape(checkpoint, "drafter") == TOY_DRAFTER
    assert_close(checkpoint.load("head.weight"), weights.load("head.weight"))
    assert len(checkpoint.origin["sha256"]) == 64


def test_half_precision_checkpoints_are_widened() -> None:
    state = StateDict({"a": torch.ones(2, dtype=torch.bfloat16)}, {})
    assert state.load("a").dtype == torch.float32


def test_vqvae_shape_is_read() -> None:
    assert vqvae_shape(random_weights(TOY_VAE, 0)) == TOY_VAE


@pytest.mark.parametrize("depth", [16, 36])
def test_released_shapes(depth: int) -> None:
    shape = transformer_shape(sources.resolve(f"random:d{depth}", "drafter"), "drafter")
    assert (shape.depth, shape.width, shape.heads, shape.shared_aln) == (depth, 64 * depth, depth, depth == 36)
    assert shape.schedule.length == (2240 if depth == 36 else 680)


def test_all_differences_in_one_error() -> None:
    weights = random_weights(TOY_DRAFTER, 0)
    state = {key: weights.load(key) for key in weights.shapes}
    del state["head.bias"], state["blocks.1.ffn.fc2.weight"]
    state["blocks.0.surprise"] = torch.ones(3)
    state["lvl_embed.weight"] = torch.ones(9, 128)
    with pytest.raises(CheckpointError) as failure:
        transformer_shape(StateDict(state, {}), "drafter")
    for part in (
        "4 differences",
        "missing head.bias",
        "missing blocks.1.ffn.fc2",
        "extra blocks.0.surprise",
        "lvl_embed.weight has shape [9, 128], expected [4, 128]",
    ):
        assert part in str(failure.value)


def test_missing_schedule_can_be_given() -> None:
    weights = random_weights(TOY_DRAFTER, 0)
    state = StateDict({key: weights.load(key) for key in weights.shapes if key != "lvl_1L"}, {})
    with pytest.raises(CheckpointError, match="--schedule"):
        transformer_shape(state, "drafter")
    assert transformer_shape(state, "drafter", Schedule((1, 2, 3, 4))) == TOY_DRAFTER


def test_truncated_file(tmp_path: Path) -> None:
    path = save_checkpoint(random_weights(TOY_DRAFTER, 0), tmp_path / "model.pth")
    for size in (path.stat().st_size // 2, 100, 0):
        os.truncate(path, size)
        with pytest.raises(CheckpointError):
            transformer_shape(open_checkpoint(path, "var_wo_ddp"), "drafter")


def test_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    os.truncate(path, 300)
    with pytest.raises(CheckpointError, match="not a complete safetensors"):
        open_checkpoint(path, "var_wo_ddp")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo trap >&2",)


@pytest.mark.parametrize("content", [Trap(), {"weights": Trap()}, [1, 2], {"a": 1}, {"trainer": {"other": {}}}])
def test_pickles_that_are_not_weights(tmp_path: Path, content: object, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError):
        open_checkpoint(path, "var_wo_ddp")
    assert "trap" not in capfd.readouterr().err


def test_other_models_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"no word_embed.weight: is it another kind of model"):
        transformer_shape(random_weights(TOY_VAE, 0), "drafter")


@pytest.mark.parametrize(
    "text", ["d17", "random", "random:", "random:d0", "random:d99999", "random:d4:x", "random:d4:1:2", "random:16"]
)
def test_bad_names(text: str) -> None:
    with pytest.raises(UsageError):
        sources.resolve(text, "drafter")


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        sources.resolve("nowhere/model.pth", "drafter")


def test_released_weights_honour_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(repository: str, name: str, *, revision: str) -> str:
        asked.append((repository, name, revision))
        folder = tmp_path / "snapshots" / "abc123"
        folder.mkdir(parents=True, exist_ok=True)
        return str(save_checkpoint(random_weights(TOY_DRAFTER, 0), folder / name))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    checkpoint = sources.resolve("d30", "drafter")
    assert checkpoint.origin == {"repository": "FoundationVision/var", "revision": "abc123", "path": "var_d30.pth"}
    sources.resolve("d30", "drafter", finetuned=8)
    sources.resolve("default", "vae")
    assert [name for _, name, _ in asked] == ["var_d30.pth", "drafter_8.pth", "vae_ch160v4096z32.pth"]
    assert asked[0][2] == asked[2][2] == sources.VAR[1]


@pytest.mark.parametrize(("text", "n_draft"), [("d16", 8), ("d30", 5)])
def test_finetuned_pairs_are_d30_with_d16(text: str, n_draft: int) -> None:
    with pytest.raises(UsageError, match="--finetuned takes"):
        sources.resolve(text, "drafter", finetuned=n_draft)


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot fetch var_d16.pth .* HF_HUB_OFFLINE"):
        sources.resolve("d16", "drafter")
