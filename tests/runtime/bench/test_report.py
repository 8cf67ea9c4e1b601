"""Reports of measurements."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers import assert_close
from rows import row
from trt_var import BackendError
from trt_var.bench.measure import Row, Setting
from trt_var.bench.report import radial
from trt_var.bundle.manifest import encode
from trt_var.bundle.memory import need
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--engines", "digits", "--backend", "onnxruntime", "--n-draft", "6,4,0", "--batch", "1,3"]
    assert main([*command, "--threads", "1", "--repeats", "1", "--spectrum", "2", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    settings = [(found["setting"]["n_draft"], found["setting"]["batch"]) for found in report["rows"]]
    assert settings == [(6, 1), (4, 1), (0, 1), (6, 3), (4, 3), (0, 3)]
    for found in report["rows"]:
        assert len(found["scales"]) == 6
        assert_close(sum(found["scales"]) + found["decoder"], found["total"], relative=0.5)
        assert found["peak"] > 10e6
        assert found["setting"]["threads"] == 1
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Measured: digits, batch 1, 3\n")
    assert "| VAR-d5, onnxruntime | 3 |" in text
    assert re.search(r"\| CoDe N=4, onnxruntime \| 1( \| 0\.0\d\d){3}( \| 0\.\d\d){1}( \| 0\.[01]\d\d){3} \|\n", text)
    assert "CPU, float32 arithmetic, 1 thread;" in text
    for name in ("latency", "scales", "memory", "spectrum"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    capsys.readouterr()
    target = ["plan", "--engines", "digits", "--target-latency", "60", "--report", str(tmp_path / "report.json")]
    assert main(target) == 0
    found = capsys.readouterr().out
    assert "chosen: digits on onnxruntime, N = 6" in found
    assert main([*target, "--n-draft", "5"]) == 0
    found = capsys.readouterr().out
    assert "chosen: digits on onnxruntime, N = 5" in found
    assert found.count("(composed)") == 2, "of both plain models, for batches of 1 and 3"


def test_radial_spectrum_of_a_wave() -> None:
    wave = np.cos(2 * np.pi * 5 / 32 * np.arange(32))[None, None, :].repeat(32, 1)
    frequencies, amplitude = radial(wave)
    assert_close(frequencies[4], 5 / 32)
    assert int(amplitude.argmax()) == 4
    assert amplitude[4] > np.delete(amplitude, 4).max() + 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-draft", "9"], "this bundle serves 0, 1, 2, 3, 4, 5, 6"),
        (["--batch", "0"], "--batch lists 0;"),
        (["--repeats", "0"], "--repeats is 0; expected 1 to 1000"),
        (["--repeats", "1001"], "--repeats is 1001"),
        (["--spectrum", "-1"], "--spectrum is -1"),
        (["--compare", "eager"], "the released architectures alone"),
        (["--backend", "quantum"], "--backend lists quantum"),
        (["--compare", "eager,lazy"], "--compare lists lazy; expected eager, eager-bf16"),
        (["--threads", "0"], "threads is 0; expected 1 to 1024"),
    ],
)
def test_bad_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["bench", "--engines", "digits", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def bench(out: Path, *options: str) -> list[str]:
    command = ["bench", "--engines", "digits", "--backend", "onnxruntime", "--repeats", "1", "--spectrum", "0"]
    return [*command, "--out", str(out), *options]


def test_a_failed_measurement_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(setting: Setting, module: str) -> Row:
        if setting.n_draft == 3:
            raise BackendError("onnxruntime, N = 3, batch 1: out of memory")
        return row(setting.n_draft, 2.0, engines=setting.engines)

    monkeypatch.setattr("trt_var.bench.measure.in_process", measured)
    assert main(bench(tmp_path, "--n-draft", "4,3,2")) == 1
    assert f"N = 3, batch 1: out of memory; the rows before it are in {tmp_path}/report.md" in capsys.readouterr().err
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [found["setting"]["n_draft"] for found in rows] == [4]
    assert "CoDe N=4" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("options", [["--n-draft", "a"], ["--batch", "1,,2"], ["--batch", "9" * 5000]])
def test_no_private_names_in_usage(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    for command in ("bench", "plan", "engines"):
        with pytest.raises(SystemExit) as stopped:
            main([command, *options])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert re.search("expected (whole numbers|three sizes)|invalid int value: .a.", error)
        assert " _" not in error


def test_out_under_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_var.bench.measure.in_process", lambda setting: pytest.fail("something was measured"))
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/bench"):
        assert main(bench(tmp_path / place)) == 1
        assert "cannot write" in capsys.readouterr().err


def test_several_bundles_in_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the same models quantised, one of other models: all in Table 1; plan takes the rows of its own models alone."""
    shutil.copytree(PACKAGED / "digits", tmp_path / "int8")
    shutil.copytree(PACKAGED / "digits", tmp_path / "other")
    manifest = Bundle.open("digits").manifest
    drafter = msgspec.structs.replace(manifest.models["drafter"], depth=7)
    for name, change in (
        ("int8", {"quantised": {"drafter": {"fc1": "int8"}}}),
        ("other", {"models": {"drafter": drafter}, "serves": (6,)}),
    ):
        (tmp_path / name / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, **change)))

    def measured(setting: Setting, module: str) -> Row:
        found = row(setting.n_draft, 1.0 + setting.n_draft, setting.batch, setting.engines)
        return msgspec.structs.replace(found, setting=setting, scales=found.scales[:6], drops_outputs=False)

    monkeypatch.setattr("trt_var.bench.measure.in_process", measured)
    several = [part for name in ("int8", "other") for part in ("--engines", str(tmp_path / name))]
    assert main(bench(tmp_path / "out", *several, "--n-draft", "6,4")) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [(Path(one["setting"]["engines"]).name, one["setting"]["n_draft"]) for one in report["rows"]] == [
        *(("digits", 6), ("digits", 4), ("int8", 6), ("int8", 4), ("other", 6))
    ]
    assert [bundle["precision"] for bundle in report["bundles"].values()] == ["fp32", "fp32, quantised", "fp32"]
    text = (tmp_path / "out/report.md").read_text()
    assert "| other: VAR-d7, onnxruntime | 1 | 7 | 6.5 |" in text
    assert "| int8: CoDe N=4, onnxruntime | 1 | 5 | 4.5 | 0.2 | 0.222 | 1.44× |" in text
    cache = f"{need(manifest, 4, 1, drops_outputs=False).cache / 1e9:.3f}"
    assert re.search(rf"\| digits: CoDe N=4, onnxruntime \| 1 \| [\d.]+ \| {cache} \|", text)
    capsys.readouterr()
    assert (
        main(["plan", "--engines", "digits", "--target-latency", "60", "--report", str(tmp_path / "out/report.json")]) == 0
    )
    found = capsys.readouterr().out
    assert "int8 on onnxruntime, N = 6" in found
    assert "other" not in found
    assert main(bench(tmp_path / "out", *several, "--n-draft", "4")) == 2
    assert "other serves 6, none of --n-draft" in capsys.readouterr().err


def test_eager_in_both_arithmetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own name; rows of older reports, and computed figures of eager PyTorch, are dashes."""
    asked: list[tuple[str, str]] = []

    def measured(setting: Setting, module: str) -> Row:
        asked.append((setting.backend, module))
        found = row(setting.n_draft, 2.0, engines=setting.engines)
        return msgspec.structs.replace(found, setting=setting, scales=found.scales[:6], added=10**7, anonymous=2 * 10**7)

    monkeypatch.setattr("trt_var.bench.measure.in_process", measured)
    monkeypatch.setattr("trt_var_export.eager.measure.check", lambda manifest, device: None)
    assert main(bench(tmp_path, "--n-draft", "6", "--compare", "eager,eager-bf16,eager")) == 0
    eager = "trt_var_export.eager.measure"
    assert asked == [("onnxruntime", "trt_var.bench.measure"), ("eager", eager), ("eager-bf16", eager)]
    text = (tmp_path / "report.md").read_text()
    for name in ("eager", "eager-bf16"):
        assert f"| VAR-d5, {name} | 1 | – | – | – | 1.00 | 0.020 | – | 0.010 |" in text
    assert text.count("| 1.00× |") == 3, "each against its own plain drafter"
