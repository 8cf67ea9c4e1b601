"""Reports, and what is chosen from them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers import assert_close
from trt_var import choose
from trt_var.cli import main
from trt_var.manifest import Manifest, decode
from trt_var.measure import Row, Setting
from trt_var.report import radial

MANIFEST = Path(__file__).parents[1] / "data" / "d30-d16-fp16.json"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return decode(MANIFEST.read_bytes(), "d30-d16")


def row(n_draft: int, total: float, batch: int = 1, engines: str = "fp32", peak: int = 10**9) -> Row:
    scales = [0.2] * n_draft + [0.1] * (10 - n_draft)
    return Row(Setting(engines, "openvino", n_draft, batch, 3), "OpenVINO", total, total, scales, 0.5, peak, None, 10**6)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--engines", "digits", "--backend", "onnxruntime", "--n-draft", "6,4,0", "--batch", "1,3"]
    assert main([*command, "--repeats", "1", "--spectrum", "2", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    settings = [(found["setting"]["n_draft"], found["setting"]["batch"]) for found in report["rows"]]
    assert settings == [(6, 1), (4, 1), (0, 1), (6, 3), (4, 3), (0, 3)]
    for found in report["rows"]:
        assert len(found["scales"]) == 6
        assert_close(sum(found["scales"]) + found["decoder"], found["total"], relative=0.5)
        assert found["peak"] > 10e6
    text = (tmp_path / "report.md").read_text()
    assert "| VAR-d5 | 3 |" in text
    assert "| CoDe N=4, onnxruntime | 1 |" in text
    for name in ("latency", "scales", "memory", "spectrum"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    capsys.readouterr()
    target = ["plan", "--engines", "digits", "--target-latency", "60", "--report", str(tmp_path / "report.json")]
    assert main(target) == 0
    found = capsys.readouterr().out
    assert "chosen: digits on onnxruntime, N = 6" in found
    assert "N = 5, batch 3" in found, "composed of both plain models"


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
        (["--batch", "0"], "--batch lists [0]"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--backend", "quantum"], "--backend lists quantum"),
    ],
)
def test_bad_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["bench", "--engines", "digits", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_measurement_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--engines", "digits", "--backend", "onnxruntime", "--n-draft", "4", "--compare", "eager"]
    assert main([*command, "--repeats", "1", "--out", str(tmp_path)]) == 1
    assert "eager, N = 4, batch 1: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_largest_n_under_a_latency(manifest: Manifest) -> None:
    rows = [
        row(10, 4.0),
        row(8, 3.0),
        row(6, 2.0),
        row(8, 1.9, engines="int8"),
        row(10, 2.6, engines="int8", peak=5 * 10**9),
    ]
    found = choose.choose(choose.measured(rows, manifest), choose.Targets(latency=2.5), {})
    assert found.best is not None
    assert (found.best.engines, found.best.n_draft) == ("int8", 8)
    reasons = {(one.engines, one.n_draft): reason for one, reason in found.others}
    assert reasons["fp32", 6] == []
    assert reasons["fp32", 8] == ["3 s is above 2.5 s"]
    both = choose.choose(choose.measured(rows, manifest), choose.Targets(2.5, memory=4e9), {})
    assert {tuple(reason) for one, reason in both.others if one.n_draft == 10 and one.engines == "int8"} == {
        ("2.6 s is above 2.5 s", "5.00 GB is above 4 GB")
    }
    assert choose.choose(choose.measured(rows, manifest), choose.Targets(latency=0.1), {}).best is None


def test_fastest_with_a_quality(manifest: Manifest) -> None:
    rows = [row(10, 4.0), row(8, 3.0), row(7, 2.5), row(6, 2.0), row(8, 10.0, batch=4)]
    fids = choose.published_fids(manifest)
    assert fids == choose.TRAINING_FREE
    best = choose.choose(choose.measured(rows, manifest), choose.Targets(fid=2.2), fids).best
    assert best is not None
    assert (best.n_draft, best.batch) == (8, 4)
    tuned = msgspec.structs.replace(manifest, serves=(6,))
    assert choose.published_fids(tuned) == choose.FINETUNED


def test_composition_from_both_plain_models(manifest: Manifest) -> None:
    found = {one.n_draft: one for one in choose.measured([row(10, 2.5), row(0, 1.5)], manifest)}
    assert set(found) == set(range(11))
    assert found[8].origin == "composed"
    assert_close(found[8].seconds, 8 * 0.2 + 0.1 + 0.1 + 0.5, absolute=1e-9)  # a hand-over costs what any scale costs here


def test_bounds_of_a_device(manifest: Manifest) -> None:
    found = choose.bounds(manifest, "x", "l4", [1, 64, 4096])
    assert {one.origin for one in found} == {"bound"}
    assert {one.batch for one in found} < {1, 64, 4096}, "4096 do not fit"
    by_n = {one.n_draft: one.seconds for one in found if one.batch == 64}
    assert by_n[6] < by_n[8] < by_n[10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-latency", "1"], "--report FILE from trt-var bench"),
        (["--target-latency", "0", "--device", "l4"], "above 0"),
        (["--quality", "2", "--device", "l4"], "there are none for these models"),
        (["--memory", "1", "--device", "l4", "--report", "x"], "choose one"),
        (["--memory", "1", "--report", "missing.json"], "cannot read missing.json"),
        (["--report", "missing.json"], "--report goes with"),
        (["--memory", "0.000001", "--device", "l4"], "nothing meets the targets"),
    ],
)
def test_bad_targets(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["plan", "--engines", "digits", *options]) == 2
    assert message in capsys.readouterr().err


def test_not_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text('{"rows": [{"setting": 1}]}')
    assert main(["plan", "--engines", "digits", "--memory", "1", "--report", str(tmp_path / "r.json")]) == 2
    assert "not a report of trt-var bench" in capsys.readouterr().err
