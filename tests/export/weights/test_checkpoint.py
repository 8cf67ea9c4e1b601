from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import TOY_DRAFTER, TOY_SCHEDULE, TOY_VAE
from helpers import assert_close, random_weights, save_checkpoint
from trt_var import CheckpointError, UsageError
from trt_var.schedule import Schedule
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.weights import sources
from trt_var_export.weights.architecture import transformer_shape, vqvae_shape
from trt_var_export.weights.checkpoint import RandomWeights, StateDict, check_keys, open_checkpoint


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


def test_extreme_number_of_differences() -> None:
    state = {f"{i}\n\x1b[31m": torch.ones(1) for i in range(300)}
    with pytest.raises(CheckpointError) as failure:
        check_keys(dict.fromkeys(state, (1,)), {}, "drafter")
    message = str(failure.value)
    assert "300 differences" in message and message.endswith("and 100 more")
    assert r"extra 7\n\x1b[31m [1]" in message and "\x1b" not in message


@pytest.mark.parametrize("index", ["99999999", "128", "9" * 5000])
@pytest.mark.parametrize(
    ("shape", "prefix"),
    [
        (TOY_DRAFTER, "blocks."),
        (TOY_VAE, "encoder.down."),
        (TOY_VAE, "encoder.down.0.block."),
        (TOY_VAE, "decoder.up.0.block."),
        (TOY_VAE, "quantize.quant_resi.qresi_ls."),
    ],
)
def test_indices_without_end(shape: TransformerShape | VqvaeShape, prefix: str, index: str) -> None:
    weights = RandomWeights({**random_weights(shape, 0).shapes, f"{prefix}{index}.x": (1,)}, 0)
    with pytest.raises(CheckpointError, match="expected indices below"):
        _shape_of(weights, shape)


@pytest.mark.parametrize(
    ("shape", "key", "lengths"),
    [
        (TOY_DRAFTER, "word_embed.weight", (10**12, 0)),
        (TOY_DRAFTER, "head.weight", (0, 128)),
        (TOY_DRAFTER, "blocks.0.attn.scale_mul_1H11", (1, 3, 1, 1)),
        (TOY_VAE, "quantize.embedding.weight", (1 << 21, 16)),
    ],
)
def test_sizes_out_of_range(shape: TransformerShape | VqvaeShape, key: str, lengths: tuple[int, ...]) -> None:
    weights = random_weights(shape, 0)
    weights.shapes[key] = lengths
    with pytest.raises(CheckpointError, match=r"expected (lengths from 1|64 × heads)"):
        _shape_of(weights, shape)


@pytest.mark.parametrize("part", [".down.", ".up.", ".qresi_ls."])
def test_vqvae_without_parts(part: str) -> None:
    shapes = {key: shape for key, shape in random_weights(TOY_VAE, 0).shapes.items() if part not in key}
    with pytest.raises(CheckpointError, match="is it another kind of model"):
        vqvae_shape(RandomWeights(shapes, 0))


def _shape_of(weights: RandomWeights, like: TransformerShape | VqvaeShape) -> object:
    return transformer_shape(weights, "drafter", TOY_SCHEDULE) if like is TOY_DRAFTER else vqvae_shape(weights)


LEVELS = torch.tensor([TOY_SCHEDULE.levels()])


@pytest.mark.parametrize(
    "levels",
    [
        -LEVELS,
        LEVELS * float("nan"),
        LEVELS + 0.5,
        LEVELS * 10**15,
        LEVELS.flip(1),
        LEVELS.cfloat(),
        torch.zeros(1, 0),
        torch.zeros(1, dtype=torch.int64).expand(10**12),
    ],
)
def test_levels_that_are_none(levels: torch.Tensor) -> None:
    weights = random_weights(TOY_DRAFTER, 0)
    state = {key: torch.empty(shape, device="meta") for key, shape in weights.shapes.items()}
    with pytest.raises(CheckpointError, match="lvl_1L"):
        transformer_shape(StateDict({**state, "lvl_1L": levels}, {}), "drafter")
    assert transformer_shape(StateDict({**state, "lvl_1L": LEVELS.half()}, {}), "drafter") == TOY_DRAFTER


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Trap(), r"would run code when loaded \(posix.system\)"),
        ({"weights": Trap()}, r"would run code when loaded \(posix.system\)"),
        ([1, 2], "holds no state dict"),
        ({"a": 1}, "holds no state dict"),
        ({"trainer": {"other": {}}}, "holds no state dict"),
        ({1: torch.ones(1)}, "another kind of model.*begins with 1"),
        ({("a", 1): torch.ones(1)}, "another kind of model"),
        ({"a": torch.ones(1).expand(10**12)}, r"a tensor a \[1000000000000\] of more"),
        ({"a": torch.eye(3).to_sparse()}, "no dense values for a"),
    ],
)
def test_pickles_that_are_not_weights(
    tmp_path: Path, content: object, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(path, "var_wo_ddp")
    assert "trap" not in capfd.readouterr().err


@pytest.mark.parametrize("pickled", [b"\x80\x02.", b"", b"\x80\x02J\x01.", b"\xff\xfe", b"\x80\x02ctorch\nFloatStor"])
def test_malformed_pickles_run_nothing(tmp_path: Path, pickled: bytes) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "whole.pth")
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(CheckpointError, match="is truncated or not a torch file"):
        open_checkpoint(path, "var_wo_ddp")


