"""Fine-tuning from a folder to a bundle. Kind: training folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import assert_close, random_weights, save_checkpoint
from trt_var import Pipeline, UsageError
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var_export.weights.checkpoint import StateDict
from trt_var_export.weights.files.tensors import Safetensors
from trt_var_export.weights.names import known_names
from trt_var_training import trainer
from trt_var_training.data import ArrayImages, Batches
from trt_var_training.trainer import settings
from trt_var_training.var import Forcing, Teacher, drafter_objective, fresh_transformer
from trt_var_training.vqvae import fresh_vqvae
from trt_var_training.weights import renew_classes

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "weights"


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
        (["--distil-steps", "-1"], "--distil-steps is -1; expected 0 to 10000000"),
        (["--label-dropout", "1.5"], "--label-dropout is 1.5; expected 0 to 1"),
        (["--beta", "0.1"], "--beta belongs to --guidance-free"),
        (["--guidance-free", "--beta", "0"], "--beta is 0; expected above 0"),
        (["--guidance-free", "--lambda", "-1"], "--lambda is -1; expected 0 or more"),
        (["--guidance-free", "--batch-size", "1"], "negative labels from the batch"),
        (["--classes", "7", "--guidance-free"], "the frozen reference does not know the new classes"),
        (["--classes", "0"], "--classes is 0; expected 1 to 1000000"),
        (["--classes", "3"], "folder 5 is no class of a model that knows 0 to 2"),
        (["--classes", "/nowhere"], "cannot read --classes /nowhere: No such file"),
        (["--classes", "/dev/null"], "--classes /dev/null names no class"),
        (["--classes", "/nowhere", "--class-names", "imagenet"], "leave --class-names out"),
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


def tensors(folder: Path) -> dict[str, bytes]:
    """What a finished job leaves, whole."""
    return {role: (folder / f"{role}.safetensors").read_bytes() for role in ("drafter", "refiner")}


def broken_off(arguments: list[str], out: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job that ends like a killed one after so many steps of all its trainings; what it has not saved is lost."""
    done = 0

    def descend(*given: object) -> dict[str, float]:
        nonlocal done
        if done == after:
            raise Killed
        done += 1
        return trainer_descend(*given)

    with monkeypatch.context() as patched:
        patched.setattr("trt_var_training.trainer._descend", descend)
        with pytest.raises(Killed):
            main([*arguments, "--out", str(out)])


class Killed(BaseException): ...


trainer_descend: Any = trainer._descend


