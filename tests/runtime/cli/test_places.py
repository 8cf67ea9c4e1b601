"""Commands and the places that people name. Kind: where a bundle or output lives."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main

DRAW = ["run", "--engines", "digits", "--backend", "onnxruntime", "--labels", "3", "--n-draft", "6"]
CALIBRATE = ["calibrate", "--engines", "digits", "--calibrate", "2", "--groups", "head"]
# a folder mounted over itself, and a volume of its own; a bundle goes into each, and over the one there
MOUNTS = """
set -e
mkdir over volume
mount --bind over over
mount -t tmpfs -o size=64m tmpfs volume
mkdir volume/lost+found
"$1" -c "$2"
ls -A over volume
"""
FILL = """
import shutil
from pathlib import Path
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.bundle.target import check_bundle_target
from trt_var.files.writing import appearing
for out in (Path("over"), Path("volume")):
    for force in (False, True):
        check_bundle_target(out, force)
        with appearing(out, last="manifest.json") as folder:
            shutil.copytree(PACKAGED / "digits", folder, dirs_exist_ok=True)
        Bundle.open(out).verify()
"""


def test_tilde_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PACKAGED / "digits", tmp_path / "bundle")
    draw = ["run", "--engines=~/bundle", *DRAW[3:]]
    assert main([*draw, "--out=~/a.png", "--out-dir=~/each", "--save-npz=~/a.npz", "--steps=~/a.gif"]) == 0
    assert main(["reconstruct", "~/a.png", "--engines=~/bundle", "--out=~/b.png", "--backend", "onnxruntime"]) == 0
    assert main(["info", "~/bundle"]) == 0
    assert not (tmp_path / "~").exists()
    assert {"a.png", "a.npz", "a.gif", "b.png", "each"} <= {path.name for path in tmp_path.iterdir()}
    assert main(["build", "--drafter=~/missing.pth", "--vae", "random", "--out=~/built"]) == 1
    assert str(tmp_path / "missing.pth") in capsys.readouterr().err


def test_an_output_that_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("a.png").symlink_to("real/a.png")
    Path("each").symlink_to("real/each")
    assert main([*DRAW, "--out", "a.png", "--out-dir", "each"]) == 0
    assert Path("a.png").is_symlink()
    assert Path("each").is_symlink()
    assert sorted(path.name for path in Path("real").iterdir()) == ["a.png", "each"]
    Path("b.png").symlink_to("nowhere/b.png")
    assert main([*DRAW, "--out", "b.png"]) == 1


def test_an_empty_folder_takes_a_bundle(tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    (tmp_path / "lost+found").mkdir()
    assert main([*CALIBRATE, "--out", str(tmp_path)]) == 0
    Bundle.open(tmp_path).verify()
    assert tmp_path.stat().st_ino == before
    assert not list(tmp_path.glob(".*"))
    assert main([*CALIBRATE, "--out", str(tmp_path)]) == 2


def test_mount_points(tmp_path: Path) -> None:
    apart = ["unshare", "--mount", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    command = [*apart, "bash", "-c", MOUNTS, "bash", sys.executable, FILL]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("manifest.json") == 2
    assert "lost+found" in found.stdout
    assert "unfinished" not in found.stdout


def test_a_volume_takes_samples(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert main(["sample", *DRAW[1:5], "--num", "10", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "shard-00000.npz").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_samples_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        assert main(["sample", *DRAW[1:5], "--num", "10", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "shard-00000.npz").exists()


def test_a_file_system_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", chmod)
    monkeypatch.setattr(os, "chmod", chmod)
    assert main([*DRAW, "--out", str(tmp_path / "a.png"), "--out-dir", str(tmp_path / "each")]) == 0
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("name", ["a b", "a\nb", "ä" * 100, os.fsdecode(b"\xff\xfe")])
def test_odd_names(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRAW, "--out", str(tmp_path / f"{name}.png"), "--out-dir", str(tmp_path / name)]) == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert main([*DRAW, "--out", str(tmp_path / name / "missing" / "a.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