def test_files_of_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for content, expected in (
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
        (b"weights", "begins with b'weights'; expected a safetensors file, or the zip file"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=expected):
            open_checkpoint(path, "var_wo_ddp")


def test_weights_that_are_no_floats() -> None:
    with pytest.raises(CheckpointError, match="the tensor a is of int8; expected float32"):
        StateDict({"a": torch.ones(2, dtype=torch.int8)}, {}).load("a")


def test_other_models_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"no word_embed.weight: is it another kind of model"):
        transformer_shape(random_weights(TOY_VAE, 0), "drafter")


LONG = "1" * 5000
BAD_MODELS = ["d17", "random", "random:", "random:d0", "random:d99999", "random:d4:x", "random:d4:1:2", "random:16", ""]
BAD_VAES = ["", "random:ch", "random:ch33", f"random:ch{LONG}", f"random:{LONG}"]


@pytest.mark.parametrize("text", [*BAD_MODELS, f"random:d{LONG}", f"random:d4:{LONG}"])
def test_bad_names(text: str) -> None:
    with pytest.raises(UsageError):
        sources.resolve(text, "drafter")


@pytest.mark.parametrize("text", BAD_VAES)
def test_bad_vae_names(text: str) -> None:
    with pytest.raises(UsageError):
        sources.resolve(text, "vae")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_path_that_no_file_can_have(suffix: str) -> None:
    with pytest.raises(CheckpointError, match="cannot read x.*File name too long"):
        open_checkpoint(Path("x" * 5000 + suffix), "var_wo_ddp")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"model{suffix}"
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot read .*model.*: Permission denied"):
        open_checkpoint(path, "var_wo_ddp")


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        sources.resolve("nowhere/model.pth", "drafter")


def test_released_weights_honour_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(repository: str, name: str, *, revision: str) -> str:
        asked.append((repository, name, revision))
        folder = tmp_path / "snapshots" / "abc123"
        folder.mkdir(parents=True, exist_ok=True)
        return str(save_checkpoint(random_weights(TOY_VAE if "vae" in name else TOY_DRAFTER, 0), folder / name))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    checkpoint = sources.resolve("d30", "drafter")
    assert checkpoint.origin == {
        "repository": "FoundationVision/var",
        "revision": "abc123",
        "path": "var_d30.pth",
        "licence": "MIT",
    }
    sources.resolve("d30", "drafter", finetuned=8)
    sources.resolve("default", "vae")
    assert [name for _, name, _ in asked] == ["var_d30.pth", "drafter_8.pth", "vae_ch160v4096z32.pth"]
    assert asked[0][2] == asked[2][2] == sources.VAR.revision


@pytest.mark.parametrize(
    ("name", "repository", "file", "licence"),
    [
        ("d30-ddo", "nvidia/DirectDiscriminativeOptimization", "var_d30-ddo.pth", "CC-BY-NC-SA-4.0"),
        ("d16-cca", "ChenDRAG/CCA_VAR", "CCA_VAR_Guidance_Free/VAR_d16_CCA.pth", "MIT"),
    ],
)
def test_guidance_free_weights_say_their_licence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    repository: str,
    file: str,
    licence: str,
) -> None:
    path = tmp_path / "snapshots" / "abc123" / file
    path.parent.mkdir(parents=True)
    save_checkpoint(random_weights(TOY_DRAFTER, 0), path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, revision: str(path))
    checkpoint = sources.resolve(name, "drafter")
    assert checkpoint.origin == {"repository": repository, "revision": "abc123", "path": file, "licence": licence}
    assert f"is licensed {licence}" in caplog.text
    assert ("not for commercial use" in caplog.text) == ("-NC-" in licence)


@pytest.mark.parametrize(("text", "n_draft"), [("d16", 8), ("d30", 5)])
def test_finetuned_pairs_are_d30_with_d16(text: str, n_draft: int) -> None:
    with pytest.raises(UsageError, match="--finetuned takes"):
        sources.resolve(text, "drafter", finetuned=n_draft)


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot fetch var_d16.pth .* HF_HUB_OFFLINE"):
        sources.resolve("d16", "drafter")
