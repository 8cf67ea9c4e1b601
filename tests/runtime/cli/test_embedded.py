"""Kind: threads and callers. ``main`` called from programs, notebooks and threads gives back what it took."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import trt_var
from trt_var.cli import embedded
from trt_var.cli.main import main

INFO = ["info", "digits"]
LOGGERS = [logging.getLogger(name) for name in embedded.PACKAGES]


def state() -> list[object]:
    root = logging.getLogger()
    loggers = [(logger.level, logger.propagate, [*logger.handlers]) for logger in LOGGERS]
    return [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), root.level, [*root.handlers], loggers]


@pytest.mark.parametrize("arguments", [INFO, ["-v", *INFO], ["info", "nowhere"], ["--help"], ["run", "--frobnicate"]])
def test_nothing_is_left_behind(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = state()
    for _ in range(2):
        try:
            main(arguments)
        except SystemExit as stop:
            assert stop.code == (0 if "--help" in arguments else 2)
        assert state() == before


def test_in_a_thread(tmp_path: Path) -> None:
    codes = []
    run = ["run", "--engines", "digits", "--backend", "onnxruntime", "--labels", "3", "--out"]
    threads = [threading.Thread(target=lambda i=i: codes.append(main([*run, str(tmp_path / f"{i}.png")]))) for i in range(2)]
    before = state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert len(list(tmp_path.iterdir())) == 2
    assert state() == before


def test_a_handler_of_the_program_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(number: int, frame: object) -> None: ...

    seen = []
    before = signal.signal(signal.SIGTERM, mine)
    monkeypatch.setattr("trt_var.bundle.opening.Bundle.verify", lambda self: seen.append(signal.getsignal(signal.SIGTERM)))
    try:
        assert main(INFO) == 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert main(INFO) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [mine, embedded._interrupt]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has not set up logging; pytest puts its handlers in when a test's body begins."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


@pytest.fixture
def warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that warns, and says what it chooses, and whose library talks to the root logger."""

    def verify(self: object) -> None:
        logging.getLogger("trt_var.bundle").warning("careful")
        logging.getLogger("trt_var.bundle").info("chosen")
        logging.getLogger("another.library").info("chatter")

    monkeypatch.setattr("trt_var.bundle.opening.Bundle.verify", verify)


@pytest.mark.parametrize(("flags", "said"), [([], "WARNING: careful\n"), (["-v"], "WARNING: careful\nINFO: chosen\n")])
def test_messages_are_said_once(
    monkeypatch: pytest.MonkeyPatch, warns: None, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    silence(monkeypatch)
    for _ in range(2):
        assert main([*flags, *INFO]) == 0
        assert capsys.readouterr().err == said


def test_a_program_with_handlers_hears_them_once(
    monkeypatch: pytest.MonkeyPatch, warns: None, capsys: pytest.CaptureFixture[str]
) -> None:
    silence(monkeypatch)
    kept = Kept()
    logging.getLogger().addHandler(kept)
    assert main(INFO) == 0
    assert kept.said == ["careful"]
    assert main(["-v", *INFO]) == 0
    assert kept.said == ["careful", "careful", "chosen"]
    assert capsys.readouterr().err == ""


def test_commands_at_once_share_one_handler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    silence(monkeypatch)
    with embedded.messages.shown(verbose=False):
        with embedded.messages.shown(verbose=True):
            pass
        logging.getLogger("trt_var").warning("still heard")
    logging.getLogger("trt_var").warning("not heard")
    assert capsys.readouterr().err == "WARNING: still heard\n"


def test_as_a_library_nothing_is_shown() -> None:
    script = "import logging, trt_var; logging.getLogger('trt_var.bundle').warning('careful')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_streams_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(INFO) == 0
    assert stream.errors == "strict"
    assert rb"32\xd732" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_without_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["info", "nowhere"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("answer", ["raise", None])
def test_without_distribution_metadata(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str | None
) -> None:
    def version(name: str) -> str | None:
        if answer:
            raise importlib.metadata.PackageNotFoundError(name)
        return answer

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.delitem(sys.modules, "trt_var.cli.main")
    from trt_var.cli.main import main as again  # imported anew

    assert again(INFO) == 0
    with pytest.raises(SystemExit):
        again(["--version"])
    assert capsys.readouterr().out.endswith(f"trt-var {trt_var.__version__}\n")


def _arguments(out: Path) -> dict[str, list[str]]:
    digits = ["--engines", "digits", "--backend", "onnxruntime"]
    return {
        "run": [
            "run",
            *digits,
            "--labels",
            "3",
            "--num",
            "2000",
            "--out",
            str(out / "a.png"),
            "--save-npz",
            str(out / "b.npz"),
        ],
        "demo": ["demo", "--out", str(out / "a.png")],
        "build": ["build", "--drafter", "random:d3", "--vae", "random:ch32", "--no-compare", "--out", str(out / "bundle")],
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
@pytest.mark.parametrize("command", ["run", "demo", "build"])
def test_interrupted_at_any_stage_leaves_nothing_unfinished(tmp_path: Path, command: str, number: signal.Signals) -> None:
    for i, seconds in enumerate((0.6, 1.2, 2.0)):
        out = tmp_path / str(i)
        out.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "trt_var", *_arguments(out)[command]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        left = sorted(path.name for path in out.rglob("*"))
        whole = {"run": ["a.png", "b.npz"], "demo": ["a.png"]}.get(command, [])
        # −SIGINT: Python's own end, whatever was caught, where the interrupt fell into code that an extension was running
        assert process.returncode in (0, 130, -number, -signal.SIGINT, 1), said
        # files come whole, by a rename; a signal may fall between two of them, or after the last
        assert set(left) <= set(whole) or (process.returncode == 0 and "manifest.json" in left), (left, said)
