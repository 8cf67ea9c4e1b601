"""Reports, and what is chosen from them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from helpers import assert_close
from trt_var import BackendError
from trt_var.bench import choose, measure
from trt_var.bench.measure import Row, Setting
from trt_var.bench.report import radial
from trt_var.bundle.manifest import Manifest, decode, encode
from trt_var.bundle.memory import need
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main

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
    def measured(setting: Setting) -> Row:
        if setting.n_draft == 3:
            raise BackendError("onnxruntime, N = 3, batch 1: out of memory")
        return row(setting.n_draft, 2.0, engines=setting.engines)

    monkeypatch.setattr("trt_var.bench.measure.in_process", measured)
    assert main(bench(tmp_path, "--n-draft", "4,3,2")) == 1
    assert f"N = 3, batch 1: out of memory; the rows before it are in {tmp_path}/report.md" in capsys.readouterr().err
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [found["setting"]["n_draft"] for found in rows] == [4]
    assert "CoDe N=4" in (tmp_path / "report.md").read_text()


def test_a_failed_child_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting(str(tmp_path), "onnxruntime", 4, 1, 1)
    with pytest.raises(BackendError, match=r"^onnxruntime, N = 4, batch 1: no bundle at "):
        measure.in_process(setting)
    for error, words in ((MemoryError(), "out of memory"), (RuntimeError("two\nlines"), "two lines")):
        monkeypatch.setattr(measure, "measure", lambda setting, error=error: (_ for _ in ()).throw(error))
        assert measure._child(msgspec.json.encode(setting).decode()) == 1
        assert capsys.readouterr().err.splitlines()[-1] == words


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

    def measured(setting: Setting) -> Row:
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
    assert "| other: VAR-d7 | 1 | 7 | 6.5 |" in text
    assert "| int8: CoDe N=4 | 1 | 5 | 4.5 | 0.2 | 0.222 | 1.44× |" in text
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


def test_not_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "r.json"
    command = ["plan", "--engines", "digits", "--memory", "1", "--report", str(file)]
    for content, words in (
        (b'{"bundles": {}, "rows": [{"setting": 1}]}', "not a report of trt-var bench"),
        (b'{"rows": "\xff"}', "not a report of trt-var bench"),
        (b"[" * 2000, "larger than 1000 bytes"),
    ):
        monkeypatch.setattr(choose, "MAX_REPORT", 1000)
        file.write_bytes(content)
        assert main(command) == 2
        assert words in capsys.readouterr().err
    file.unlink()
    os.mkfifo(file)
    assert main(command) == 2
    assert "is not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"total": 0.0}, "times that are not all finite and above 0"),
        ({"decoder": -1.0}, "times that are not"),
        ({"scales": [0.1] * 5 + [-0.1]}, "times that are not"),
        ({"scales": [0.1] * 5}, "5 scales, expected 6"),
        ({"n_draft": 7}, "N = 7, expected 0, 1, 2, 3, 4, 5, 6"),
        ({"batch": 0}, "batch 0, expected 1 to 256"),
        ({"batch": 257}, "batch 257"),
        ({"peak": -1}, "memory that is not above 0"),
        ({"schedule": (1, 2, 3, 4, 6, 16)}, "measured other models (x), not those of --engines"),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str) -> None:
    of_setting = {key: change[key] for key in ("n_draft", "batch") if key in change}
    of_row = {key: change[key] for key in ("total", "decoder", "scales", "peak") if key in change}
    setting = msgspec.structs.replace(Setting("x", "onnxruntime", 4, 1, 1), **of_setting)
    found = msgspec.structs.replace(row(4, 1.0), **({"scales": [0.1] * 6} | of_row), setting=setting)
    models = measure.models(Bundle.open("digits").manifest)
    models = msgspec.structs.replace(models, schedule=change.get("schedule", models.schedule))
    (tmp_path / "r.json").write_bytes(msgspec.json.encode({"bundles": {"x": models}, "rows": [found]}))
    assert main(["plan", "--engines", "digits", "--memory", "1", "--report", str(tmp_path / "r.json")]) == 2
    assert words in capsys.readouterr().err


def test_plan_names_the_n(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ([], ["--memory", "1", "--device", "l4"]):
        assert main(["plan", "--engines", "digits", "--n-draft", "77", *target]) == 2
        assert "--n-draft is 77; this bundle serves 0, 1, 2, 3, 4, 5, 6" in capsys.readouterr().err
