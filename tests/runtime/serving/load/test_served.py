"""The load generator against the real service: every answer accounted for, every picture the pipeline's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_var.cli.main import main
from trt_var.serving.load.rubbish import KINDS

SETTINGS = (
    "{}",
    '{"cfg": 0}',
    '{"preset": "code", "scales": 5}',
    '{"temperature": [1, 1.1, 1.2, 1, 1, 0.9], "top_k": 50, "top_p": 0.9}',
    '{"more_smooth": true, "guided_scales": 2}',
)


def load(url: str, out: Path, *options: str) -> dict[str, Any]:
    """The report of a run that ends well."""
    assert main(["load", url, "--out", str(out / "load.json"), *options]) == 0
    found: dict[str, Any] = json.loads((out / "load.json").read_text())
    return found


def test_mixed_load(service: Any, tmp_path: Path) -> None:
    sampling = [word for text in SETTINGS for word in ("--sampling", text)]
    mix = ["--n-draft", "0,3,4:2,6,2-5", "--images", "1:4,3", "--stream", "0.3", "--disconnect", "0.1", "--rubbish", "0.2"]
    found = load(service.url, tmp_path, "--rate", "40", "--requests", "150", *mix, *sampling, "--verify", "digits")
    (row,), pictures = found["rows"], found["verification"]
    assert row["statuses"] == {"200": row["offered"]} and row["served"] == row["offered"] > 80, row["problems"]
    assert row["lost"] == row["broken"] == row["unsound"] == row["failed"] == row["unconnected"] == 0
    assert row["rubbish"] > 15 and row["mistaken"] == 0, row["mistaken_kinds"]
    assert row["left"] + row["stayed"] > 5 and row["first"] and row["queue"]
    assert pictures["pictures"] == pictures["promised"] >= row["images"] and pictures["outside"] == pictures["left_out"] == 0


def test_every_kind_of_rubbish(service: Any, tmp_path: Path) -> None:
    found = load(service.url, tmp_path, "--rate", "200", "--requests", str(12 * len(KINDS)), "--rubbish", "1")
    assert found["rows"][0]["rubbish"] == 12 * len(KINDS) and found["rows"][0]["mistaken"] == 0


def test_more_than_can_be_served(start: Callable[..., Any], tmp_path: Path) -> None:
    served = start("--max-waiting", "16", "--batch", "4")
    found = load(served.url, tmp_path, "--rate", "1000", "--requests", "300", "--stream", "0.1", "--verify", "digits")
    row = found["rows"][0]
    assert row["served"] > 10 and row["statuses"].get("503", 0) + row["statuses"].get("429", 0) > 100
    assert sum(row["statuses"].values()) == 300 and row["lost"] == row["broken"] == row["unconnected"] == 0
    assert row["retry_after"] == 300 - row["served"] and row["retry_least"] >= 1
    assert found["verification"]["outside"] == 0
    assert served.stop() == 0


def test_deadlines(start: Callable[..., Any], tmp_path: Path) -> None:
    served = start("--batch", "1")
    found = load(served.url, tmp_path, "--rate", "1000", "--requests", "200", "--timeout", "0.3")
    row = found["rows"][0]
    assert sum(row["statuses"].values()) == 200 and row["lost"] == row["broken"] == 0
    assert set(row["statuses"]) <= {"200", "503", "504"} and row["served"] < 200
    assert row["whole"] is None or row["whole"]["max"] < 5
    assert served.stop() == 0


@pytest.mark.one_process("the replicas count what they draw; the same is tested there")
def test_what_was_accepted_is_answered_when_the_service_ends(start: Callable[..., Any], tmp_path: Path) -> None:
    served = start()
    codes: list[int] = []

    def end() -> None:
        while served.metric('trt_var_images_total{n_draft="4"}') < 40:  # what it measured at its start is not counted
            time.sleep(0.05)
        codes.append(served.stop())

    thread = threading.Thread(target=end)
    found_by = [*("--rate", "40", "--requests", "400"), *("--stream", "0.3", "--verify", "digits")]
    thread.start()
    row = load(served.url, tmp_path, *found_by)["rows"][0]
    thread.join()
    assert codes == [0] and row["served"] > 10 and row["broken"] == row["unsound"] == row["failed"] == 0
    assert row["unconnected"] > 0 and set(row["statuses"]) <= {"200", "503"}


def test_keys(start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "keys"
    key.write_text("team 0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)
    served = start("--api-key-file", str(key))
    assert main(["load", served.url]) == 2
    assert "wants a key" in capsys.readouterr().err
    row = load(served.url, tmp_path, "--requests", "5", "--rate", "50", "--api-key-file", str(key))["rows"][0]
    assert row["served"] == 5
    assert served.stop() == 0
