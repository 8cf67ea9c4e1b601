"""trt-var inpaint, edit and reconstruct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import assert_close
from trt_var import Pipeline
from trt_var.cli.main import main


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Path) -> Pipeline:
    return Pipeline.load(toy_bundle, "onnxruntime")


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    with Pipeline.load("digits") as pipeline:
        pipeline.generate(3, seeds=1).to_pil()[0].save(tmp_path / "three.png")
    return tmp_path / "three.png"


def test_commands(digit: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digit.parent)
    common = ["--engines", "digits", "--image", str(digit)]
    assert main(["inpaint", *common, "--box", "16,0,32,32", "--label", "3", "--num", "3", "--out-dir", "all"]) == 0
    assert main(["edit", *common, "--box", "4,4,28,28", "--label", "8"]) == 0
    assert main(["reconstruct", str(digit), str(digit), "--engines", "digits", "--save-npz", "r.npz"]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert Image.open("edit.png").size == (3 * 34 - 2, 32)
    assert Image.open("reconstruct.png").size == (66, 66)
    original = np.array(Image.open(digit))
    for path in sorted(Path("all").iterdir()):
        assert_close(np.array(Image.open(path))[:, :16], original[:, :16])
    with np.load("r.npz") as arrays:
        assert arrays["images"].shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "nothing says what to redraw"),
        (["--box", "1,2,3"], 2, "x0,y0,x1,y1"),
        (["--box", "1,2,3,x"], 2, "expected whole numbers"),
        (["--box", "0,0,32,32", "--num", "1000000000000"], 2, "expected 1 to 4096"),
        (["--box", "0,0,32,32", "--out-dir", "black.png"], 1, "no folder"),
        (["--box", "0,0,32,32", "--out", "a.png", "--out-dir", "a.png"], 2, "the same place"),
        (["--box", "0,0,99,9"], 2, "inside the picture, 32×32"),
        (["--box", "0,0,32,32", "--mask", "m.png"], 2, "choose one"),
        (["--mask", "missing.png"], 1, "No such file"),
        (["--mask", "black.png"], 2, "nothing to redraw"),
        (["--box", "0,0,32,32", "--num", "0"], 2, "--num is 0"),
        (["--box", "0,0,32,32", "--out", "missing/x.png"], 1, "there is no folder"),
        (["--box", "0,0,32,32", "--n-draft", "9"], 2, "n_draft is 9"),
    ],
)
def test_bad_requests(
    digit: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(digit.parent)
    Image.new("L", (32, 32)).save("black.png")
    before = sorted(Path().iterdir())
    try:
        found = main(["inpaint", "--engines", "digits", "--image", str(digit), "--label", "3", *options])
    except SystemExit as stopped:  # argparse's own
        found = int(stopped.code or 0)
    assert found == code
    assert message in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before
