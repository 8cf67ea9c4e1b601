"""The command: options, interruptions, and what it refuses before anything is drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from trt_var.bundle.manifest import Manifest, encode
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main
from trt_var_calibration import cache
from trt_var_calibration.observe import Observed


def test_an_interrupted_calibration_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The statistics are those of an unbroken run, and nothing but them was left behind."""
    files = {name: tmp_path / f"{name}.npz" for name in ("broken", "whole")}
    calls = {
        name: ["calibrate", "--engines", "digits", "--out", str(tmp_path / name), "--calibrate", "20", "--ranges", str(file)]
        for name, file in files.items()
    }
    save = cache.save

    def stop(path: Path, manifest: Manifest, recipe: cache.Recipe, found: Observed) -> None:
        save(path, manifest, recipe, found)
        if recipe.done == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save", stop)
        assert main([*calls["broken"], "--groups", "all"]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.npz"]
    for change in (["--seed", "3"], ["--temperature", "1.1"]):
        assert main([*calls["broken"], "--groups", "all", *change]) == 2
        assert f"taken with other settings: {change[0]}" in capsys.readouterr().err
    for call in calls.values():
        assert main([*call, "--groups", "all"]) == 0
    assert "16 of 20 images" in capsys.readouterr().out
    with np.load(files["broken"]) as broken, np.load(files["whole"]) as whole:
        assert broken.files == whole.files
        assert all((broken[name] == whole[name]).all() for name in whole.files)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, ranges = tmp_path / "int8", tmp_path / "ranges.npz"
    call = [
        "calibrate",
        "--engines",
        "digits",
        "--out",
        str(out),
        "--n-draft",
        "4",
        "--calibrate",
        "10",
        "--ranges",
        str(ranges),
    ]
    assert main(call) == 0
    assert "alone: logits off by" in capsys.readouterr().out
    assert main(call) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*call, "--force", "--groups", "fc1,fc2"]) == 0
    assert "10 of 10 images at N = 4" in capsys.readouterr().out
    found = Bundle.open(out).manifest.quantised
    assert found is not None
    assert found["drafter"] == {"qkv": "float", "proj": "float", "fc1": "int8", "fc2": "int8", "head": "float"}
    assert main([*call, "--force", "--groups", "fc3"]) == 2
    assert (
        main(["run", "--engines", str(out), "--labels", "1,2", "--backend", "openvino", "--out", str(tmp_path / "x.png")])
        == 0
    )


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object) -> None:
        pytest.fail("something was drawn")

    monkeypatch.setattr("trt_var_calibration.observe.observe", drawn)


def calibrate(out: Path, *options: str) -> list[str]:
    return ["calibrate", "--engines", "digits", "--out", str(out), *options]


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--n-draft", "0"], 2, "--n-draft is 0; expected one that uses every model: 1, 2, 3, 4, 5"),
        (["--n-draft", "6"], 2, "--n-draft is 6; expected"),
        (["--n-draft", "77"], 2, "--n-draft is 77; expected"),
        (["--more-smooth"], 2, "--more-smooth draws through other graphs"),
        (["--ranges", "FILE/ranges.npz"], 1, "ranges.npz: there is no folder"),
        (["--ranges", "."], 1, "it is a folder"),
        (["--out", "FILE/int8"], 1, "is no folder"),
    ],
)
def test_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert main(calibrate(tmp_path / "int8", *(option.replace("FILE", str(file)) for option in options))) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.usefixtures("no_drawing")
def test_targets_of_other_weights_or_quantised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Bundle.open("digits").manifest
    model = manifest.models["refiner"]
    for message, changed in (
        ("is not of the weights of", {"models": {**manifest.models, "refiner": replace(model, origin={"random": "7"})}}),
        ("is quantised already", {"quantised": {"drafter": {"fc1": "int8", "fc2": "float"}}}),
    ):
        target = tmp_path / message.replace(" ", "-")
        shutil.copytree(PACKAGED / "digits", target)
        (target / "manifest.json").write_bytes(encode(replace(manifest, **changed)))
        assert main(calibrate(tmp_path / "int8", "--apply-to", str(target))) == 2
        assert message in capsys.readouterr().err


def test_ranges_speak_for_their_own_settings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished file too: nothing given is overridden by what it holds."""
    ranges = tmp_path / "ranges.npz"
    call = calibrate(tmp_path / "int8", "--ranges", str(ranges), "--calibrate", "4", "--groups", "fc1", "--force")
    assert main(call) == 0
    for change in (["--calibrate", "5000"], ["--n-draft", "3"], ["--cfg", "0.5"], ["--seed", "1"], ["--top-k", "9"]):
        assert main([*call, *change]) == 2
        assert f"other settings: {change[0]} " in capsys.readouterr().err
    assert main(call) == 0


def test_decoder_and_fp8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ("--n-draft", "4", "--calibrate", "4", "--groups", "all", "--decoder", "int8", "--mode", "fp8")
    assert main(calibrate(tmp_path / "fp8", *some)) == 0
    assert "decoder: with int8 convolutions pictures at " in capsys.readouterr().out
    found = Bundle.open(tmp_path / "fp8").manifest.quantised
    assert found is not None
    assert (found["drafter"]["head"], found["decoder"]) == ("fp8", {"convolutions": "int8"})
    for backend in ("onnxruntime", "openvino"):
        draw = ["run", "--engines", str(tmp_path / "fp8"), "--labels", "1", "--backend", backend]
        assert main([*draw, "--out", str(tmp_path / "x.png")]) == 0
