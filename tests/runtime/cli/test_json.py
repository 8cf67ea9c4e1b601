"""``--json``: one object on standard output with the documented fields, complaints on standard error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_var.cli import options
from trt_var.cli.main import main
from trt_var.errors import DataError

DOCUMENT = Path(__file__).parents[3] / "docs/reference/shell.md"
PLAN = ["plan", "--engines", "digits", "--json"]
FLEET = [*PLAN, "--fleet", "--rate", "50", "--day"]


def documented(title: str) -> list[str]:
    """The fields in the table under a title."""
    part = DOCUMENT.read_text("utf-8").partition(f"### `trt-var {title}`\n")[2].partition("\n##")[0]
    return [name for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)]


def fields(value: Any, path: str = "") -> Iterator[str]:
    """``batches[].cache``: the way to every value that holds no others."""
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from fields(one, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for one in value:
            yield from fields(one, f"{path}[]")
    else:
        yield path


def check(title: str, found: Any, absent: tuple[str, ...] = ()) -> None:
    """Every field is documented, or begins a documented one where it is null or empty; and the other way round."""
    there = sorted(set(fields(found)))
    known = {name: re.compile(re.escape(name).replace(r"\*", ".+")) for name in documented(title)}
    assert known
    assert not [path for path in there if not any(one.fullmatch(path) for one in known.values()) and not begins(path, known)]
    assert not [name for name, one in known.items() if name not in absent and not any(map(one.fullmatch, there))]


def begins(path: str, known: dict[str, re.Pattern[str]]) -> bool:
    return any(re.match(re.escape(path) + r"[.\[]", name) for name in known)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(arguments) == code
    said = capsys.readouterr()
    assert said.err.count("\n") == (1 if code else 0), said.err
    return json.loads(said.out)


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "backends", "--json")
    check("backends --json", found)
    usable = [one["name"] for one in found["backends"] if one["usable"]]
    assert found["auto"] in usable


def test_info_of_a_bundle(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "info", str(toy_bundle), "--json")
    check("info --json", found, absent=tuple(name for name in documented("info --json") if name[:6] in ("engine", "quanti")))
    assert found["schedule"] == [1, 2, 3, 4] and found["tokens"] == 30
    assert [one["batch"] for one in found["memory"]["batches"]] == [1, 8, 32, 64]


def test_info_of_a_picture_is_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    assert main(["run", "--engines", "digits", "--labels", "3,4", "--seed", "7", "--out", str(out)]) == 0
    capsys.readouterr()
    found = printed(capsys, "info", str(out), "--json")
    assert (found["labels"], found["seeds"]) == ([3, 4], [7, 8])


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, *PLAN, "--device", "l4", "--batch", "1,4096", "--guided-scales", "2")
    check("plan --json", found)
    assert found["one_row"] == ["refiner"]
    assert [one["batch"] for one in found["batches"]] == [1, 4096]


def test_plan_by_targets(capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["--target-latency", "0.0001", "--device", "l4"]
    found = printed(capsys, *PLAN, *targets)
    fitting = {**found, "others": [one for one in found["others"] if one["reasons"]]}
    check("plan --target-latency 1 --json", fitting)
    nothing = printed(capsys, *PLAN, "--target-latency", "1e-9", "--device", "l4", code=2)
    assert nothing["chosen"] is None
    assert all(one["reasons"] for one in nothing["others"])


def test_plan_of_a_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, *FLEET, "--devices", "l4", "--price", "l4=1")
    check("plan --fleet --json", found)
    impossible = printed(capsys, *FLEET, "--devices", "l4,h100", "--objective", "p95:0.0001", "--of-peak", "0.01")
    assert all(one["error"].startswith("no fleet of at most") for one in impossible["devices"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere", "--json"], 1, "no bundle at"),
        ([*PLAN, "--device", "abacus"], 2, "device is 'abacus'"),
        ([*PLAN, "--n-draft", "99"], 2, "this bundle serves"),
        (FLEET, 2, "a fleet needs times"),
        (["bench", "--engines", "digits", "--json", "--repeats", "0"], 2, "--repeats is 0"),
        (["score", "--engines", "digits", "--json", "nowhere.png"], 1, "nowhere.png"),
    ],
)
def test_complaints_leave_standard_output_empty(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err and said.err.count("\n") == 1


def test_bench_and_score_through_a_pipe(tmp_path: Path) -> None:
    """As a program reads them: what is left of the progress is on standard error."""
    pytest.importorskip("matplotlib")
    common = [sys.executable, "-m", "trt_var"]
    small = ["--n-draft", "4", "--repeats", "1", "--spectrum", "2", "--out", str(tmp_path)]
    bench = [*common, "bench", "--engines", "digits", "--backend", "onnxruntime", *small, "--json"]
    ran = subprocess.run(bench, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    check("bench --json", found)
    assert found == json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert "N=4" in ran.stderr
    subprocess.run([*common, "demo", "--out", "a.png"], cwd=tmp_path, capture_output=True, check=True)
    score = [*common, "score", "--engines", "digits", "--labels", "1,2", "a.png", "--json"]
    ran = subprocess.run(score, cwd=tmp_path, capture_output=True, text=True, check=True)
    check("score --json", json.loads(ran.stdout))
    assert ran.stderr == ""


def test_what_json_cannot_have_is_an_error() -> None:
    with pytest.raises(DataError, match="leave out --json"):
        options.print_json({"late": float("nan")})
