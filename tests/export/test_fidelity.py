"""FID through torch-fidelity. Kind: published evaluation."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from trt_var import Pipeline
from trt_var.cli.main import main

FILES = ["eval", "--engines", "digits", "--per-class", "2", "--backend", "onnxruntime"]
Asked = dict[str, Any]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    folder = tmp_path / "real"
    folder.mkdir()
    for i in range(3):
        picture(folder / f"{i}.png")
    (folder / "notes.txt").touch()
    return folder


def picture(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size).save(path, format="JPEG" if path.suffix.lower().startswith(".j") else "PNG")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """torch-fidelity itself is a stand-in here: its weights are a download."""
    found: Asked = {"calls": 0, "fails": None}

    class StandIn:
        @staticmethod
        def calculate_metrics(input1: str, input2: str, **options: Any) -> dict[str, float]:
            found.update(drawn=sorted(path.name for path in Path(input1).glob("*.png")), real=input2, **options)
            found["calls"] += 1
            if found["fails"]:
                raise found["fails"]
            return {"frechet_inception_distance": 1.5}

    monkeypatch.setitem(sys.modules, "torch_fidelity", StandIn)
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images every request drew."""
    counts: list[int] = []
    generate = Pipeline.generate

    def counting(self: Pipeline, labels: Any, **options: Any) -> Any:
        counts.append(len(labels))
        return generate(self, labels, **options)

    monkeypatch.setattr(Pipeline, "generate", counting)
    return counts


def test_fidelity_gets_pictures_and_the_real_folder(real: Path, tmp_path: Path, asked: Asked, temporary: Path) -> None:
    assert main([*FILES, "--fidelity", str(real), "--json", str(tmp_path / "report.json")]) == 0
    assert (len(asked["drawn"]), asked["real"], asked["fid"], asked["isc"]) == (20, str(real), True, True)
    assert (asked["samples_find_deep"], asked["samples_resize_and_crop"], asked["save_cpu_ram"]) == (False, 0, False)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == {"frechet_inception_distance": 1.5}
    assert not list(temporary.iterdir())


def test_a_metric_that_fails_leaves_the_drawings(
    real: Path, asked: Asked, temporary: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["fails"] = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.\nmore")
    assert main([*FILES, "--fidelity", str(real)]) == 1
    error = capsys.readouterr().err
    assert "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error.); the 20 drawings are kept" in error
    assert len(error.splitlines()) == 1
    found = re.search(r"--drawings (\S+)", error)
    assert found and Path(found[1]).parent == temporary
    asked["fails"], before = None, list(drawn)
    assert main([*FILES, "--fidelity", str(real), "--drawings", found[1]]) == 0
    assert drawn == before == [2, 20], "the recipe's probe, then the drawings, and nothing twice"
    assert len(asked["drawn"]) == 20
    assert Path(found[1]).is_dir(), "a folder that was named stays"


def test_drawings_of_something_else_are_refused(
    real: Path, tmp_path: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*FILES, "--fidelity", str(real), "--drawings", str(tmp_path / "drawn")]
    assert main(command) == 0
    assert main([*command, "--seed", "7"]) == 2
    assert "holds other images: seed 0 there, 7 asked for" in capsys.readouterr().err
    for folder in (real, real / "below", tmp_path):
        assert main([*FILES, "--fidelity", str(real), "--drawings", str(folder)]) == 2
        assert "lie in each other" in capsys.readouterr().err
    assert asked["calls"] == 1


def test_interrupted_drawings_stay(
    real: Path, asked: Asked, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trt_var.bulk.pictures.SPAN", 8)
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "generate", interrupted_behind_the_first(Pipeline.generate))
        assert main([*FILES, "--fidelity", str(real)]) == 130
    (folder,) = temporary.iterdir()
    assert f"--drawings {folder} goes on" in caplog.text
    assert len(list(folder.glob("*.png"))) == 8
    assert main([*FILES, "--fidelity", str(real), "--drawings", str(folder)]) == 0
    assert len(asked["drawn"]) == 20


def interrupted_behind_the_first(generate: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the recipe's probe, 8 drawings, and now
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    return interrupted


def test_class_folders(real: Path, asked: Asked) -> None:
    for name in ("cat", "dog"):
        picture(real.parent / "folders" / name / "a.JPEG")
    assert main([*FILES, "--fidelity", str(real.parent / "folders")]) == 0
    assert asked["samples_find_deep"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real: [path.unlink() for path in real.iterdir()], "holds 0 pictures"),
        (lambda real: [(real / name).unlink() for name in ("1.png", "2.png")], "holds 1 pictures"),
        (
            lambda real: picture(real / "wide.png", (40, 32)),
            "holds 4 pictures: 3 of 32×32, 1 of 40×32; the metric takes one",
        ),
        (lambda real: picture(real / "below" / "a.png"), "holds 3 pictures itself and 1 in folders below"),
        (lambda real: picture(real / ".hidden.png"), "1 hidden pictures"),
        (lambda real: (real / "a.jpg").write_text("<html>"), "1 of 4 pictures cannot be read"),
        (lambda real: (real / "a.png").touch(), "1 of 4 pictures cannot be read"),
        (lambda real: (real / "0.png").write_bytes((real / "0.png").read_bytes()[:-30]), "1 of 3 pictures cannot be read"),
        (lambda real: shutil.rmtree(real), "there is no folder"),
    ],
)
def test_references_are_looked_at_before_anything_is_drawn(
    real: Path,
    asked: Asked,
    drawn: list[int],
    temporary: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    message: str,
) -> None:
    change(real)
    assert main([*FILES, "--fidelity", str(real)]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not drawn
    assert not list(temporary.iterdir())


def test_mixed_sizes_are_cut_if_asked(real: Path, asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    picture(real / "wide.png", (40, 32))
    assert main([*FILES, "--fidelity", str(real), "--resize"]) == 0
    assert asked["samples_resize_and_crop"] == 32
    assert not caplog.text


def test_another_size_is_told(tmp_path: Path, asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(2):
        picture(tmp_path / "large" / f"{i}.png", (64, 64))
    assert main([*FILES, "--fidelity", str(tmp_path / "large")]) == 0
    assert "are 64×64, the drawn ones 32×32" in caplog.text


def test_little_shared_memory(
    real: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loaders in processes of their own would die of it."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert main([*FILES, "--fidelity", str(real)]) == 0
    assert asked["save_cpu_ram"] is True
    assert "pictures are loaded by one process" in caplog.text


def test_options_of_fidelity_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--drawings", str(tmp_path / "x")], ["--resize"]):
        assert main([*FILES, *option]) == 2
        assert "belong to --fidelity" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
