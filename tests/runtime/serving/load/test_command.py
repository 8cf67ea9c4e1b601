"""``trt-var load``: options, errors, files, and pictures drawn once more."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_var import Pipeline
from trt_var.cli.main import main
from trt_var.pictures.encoding import to_png
from trt_var.serving.load.mix import settings

FEW = ["--requests", "12", "--rate", "200"]


def test_markdown_json_and_plots(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.delay = 0.01
    mix = ["--stream", "0.3", "--disconnect", "0.1", "--rubbish", "0.1", "--n-draft", "4:2,2-5,auto", "--images", "1:3,2"]
    more = ["--sampling", '{"cfg": 0}', "--sampling", '{"preset": "var"}', "--timeout", "5", "--objective", "1"]
    files = ["--out", str(tmp_path / "load.json"), "--plot", str(tmp_path / "load.png")]
    assert main(["load", f"{fake.url}/", "--rate", "100,300", "--duration", "0.5", *mix, *more, *files]) == 0
    out, err = capsys.readouterr()
    found = json.loads((tmp_path / "load.json").read_text())
    assert [row["rate"] for row in found["rows"]] == [100, 300] and found["objective"] == 1 and found["url"] == fake.url
    assert found["model"]["id"] == "digits" and found["verification"] is None
    for row in found["rows"]:
        assert row["statuses"] == {"200": row["offered"]} and row["mistaken"] == row["lost"] == 0
    lines = out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| 100 | ") and "| 100.0% |" in table[2]
    for text in (
        "a Poisson process, seed 0",
        "4 (2), 2-5 (1), auto (1)",
        "30%, 2 previews",
        '{"cfg": 0} | {"preset": "var"}',
    ):
        assert text in out
    assert "## 300 a second" in lines and "not answered 4xx" in out
    assert (tmp_path / "load.png").stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["load.json", "load.png"]
    assert not [line for line in err.splitlines() if "late" not in line]


def test_the_course_of_one_rate(fake: Any, tmp_path: Path) -> None:
    assert main(["load", fake.url, *FEW, "--plot", str(tmp_path / "course.webp"), "--objective", "1"]) == 0
    assert (tmp_path / "course.webp").read_bytes()[8:12] == b"WEBP"


def test_a_run_without_any_answer_can_be_told(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.delay = 9.0
    files = ["--out", str(tmp_path / "load.json"), "--plot", str(tmp_path / "load.png")]
    assert main(["load", fake.url, *FEW, "--patience", "0.2", *files]) == 0
    out = capsys.readouterr().out
    assert "| – | – | – | – | – | – | – | – | – | 0 | 12 |" in out and "problems: patience ran out × 12" in out


def test_a_pipe_gets_markdown_alone(fake: Any) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "trt_var", "load", fake.url, *FEW], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0 and ran.stdout.startswith("# Load on http")
    late = "the generator was up to"  # on a busy machine, which is said
    assert not [line for line in ran.stderr.splitlines() if "request" in line and late not in line], ran.stderr


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime", threads=1)


def drawn(pipeline: Pipeline, off: Callable[[int], int] = lambda seed: 0) -> Callable[[dict[str, Any], int], bytes]:
    """Pictures of a service whose pixels are off by so much."""

    def draw(asked: dict[str, Any], seed: int) -> bytes:
        wanted = asked.get("n_draft", 4)
        n_draft = wanted["max"] if isinstance(wanted, dict) else wanted
        names = ("cfg", "preset", "top_k", "temperature", "scales")
        sampling = settings({name: asked[name] for name in names if name in asked}, pipeline.manifest)
        pixels = pipeline.generate(int(asked["prompt"]), seeds=seed, n_draft=n_draft, sampling=sampling).images[0]
        if off(seed):
            pixels[0, 0, 0] = int(pixels[0, 0, 0]) + (off(seed) if pixels[0, 0, 0] < 128 else -off(seed))
        return to_png(pixels)

    return draw


VERIFY = ["--requests", "40", "--rate", "100", "--verify", "digits", "--n-draft", "4,2-5", "--images", "1,3"]
MORE = ["--stream", "0.3", "--rubbish", "0.1", "--disconnect", "0.1", "--sampling", '{"cfg": 0}', "--sampling", "{}"]


def test_verify(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], pipeline: Pipeline) -> None:
    fake.draw = drawn(pipeline)
    assert main(["load", fake.url, *VERIFY, *MORE, "--out", str(tmp_path / "load.json")]) == 0
    found = json.loads((tmp_path / "load.json").read_text())
    told = found["verification"]
    assert (
        told["pictures"] == told["promised"] >= found["rows"][0]["images"] > 40 and told["outside"] == told["left_out"] == 0
    )
    assert told["largest"] <= 1 and told["engine"].startswith("ONNX Runtime") and not told["examples"]
    assert "## Pictures" in capsys.readouterr().out


def test_pictures_that_are_others(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], pipeline: Pipeline) -> None:
    fake.draw = drawn(pipeline, lambda seed: {3: 1, 5: 2, 7: 9}.get(seed, 0))
    assert main(["load", fake.url, *VERIFY, "--out", str(tmp_path / "load.json")]) == 1
    out, err = capsys.readouterr()
    told = json.loads((tmp_path / "load.json").read_text())["verification"]
    assert (told["outside"], told["largest"]) == (2, 9) and told["unequal"] >= 3 and told["mean"] > 0
    assert f"2 of {told['promised']} pictures are not those that digits draws" in err
    assert "seed 5, N=" in out and "seed 7, N=" in out and "seed 3," not in out


def test_images_drawn_alone_are_compared_with_such(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    load = Pipeline.load

    def loaded(*path: Any, batch_invariant: bool) -> Pipeline:
        given.append(batch_invariant)
        return load(*path, batch_invariant=batch_invariant)

    monkeypatch.setattr(Pipeline, "load", loaded)
    fake.model = fake.model | {"reproducible": "images"}
    fake.change = lambda answer: answer | {"reproducible": "images"}
    assert main(["load", fake.url, *FEW, "--verify", "digits"]) == 1, "they are grey"
    assert given == [True]


def test_pictures_of_another_size_or_none(fake: Any, tmp_path: Path, pipeline: Pipeline) -> None:
    right = drawn(pipeline)

    def draw(asked: dict[str, Any], seed: int) -> bytes:
        return {0: b"no picture", 1: to_png(np.zeros((8, 8, 3), np.uint8))}.get(seed) or right(asked, seed)

    fake.draw = draw
    command = [
        "load",
        fake.url,
        "--requests",
        "10",
        "--rate",
        "100",
        "--verify",
        "digits",
        "--out",
        str(tmp_path / "o.json"),
    ]
    assert main(command) == 1
    told = json.loads((tmp_path / "o.json").read_text())["verification"]
    assert (told["pictures"], told["outside"], told["largest"]) == (10, 2, 255)
    assert "no PNG" in told["examples"][0] and "8×8 pixels, expected 32×32" in told["examples"][1]


def test_where_nothing_is_promised_nothing_is_outside(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake.model = fake.model | {"reproducible": "no", "exact": False}
    fake.change = lambda answer: answer | {"reproducible": "no"}
    assert main(["load", fake.url, *FEW, "--verify", "digits"]) == 0
    assert "of 0 that are promised" in capsys.readouterr().out


def test_pictures_that_were_not_kept(
    fake: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["load", fake.url, *FEW, "--verify", "digits", "--keep", "0"]) == 0
    assert "12 pictures served and not compared" in capsys.readouterr().out
    assert "the pictures of 12 were not kept" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "rates are 0; expected"),
        (["--rate", "1,1000000"], "rates are 1, 1e+06"),
        (["--duration", "-1"], "duration is -1"),
        (["--duration", "3", "--requests", "3"], "not both"),
        (["--seed", "-1"], "-1 does not"),
        (["--images", "20"], "digits takes 1 to 10"),
        (["--partial-images", "6"], "digits gives 0 to 5"),
        (["--stream", "2"], "stream is 2"),
        (["--sampling", "cfg=0"], "--sampling is 'cfg=0', no JSON object"),
        (["--sampling", "[]"], "no JSON object"),
        (["--sampling", '{"colour": 1}'], "sampling has colour; expected cfg"),
        (["--timeout", "0"], "--timeout is 0; expected more than 0, and at most 3600 seconds"),
        (["--patience", "nan"], "--patience is nan"),
        (["--objective", "-1"], "--objective is -1"),
        (["--disconnect-after", "9999"], "--disconnect-after is 9999"),
        (["--keep", "-1"], "--keep is -1"),
        (["--verify", "digits", "--format", "webp"], "webp does not keep; use --format png"),
        (["--api-key-file", "/nowhere/key"], "cannot read /nowhere/key: No such file"),
    ],
)
def test_bad_options(fake: Any, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["load", fake.url, *options]) == 2
    assert message in capsys.readouterr().err
    assert not fake.bodies


@pytest.mark.parametrize(
    "options",
    [
        ["--n-draft", "four"],
        ["--n-draft", "4:0"],
        ["--n-draft", "4:x"],
        ["--n-draft", "2-"],
        ["--images", "1,a"],
        ["--rate", "a"],
    ],
)
def test_options_that_cannot_be_read(fake: Any, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["load", fake.url, *options])
    assert stop.value.code == 2 and "expected" in capsys.readouterr().err


def test_targets_are_looked_at_first(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", fake.url, "--out", str(tmp_path / "no" / "o.json")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["load", fake.url, "--plot", "plot.gif"]) == 1
    assert "'.gif' is no picture format here" in capsys.readouterr().err
    assert not fake.bodies


def test_another_bundle_is_served(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake.model = fake.model | {"classes": 1000}
    assert main(["load", fake.url, "--verify", "digits"]) == 2
    assert "--against names another bundle than digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8080", "does not begin with http:// or https://; expected http://HOST:PORT"),
        ("ftp://localhost", "does not begin with"),
        ("http://", "is no address"),
        ("http://localhost:99999", "is no address"),
        ("http://local host", "is no address"),
        ("http://[::1", "is no address"),
        ("http://me:secret@localhost", "give the key in a file"),
        ("http://localhost?x=1", "has a query"),
        ("http://127.0.0.1:9", "nothing listens at http://127.0.0.1:9 (Connection refused); start it with trt-var serve"),
        ("http://no-such-host.invalid", "nothing listens at http://no-such-host.invalid"),
    ],
)
def test_bad_addresses(capsys: pytest.CaptureFixture[str], url: str, message: str) -> None:
    assert main(["load", url]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_keys(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.key, key = "right", tmp_path / "key"
    assert main(["load", fake.url]) == 2
    assert "wants a key; give it with --api-key-file" in capsys.readouterr().err
    key.write_text("# of staging\n\nwrong\n")
    assert main(["load", fake.url, "--api-key-file", str(key)]) == 2
    assert "does not know the key of --api-key-file" in capsys.readouterr().err
    for whole in ("# of staging\n\n right \n", "team right\nother wrong\n"):
        key.write_text(whole)
        assert main(["load", fake.url, *FEW, "--api-key-file", str(key)]) == 0
    for empty in ("", "# nothing\n", "no key here\n", "schlüssel\n"):
        key.write_text(empty)
        assert main(["load", fake.url, "--api-key-file", str(key)]) == 2
        assert "holds no key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is not a trt-var service: GET /v1/models answers 404"),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9\r\nContent-Length: 0\r\n\r\n", "answers 301"),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", "is not ready (503); wait until GET http"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "refuses the request: no"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "is not a trt-var service: GET /v1/models: JSON is malformed",
        ),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}', "names no model of trt-var's"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"data":[{"id":"a"}', "is not a trt-var service"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "is not a trt-var service"),
        (b"", "is not a trt-var service"),
    ],
)
def test_other_services(raw: Callable[[Any], str], capsys: pytest.CaptureFixture[str], answer: bytes, message: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    assert main(["load", raw(handle)]) == 2
    assert message in capsys.readouterr().err


def test_without_aiohttp(fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["load", fake.url]) == 1
    assert "load needs aiohttp, which is not" in (told := capsys.readouterr().err) and "pip install 'trt-var[load]'" in told
