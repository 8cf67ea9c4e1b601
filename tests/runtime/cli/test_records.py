"""Kind: promises with their limits. Pictures say how they were made, and trt-var info reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import assert_close
from trt_var import Pipeline
from trt_var.cli.main import main
from trt_var.pictures.encoding import read_record, with_record
from trt_var.pictures.writing import save_picture
from trt_var.requests.provenance import Provenance


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_pictures_say_how_they_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    out = tmp_path / f"a.{suffix}"
    option = "--steps" if suffix == "gif" else "--out"
    command = ["run", "--engines", "digits", "--labels=3,-1", "--seed", "-1", "--n-draft", "2", "--backend", "onnxruntime"]
    assert main([*command, option, str(out)]) == 0
    record = json.loads(read_record(out))
    assert (record["labels"], record["n_draft"], record["arithmetic"]) == ([3, 10], 2, "float32")
    assert f"seeds from {record['seeds'][0]}" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert f"seeds           [{record['seeds'][0]},{record['seeds'][1]}]" in capsys.readouterr().out


def test_a_picture_is_drawn_again_from_its_file(tmp_path: Path) -> None:
    folder, npz = tmp_path / "all", tmp_path / "a.npz"
    command = ["run", "--engines", "digits", "--labels", "3,4", "--seed", "9", "--top-p", "0", "--backend", "onnxruntime"]
    assert main([*command, "--out-dir", str(folder), "--save-npz", str(npz)]) == 0
    path = folder / "00001-class4-seed10.png"
    record = json.loads(read_record(path))
    made = Provenance.from_json(read_record(path))
    with Pipeline.load("digits", made.backend) as pipeline:
        again = pipeline.generate(record["labels"], seeds=record["seeds"], n_draft=made.n_draft, sampling=made.sampling)
    assert_close(np.array(Image.open(path)), again.images[0])
    with np.load(npz, allow_pickle=False) as arrays:
        assert json.loads(str(arrays["record"]))["labels"] == [3, 4]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert main(["run", "--engines", "digits", "--labels", "3", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pictures_without_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert main(["info", str(tmp_path / "a.png")]) == 1
    assert "carries no record" in capsys.readouterr().err
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert main(["info", str(tmp_path / "b.png")]) == 1
    save_picture(tmp_path / "c.png", np.zeros((4, 4, 3), np.uint8), '{"labels": [1')
    assert main(["info", str(tmp_path / "c.png")]) == 1
    assert "is damaged" in capsys.readouterr().err
    save_picture(tmp_path / "d.png", np.zeros((4, 4, 3), np.uint8), '{"\\u001b[2J": "\\u001b[2J"}')
    assert main(["info", str(tmp_path / "d.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_record_that_a_format_does_not_take(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    long = json.dumps({"seeds": list(range(20000))})
    assert with_record("JPEG", long) == {}
    assert "left out" in caplog.text
    save_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), long)
    assert read_record(tmp_path / "a.png") == long
