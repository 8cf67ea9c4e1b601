"""Checkpoints that a training saves over while they are exported. Kind: where a bundle or output lives."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from trt_var.errors import CheckpointError
from trt_var_export.weights.checkpoint import open_checkpoint
from trt_var_export.weights.files.steady import SteadyFile

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
STATE = {
    "plain": BASE,
    "turned": BASE.t(),
    "part": BASE[1:3, 2:],
    "repeated": BASE[:1].expand(5, 6),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3.5),
    "half": BASE.half(),
    "brain": BASE.bfloat16() / 3,
    "double": BASE.double() / 3,
}
KINDS = [".pth", ".safetensors"]


def _save(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_every_tensor_is_what_was_saved(tmp_path: Path, suffix: str) -> None:
    path = _save(tmp_path / f"a{suffix}", STATE)
    checkpoint = open_checkpoint(path, "")
    assert checkpoint.origin == {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for key, value in STATE.items():
        assert checkpoint.shapes[key] == tuple(value.shape)
        assert torch.equal(checkpoint.load(key), value.float()), key


def _truncate(path: Path) -> None:
    os.truncate(path, 100)


def _overwrite(path: Path) -> None:
    """Other weights in the same file, of the same size."""
    data = bytearray(path.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(10))


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("change", [_truncate, _overwrite, _grow])
def test_saved_over_in_place(tmp_path: Path, suffix: str, change: Callable[[Path], None]) -> None:
    path = _save(tmp_path / f"a{suffix}", STATE)
    checkpoint = open_checkpoint(path, "")
    checkpoint.load("plain")
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))  # as if it had been saved a second ago
    checkpoint = open_checkpoint(path, "")
    change(path)
    with pytest.raises(CheckpointError, match=f"a{suffix} was written to while it was read; wait until it is saved"):
        checkpoint.load("double")


@pytest.mark.parametrize("suffix", KINDS)
def test_replaced_by_another_file(tmp_path: Path, suffix: str) -> None:
    """What is renamed over a checkpoint harms nothing: the opened one is read to its end."""
    path = _save(tmp_path / f"a{suffix}", STATE)
    checkpoint = open_checkpoint(path, "")
    other = _save(tmp_path / f"b{suffix}", {"plain": BASE + 1})
    other.replace(path)
    assert torch.equal(checkpoint.load("plain"), BASE)


def test_replaced_between_two_openings(tmp_path: Path) -> None:
    path, other = (_save(tmp_path / f"{name}.pth", STATE) for name in "ab")
    file = SteadyFile(path)
    other.replace(path)
    with pytest.raises(CheckpointError, match="was written to"):
        file.check(path)


CHILD = """
import os, sys, threading
from pathlib import Path
from trt_var.errors import CheckpointError
from trt_var_export.weights.checkpoint import open_checkpoint
path = Path(sys.argv[1])
checkpoint = open_checkpoint(path, "")
threading.Timer(0.05, os.truncate, (path, 0)).start()
try:
    while True:
        for key in checkpoint.shapes:
            checkpoint.load(key).sum()
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", KINDS)
def test_truncated_while_a_tensor_is_read(tmp_path: Path, suffix: str) -> None:
    """With a memory map this ends with SIGBUS."""
    path = _save(tmp_path / f"a{suffix}", {"large": torch.ones(4000, 2000)})
    found = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "was written to while it was read" in found.stdout


@pytest.mark.parametrize("name", ["a\nb", "a b", os.fsdecode(b"\xff")])
@pytest.mark.parametrize("suffix", KINDS)
def test_odd_names_fit_into_a_manifest(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    try:
        _save(tmp_path / f"a{suffix}", STATE).rename(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    try:
        origin = open_checkpoint(path, "").origin["path"]
    except CheckpointError as error:
        assert "safetensors" in suffix, error  # whose library takes names in UTF-8 alone
        return
    assert origin.isprintable()
    origin.encode()
