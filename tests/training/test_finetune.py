"""Fine-tuning from a folder to a bundle. Kind: training folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import random_weights, save_checkpoint
from trt_var import Pipeline, UsageError
from trt_var.cli.main import main
from trt_var_export.weights.checkpoint import StateDict
from trt_var_export.weights.files.tensors import Safetensors
from trt_var_export.weights.names import known_names


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    parts = {"drafter": TOY_DRAFTER, "refiner": TOY_REFINER, "vae": TOY_VAE}
    found = ["finetune", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--n-draft", "2"]
    for i, (part, shape) in enumerate(parts.items()):
        found += [f"--{part}", str(save_checkpoint(random_weights(shape, i), tmp_path / f"{part}.pth"))]
    rng = np.random.default_rng(0)
    for name in ("0", "2", "5"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return [*found, "--batch-size", "2", "--steps", "3"]


def test_pair_from_a_folder_to_a_bundle(arguments: list[str], tmp_path: Path) -> None:
    assert main(arguments) == 0
    weights = {part: str(tmp_path / "out" / f"{part}.safetensors") for part in ("drafter", "refiner")}
    bundle = tmp_path / "bundle"
    built = ["build", "--drafter", weights["drafter"], "--refiner", weights["refiner"], "--no-compare"]
    assert main([*built, "--vae", str(tmp_path / "vae.pth"), "--finetuned", "2", "--out", str(bundle)]) == 0
    with Pipeline.load(bundle, "onnxruntime") as pipeline:
        assert pipeline.generate(1).images.shape == (1, 8, 8, 3)
        with pytest.raises(UsageError, match="fine-tuned for N = 2"):
            pipeline.generate(1, n_draft=3)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.checkpoint")}
    assert main(arguments) == 0, "a finished job is no error"
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.checkpoint")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--n-draft", "4"], "1 to 3"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "10000001"], "expected 1 to 10000000"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size", "4097"], "1 to 4096"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(2**63)], "expected 0 to 9223372036854775807"),
        (["--learning-rate", "nan"], "learning_rate is nan"),
        (["--learning-rate", "11"], "above 0, up to 10"),
        (["--data", "/nowhere"], "no folder /nowhere"),
        (["--drafter", ""], "--drafter '' is neither"),
        (["--refiner", "random:d1"], "do not belong together"),
        (["--vae", "random:ch32"], "the vae's codebook size: 4096, the drafter has 96"),
        (["--vae", "missing.pth"], "no checkpoint at missing.pth"),
        (["--device", "cuda"], "no CUDA device"),
        (["--class-names", "/nowhere"], "cannot read --class-names /nowhere: No such file"),
        (["--class-names", "imagenet"], "names 1000 classes, the model knows 10"),
    ],
)
def test_mistakes(
    arguments: list[str],
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StateDict, "load", _headers_only)
    assert main([*arguments, *change]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


load = StateDict.load


def _headers_only(self: StateDict, key: str) -> Tensor:
    assert key == "lvl_1L", "no weight is read before the request is checked"
    return load(self, key)


def test_large_seed(arguments: list[str]) -> None:
    assert main([*arguments, "--steps", "1", "--seed", str(2**63 - 1)]) == 0


def test_another_run_is_told_by_its_settings(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--steps", "1"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--steps", "1", "--seed", "5", "--flip"]) == 1
    error = capsys.readouterr().err
    assert "belongs to another run: flip was False, now True; seed was 0, now 5; remove it" in error
    assert len(error.splitlines()) == 1


def test_the_classes_are_told_and_kept(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    assert main([*arguments, "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("6 pictures of 3 classes by their numbers: 0 → 0, 2 → 2, 5 → 5") == 1
    kept = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert kept == {"folders": {"0": 0, "2": 2, "5": 5}, "rule": "numbers", "names": None}


def test_names_go_into_the_weights(arguments: list[str], tmp_path: Path) -> None:
    names = [f"thing {letter}" for letter in "abcdefghij"]
    for number, name in {"0": "thing_j", "2": "Thing b", "5": "thing c"}.items():
        (tmp_path / "data" / number).rename(tmp_path / "data" / name)
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    command = [*arguments, "--steps", "1"]
    assert main(command) == 1, "three of ten, and nothing says which"
    assert not (tmp_path / "out").exists()
    assert main([*command, "--class-names", str(tmp_path / "names.txt")]) == 0
    folders = json.loads((tmp_path / "out" / "classes.json").read_text())["folders"]
    assert folders == {"Thing b": 1, "thing c": 2, "thing_j": 9}
    for role in ("drafter", "refiner"):
        assert known_names({"drafter": Safetensors(tmp_path / "out" / f"{role}.safetensors")}, 10) == names


def test_a_broken_picture_ends_it_before_the_first_step(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "2" / "page.jpg").write_text("<html>")
    assert main(arguments) == 1
    assert "1 of 7 pictures cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("0", "1", "2"), ("0", "2", "5")], ids=["plain", "shifted"])
def test_runs_of_an_earlier_version(
    arguments: list[str], tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """It numbered folders in their order: a run goes on where that was right, and is refused where it was not."""
    for old, new in zip(("0", "2", "5"), names, strict=True):
        (tmp_path / "data" / old).rename(tmp_path / "data" / new)
    assert main([*arguments, "--steps", "1"]) == 0
    checkpoint = tmp_path / "out" / "drafter-n2.checkpoint"
    state = torch.load(checkpoint, weights_only=True)
    plan = json.loads(state["plan"])
    assert plan.pop("classes")
    torch.save(state | {"plan": json.dumps(plan, sort_keys=True)}, checkpoint)
    capsys.readouterr()
    assert main([*arguments, "--steps", "1"]) == (0 if names == ("0", "1", "2") else 1)
    if names != ("0", "1", "2"):
        assert "belongs to another run: classes was None, now" in capsys.readouterr().err