@pytest.mark.parametrize("more", [[], ["--guidance-free", "--beta", "0.5"]], ids=["following", "guidance-free"])
def test_two_stages_resume_across_their_border(
    arguments: list[str], tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 steps of the drafter, 2 of the distillation, 3 of the refiner on its own scales."""
    command = [*arguments, "--distil-steps", "2", "--learning-rate", "1e-3", *more]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    whole = tensors(tmp_path / "whole")
    for after in (4, 5, 6):
        broken_off(command, tmp_path / f"after{after}", after, monkeypatch)
        assert (tmp_path / f"after{after}" / "refiner-distilled.checkpoint").exists() == (after > 4)
        assert main([*command, "--out", str(tmp_path / f"after{after}")]) == 0
        assert tensors(tmp_path / f"after{after}") == whole, f"broken off after {after} steps"
    assert main([*arguments, "--learning-rate", "1e-3", *more, "--out", str(tmp_path / "one")]) == 0
    one = tensors(tmp_path / "one")
    assert one["drafter"] == whole["drafter"] and one["refiner"] != whole["refiner"]


def test_the_first_stage_is_over_all_scales(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[int, int]] = []
    real = Forcing.__init__

    def note(self: Forcing, model: Any, vqvae: Any, batches: Any, span: Any, class_dropout: float) -> None:
        spans.append(span)
        real(self, model, vqvae, batches, span, class_dropout)

    monkeypatch.setattr(Forcing, "__init__", note)
    assert main([*arguments, "--steps", "1", "--distil-steps", "1"]) == 0
    assert spans == [(0, 2), (0, 4), (2, 4)]


def test_settings_are_those_of_the_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed one is refused by name; defaults are not written, so that earlier versions' runs go on."""
    command = [*arguments, "--steps", "1"]
    assert main([*command, "--guidance-free", "--label-dropout", "0.2"]) == 0
    found = settings(tmp_path / "out" / "drafter-n2.checkpoint")
    assert (found["beta"], found["lambda"], found["label_dropout"]) == (0.02, 50.0, 0.2)
    capsys.readouterr()
    assert main([*command, "--guidance-free", "--label-dropout", "0.2", "--lambda", "3"]) == 1
    assert "lambda was 50.0, now 3.0" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "plain")]) == 0
    plain = settings(tmp_path / "plain" / "drafter-n2.checkpoint")
    assert not {"beta", "lambda", "label_dropout", "distil_steps", "class_count"} & plain.keys()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_label_dropout(share: float) -> None:
    """No label dropped: the null class learns nothing; all dropped: the classes learn nothing."""
    model = fresh_transformer(TOY_DRAFTER, 0).requires_grad_(True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    batches = Batches(ArrayImages(images, [0, 1, 2, 3]), 4, 0)
    drafter_objective(model, fresh_vqvae(TOY_VAE, 0), batches, 2, share).losses(0)["loss"].backward()
    gradient = model.class_emb.weight.grad
    assert gradient is not None
    assert bool(gradient[-1].any()) == (share == 1)
    assert bool(gradient[:-1].any()) == (share == 0)


def test_new_classes_keep_the_null_class_and_all_else() -> None:
    model, known = (fresh_transformer(TOY_DRAFTER, 0) for _ in range(2))
    renew_classes(model, 7, seed=3)
    assert model.shape == replace(TOY_DRAFTER, classes=7)
    found, before = model.state_dict(), known.state_dict()
    rows, old = found.pop("class_emb.weight"), before.pop("class_emb.weight")
    assert rows.shape == (8, TOY_DRAFTER.width) and torch.equal(rows[-1], old[-1])
    assert not torch.equal(rows[:7], old[:7])
    assert_close(rows[:7].std(), old[:-1].std(), relative=0.1)
    assert all(torch.equal(value, before[name]) for name, value in found.items())
    again = renew_classes(fresh_transformer(TOY_DRAFTER, 0), 7, seed=3)
    assert torch.equal(again.class_emb.weight, rows)
    teacher = Teacher(known, knows_classes=False)
    assert teacher.labels(torch.tensor([0, 6, 7])).tolist() == [10, 10, 10]


def test_seven_classes_from_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten-class weights and a file of seven names → a bundle of seven named classes; broken off on the way."""
    names = ["circle", "square", "triangle, three corners", "star", "moon", "heart", "arrow"]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    rng = np.random.default_rng(0)
    for name in ("circle", "square", "three_corners", "star", "moon", "heart", "arrow"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "data" / name / "0.png")
    command = ["finetune", "--data", str(tmp_path / "data"), "--n-draft", "4", "--classes", str(tmp_path / "names.txt")]
    for part in ("drafter", "refiner", "vae"):
        command += [f"--{part}", str(DIGITS / f"{part}.safetensors")]
    command += ["--steps", "2", "--distil-steps", "1", "--batch-size", "2"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    for after in (1, 4):
        broken_off(command, tmp_path / "out", after, monkeypatch)
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert tensors(tmp_path / "out") == tensors(tmp_path / "whole")
    assert settings(tmp_path / "out" / "drafter-n4.checkpoint")["class_count"] == 7
    weights = [f"--{role}={tmp_path / 'out' / role}.safetensors" for role in ("drafter", "refiner")]
    built = ["build", *weights, "--vae", str(DIGITS / "vae.safetensors"), "--finetuned", "4", "--no-compare"]
    assert main([*built, "--out", str(tmp_path / "bundle")]) == 0
    assert Bundle.open(tmp_path / "bundle").class_names() == names
    with Pipeline.load(tmp_path / "bundle", "onnxruntime") as pipeline:
        assert pipeline.generate(["heart", "three corners"]).labels.tolist() == [5, 2]


def test_a_number_of_classes_takes_the_folders_names(arguments: list[str], tmp_path: Path) -> None:
    for number, name in {"0": "moss", "2": "fern", "5": "moor"}.items():
        (tmp_path / "data" / number).rename(tmp_path / "data" / name)
    assert main([*arguments, "--steps", "1", "--classes", "3"]) == 0
    weights = {role: Safetensors(tmp_path / "out" / f"{role}.safetensors") for role in ("drafter", "refiner")}
    assert known_names(weights, 3) == ["fern", "moor", "moss"]
    assert weights["refiner"].shapes["class_emb.weight"][0] == 4
