"""Outputs: what cannot be written is refused before anything is computed; what is written appears whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trt_var.cli.main import main
from trt_var.errors import OutputError, UsageError
from trt_var.files.outputs import check_targets
from trt_var.pictures import writing as images
from trt_var.pipeline import Pipeline

RUN = ["run", "--engines", "digits", "--backend", "onnxruntime"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "folder.png"], "it is a folder"),
        (["--out", "pipe.png"], "no ordinary file"),
        (["--out", "missing/a.png"], "there is no folder missing"),
        (["--out", "a.pdf"], "no picture format"),
        (["--out", "a.gif"], "no picture format"),
        (["--out", f"{'x' * 300}.png"], "too long"),
        (["--out", "file/a.png"], "no folder file"),
        (["--save-npz", "folder.png"], "it is a folder"),
        (["--save-npz", "pipe.png"], "no ordinary file"),
        (["--out-dir", "file"], "file is no folder"),
        (["--out-dir", "file/below"], "file is no folder"),
        (["--out-dir", "loop"], "cannot write loop"),
        (["--steps", "a.tiff"], "no picture format"),
        (["--out", "a.webp", "--num", "4096"], "has at most 16383 a side"),
        (["--steps", "a.webp", "--num", "500"], "has at most 16383 a side"),
    ],
)
def test_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    def drawn(*arguments: object, **settings: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(Pipeline, "_draw", drawn)
    monkeypatch.setattr(Pipeline, "_stream", drawn)
    monkeypatch.setattr(images, "grid_size", lambda count, side, columns=None: (columns or 1, 258 * count))
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe.png")
    before = sorted(Path().iterdir())
    assert main([*RUN, *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "not permitted in the folder"),
        (errno.EPERM, "not permitted in the folder"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "No space left"),
        (errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_folders_that_take_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def refused(**options: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    for kind in ({"files": [tmp_path / "a"]}, {"folders": [tmp_path / "a" / "b"]}):
        with pytest.raises(OutputError, match=message):
            check_targets(**kind)


def test_two_outputs_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(tmp_path)
    for pair in (("a.png", "a.png"), ("a.png", "link/a.png"), ("a.png", str(tmp_path / "a.png"))):
        with pytest.raises(UsageError, match="the same place"):
            check_targets(pictures=[Path(pair[0])], files=[Path(pair[1])])
    check_targets([Path("a.png"), None], [Path("a.gif")], [Path("a.npz")], [Path("new/folder")])
    assert main([*RUN, "--out", "a.png", "--save-npz", "./a.png"]) == 2
