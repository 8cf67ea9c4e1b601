"""Outputs: what cannot be written is refused before anything is computed; what is written appears whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from trt_var.cli.main import main
from trt_var.errors import OutputError, UsageError
from trt_var.files import writing as files
from trt_var.files.outputs import check_targets
from trt_var.pictures import writing as images
from trt_var.pipeline import Pipeline
from trt_var.requests.results import Generation

RUN = ["run", "--engines", "digits", "--backend", "onnxruntime"]


def generation(count: int = 3) -> Generation:
    zeros = np.zeros((count, 4, 4, 3), np.uint8)
    return Generation(zeros, np.zeros((count, 5), np.uint16), np.arange(count), np.arange(count).astype(np.uint64))


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


def test_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for kind in ({"files": [tmp_path / "a"]}, {"folders": [tmp_path / "a" / "b"]}):
        with pytest.raises(OutputError, match="not permitted"):
            check_targets(**kind)


def test_two_outputs_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(tmp_path)
    for pair in (("a.png", "a.png"), ("a.png", "link/a.png"), ("a.png", str(tmp_path / "a.png"))):
        with pytest.raises(UsageError, match="the same place"):
            check_targets(pictures=[Path(pair[0])], files=[Path(pair[1])])
    check_targets([Path("a.png"), None], [Path("a.gif")], [Path("a.npz")], [Path("new/folder")])
    assert main([*RUN, "--out", "a.png", "--save-npz", "./a.png"]) == 2


def test_sizes_of_formats(tmp_path: Path) -> None:
    images.check_size(tmp_path / "a.jpg", (65500, 1))
    for name, side in (("a.jpg", 65501), ("a.webp", 16384), ("a.gif", 65536)):
        with pytest.raises(OutputError, match="a side"):
            images.check_size(tmp_path / name, (1, side))
    sheet = images.grid(np.zeros((7, 4, 4, 3), np.uint8))
    assert sheet.shape[1::-1] == images.grid_size(7, 4)
    assert images.grid(np.zeros((7, 4, 4, 3), np.uint8), 2).shape[1::-1] == images.grid_size(7, 4, 2)
    with pytest.raises(OutputError, match="WebP limit"):
        images.save_picture(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(OutputError, match="cannot write"):
        images.save_steps(tmp_path / "a.gif", [np.zeros((1, 1, 65536, 3), np.uint8)] * 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    folder, save = tmp_path / "each", images.save_picture
    if there:
        folder.mkdir()
        (folder / "old.txt").touch()

    def second_fails(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
        if path.name.startswith("00001"):
            raise KeyboardInterrupt
        save(path, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(images, "save_picture", second_fails)
        with pytest.raises(KeyboardInterrupt):
            images.save_folder(folder, generation())
    assert [path.name for path in folder.iterdir()] == ["old.txt"] if there else not folder.exists()
    images.save_folder(folder, generation())
    assert len(list(folder.glob("*.png"))) == 3
    assert not list(tmp_path.glob("**/.*"))


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_interrupted_replacing_keeps_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    out, rename = tmp_path / "bundle", Path.rename
    out.mkdir()
    (out / "old").touch()

    def interrupted(path: Path, target: Path) -> Path:
        first = path == out
        if (moment == "before" and first) or (moment == "between" and path.name.startswith(".bundle.building")):
            raise KeyboardInterrupt
        rename(path, target)
        if moment == "after" and target == out:
            raise KeyboardInterrupt
        return target

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.appearing(out) as folder:
        (folder / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new" if moment == "after" else "old"]
    assert list(tmp_path.iterdir()) == [out]


def test_long_names(tmp_path: Path) -> None:
    with files.replacing(tmp_path / ("x" * 255)) as file:
        file.write(b"1")
    with files.appearing(tmp_path / ("ä" * 127)) as folder:
        (folder / "a").touch()
    assert len(list(tmp_path.iterdir())) == 2
