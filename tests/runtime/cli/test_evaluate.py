"""trt-var eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trt_var import Pipeline
from trt_var.backends.openvino.runtime import multiplies_bfloat16
from trt_var.cli.main import main

FILES = ["eval", "--engines", "digits", "--per-class", "2", "--backend", "onnxruntime"]


ROUND = [*FILES, "--rounds", "2"]


def test_quality_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ROUND, "--n-draft", "0,6", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["n_draft"] for row in report["quality"]] == [0, 6]
    assert report["quality"][1]["accuracy"]["mean"] > 0.8
    assert report["judge_accuracy"] > 0.95
    assert "judge:" in capsys.readouterr().out


def test_agreement_command(tmp_path: Path) -> None:
    assert main([*ROUND, "--against-backend", "openvino", "--json", str(tmp_path / "report.json")]) == 0
    (row,) = json.loads((tmp_path / "report.json").read_text())["agreement"]
    assert row["n_draft"] == 4
    assert row["equal_history"]["tokens"] >= (0.6 if multiplies_bfloat16() else 0.9)
    assert main([*ROUND, "--against", "digits", "--json", str(tmp_path / "report.json")]) == 0
    (row,) = json.loads((tmp_path / "report.json").read_text())["agreement"]
    assert row["free"] == {"tokens": 1.0, "images": 1.0, "psnr": None, "largest": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--adm-npz", "/nowhere/x.npz"], "no folder /nowhere"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
        (["--adm-npz", "x.npz", "--against", "digits"], "do not go together"),
        (["--adm-npz", "x.npz", "--n-draft", "1,2"], "a samples file is of one"),
        (["--rounds", "0"], "--rounds"),
        (["--per-class", "0"], "per_class is 0"),
        (["--per-class", "999999999999"], "expected at most"),
        (["--per-class", "0", "--against", "digits"], "per_class is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--n-draft", "7"], "expected 0 to 6"),
        (["--adm-npz", "x.npz", "--rounds", "2"], "--rounds repeats what a judge says"),
        (["--json", "x", "--adm-npz", "./x"], "the same place"),
        (["--more-smooth", "--batch-size", "8", "--against", "digits"], "does not go with --against"),
        (["--per-class", "500", "--against", "digits"], "at most 4096"),
        (["--fidelity", "/nowhere"], "torch-fidelity"),
    ],
)
def test_mistakes(
    change: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FILES, *change]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing unfinished is left behind"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-draft", "0,7"], "n_draft is 7"),
        (["--seed", str(2**64 - 41)], "seeds must lie"),
        (["--seed", "-1"], "seeds must lie"),
        (["--top-k", "257"], "top_k is 257"),
        (["--more-smooth"], "at most 16 images"),
    ],
)
@pytest.mark.parametrize("kind", [["--rounds", "3"], ["--against", "digits"], ["--adm-npz", "x.npz"]])
def test_everything_is_looked_at_before_the_first_image(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: list[str],
    options: list[str],
    message: str,
) -> None:
    def drawn(*arguments: object, **settings: object) -> None:
        raise AssertionError("drawn")

    if options[0] == "--seed" and kind[0] != "--rounds":
        options = [options[0], str(2**64 - 1)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipeline, "_draw", drawn)
    assert main([*FILES, *kind, *options]) == 2
    assert message in capsys.readouterr().err


def test_figures_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trt_var.cli.measuring.evaluate._work", lambda options: lambda options, pipeline: {"a": float("nan")}
    )
    assert main([*FILES, "--json", str(tmp_path / "a.json")]) == 1
    assert not list(tmp_path.iterdir())
