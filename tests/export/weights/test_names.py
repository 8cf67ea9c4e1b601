"""Where the names of a bundle's classes come from. Kind: class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import random_weights, save_checkpoint
from trt_var import Pipeline, UsageError
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.errors import CheckpointError
from trt_var.requests.labels import resolve
from trt_var_export.recipe import Recipe, Silent
from trt_var_export.weights.checkpoint import RandomWeights, StateDict
from trt_var_export.weights.files.tensors import Safetensors
from trt_var_export.weights.names import as_metadata, imagenet_names, known_names, told_names
from trt_var_export.weights.sources import CCA, CODE, DDO, VAR
from trt_var_export.workshop import Workshop
from trt_var_training.var import fresh_transformer
from trt_var_training.weights import save_weights

LETTERS = list("abcdefghij")


def carrying(folder: Path, names: list[str] | None, name: str = "weights") -> Safetensors:
    path = folder / f"{name}.safetensors"
    save_weights(path, fresh_transformer(TOY_REFINER, 0), names=names)
    return Safetensors(path)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random models of 1000 classes, as files."""
    folder = tmp_path_factory.mktemp("thousand")
    shape = replace(TOY_DRAFTER, classes=1000)
    drafter = save_checkpoint(random_weights(shape, 1), folder / "drafter.pth")
    return {"drafter": str(drafter), "vae": str(save_checkpoint(random_weights(TOY_VAE, 2), folder / "vae.pth"))}


def test_a_thousand_classes_are_not_imagenets_by_themselves(
    thousand: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Workshop.open(Recipe(refiner=None, out=tmp_path / "bundle", **thousand), Silent())
    assert opened.names is None
    assert "if they are ImageNet's: --class-names imagenet" in caplog.text
    with pytest.raises(
        UsageError, match=r"'otter' is not a class of this bundle, which has no names.*0 to 999.*--class-names"
    ):
        resolve([360, "otter"], opened.names or [], 1000)


def test_names_that_the_user_says(thousand: dict[str, str], tmp_path: Path) -> None:
    command = [
        "build",
        "--drafter",
        thousand["drafter"],
        "--vae",
        thousand["vae"],
        "--no-compare",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main([*command, "--class-names", "imagenet"]) == 0
    bundle = Bundle.open(tmp_path / "a")
    assert bundle.class_names() == imagenet_names()
    with Pipeline.load(tmp_path / "a", "onnxruntime") as pipeline:
        assert pipeline.generate("otter").labels.tolist() == [360]


def test_names_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("cat\ndog\n", encoding="utf-8")
    assert told_names("~/names.txt", 2) == ["cat", "dog"]


@pytest.mark.parametrize("repository", [known.name for known in (VAR, CODE, CCA, DDO)])
def test_released_weights_know_imagenet(repository: str) -> None:
    released = StateDict({"a": torch.zeros(1)}, {"repository": repository, "path": "var_d16.pth"})
    assert known_names({"drafter": released}, 1000) == imagenet_names()


def test_a_file_that_is_called_as_a_released_one_does_not() -> None:
    file = StateDict({"a": torch.zeros(1)}, {"path": "var_d16.pth", "sha256": "0" * 64})
    assert known_names({"drafter": file, "refiner": RandomWeights({}, 0)}, 1000) is None


def test_names_that_weights_carry(tmp_path: Path) -> None:
    named, silent = carrying(tmp_path, LETTERS), carrying(tmp_path, None, "silent")
    assert known_names({"drafter": named, "refiner": silent}, 10) == LETTERS
    assert known_names({"drafter": silent, "refiner": named}, 10) == LETTERS
    assert known_names({"drafter": silent}, 10) is None
    other = carrying(tmp_path, [*LETTERS[:-1], "other"], "other")
    with pytest.raises(CheckpointError, match="class 9 is 'j' of the drafter, 'other' of the refiner"):
        known_names({"drafter": named, "refiner": other}, 10)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors carries class names that are no list of 9"):
        known_names({"drafter": named}, 9)


@pytest.mark.parametrize(
    "text", ["{", "7", '["a"]', "[1,2,3,4,5,6,7,8,9,10]", '["a\\u001b[2J"' + ',"b"' * 9 + "]", "[" * 10**5]
)
def test_damaged_names_in_weights(tmp_path: Path, text: str) -> None:
    weights = carrying(tmp_path, LETTERS)
    weights.metadata["class_names"] = text
    with pytest.raises(CheckpointError, match="carries class names that are no list of 10"):
        known_names({"drafter": weights}, 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\n", "names 2 classes, the model knows 3"),
        (b"a\n\nc\n", "no name that can be shown in line 2"),
        (b"a\nb\x1b[2J\nc", "no name that can be shown in line 2"),
        (b"a\n\xff\nc", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_files_that_name_no_classes(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "names.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        told_names(str(path), 3)


def test_files_of_editors(tmp_path: Path) -> None:
    for data in ("a, b\nc\nd", "a, b\r\nc\r\nd\r\n", "\ufeffa, b\nc\nd\n"):
        (tmp_path / "names.txt").write_bytes(data.encode())
        assert told_names(str(tmp_path / "names.txt"), 3) == ["a, b", "c", "d"]


def test_no_names_leave_no_trace() -> None:
    assert as_metadata(None) == as_metadata([]) == {}
