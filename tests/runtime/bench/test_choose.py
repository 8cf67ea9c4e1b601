"""What is chosen from reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers import assert_close
from rows import row
from trt_var.bench import choose, measure
from trt_var.bench.measure import Setting
from trt_var.bundle.manifest import Manifest
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main


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
        ({"total": 0.0}, "times that are not all finite and above 1e-09 s"),
        ({"total": 1e-310}, "times that are not"),
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
