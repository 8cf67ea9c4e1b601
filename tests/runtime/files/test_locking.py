"""A folder for one process alone, with file locks and without. Kind: where a bundle or output lives."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trt_var.errors import OutputError
from trt_var.files.locking import HOLDER, locked

NONE = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def _without_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSYS) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def _hold(path: Path) -> None:
    with locked(path):
        pass


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock"), pytest.raises(OutputError, match="another process is writing"):
        _hold(tmp_path / ".lock")
    _hold(tmp_path / ".lock")


@pytest.mark.parametrize("number", NONE)
def test_without_locks_a_file_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    _without_locks(monkeypatch, number)
    with locked(tmp_path / ".lock"):
        assert (tmp_path / HOLDER).read_text() == f"{os.getpid()} {socket.gethostname()}"
        with pytest.raises(OutputError, match="this process is writing"):
            _hold(tmp_path / ".lock")
        with pytest.raises(OutputError, match="this process is writing"):  # and that left the file there
            _hold(tmp_path / ".lock")
    assert not (tmp_path / HOLDER).exists()
    assert f"no file locks ({os.strerror(number)})" in caplog.text


def test_a_holder_on_another_machine_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_locks(monkeypatch)
    (tmp_path / HOLDER).write_text("1 elsewhere")
    with pytest.raises(OutputError, match=r"process 1 of elsewhere is writing .* remove .*\.holder"):
        _hold(tmp_path / ".lock")
    assert (tmp_path / HOLDER).exists()


def test_a_living_process_is_believed_and_a_dead_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _without_locks(monkeypatch)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        (tmp_path / HOLDER).write_text(f"{process.pid} {socket.gethostname()}")
        with pytest.raises(OutputError, match=f"process {process.pid} of"):
            _hold(tmp_path / ".lock")
        process.communicate(b"\n")
    with caplog.at_level(logging.WARNING):
        _hold(tmp_path / ".lock")
    assert "process that is no more" in caplog.text
    (tmp_path / HOLDER).write_text(f"{os.getpid()} {socket.gethostname()}")  # of this number, before this one
    _hold(tmp_path / ".lock")


def test_what_is_damaged_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_locks(monkeypatch)
    (tmp_path / HOLDER).write_bytes(b"\xff\x00")
    with pytest.raises(OutputError, match="remove"):
        _hold(tmp_path / ".lock")
