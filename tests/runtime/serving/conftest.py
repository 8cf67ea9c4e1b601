"""A service to test against: the digits in float32, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from trt_var import Pipeline

START, END = 60.0, 30.0  # seconds
# TRT_VAR_SERVE=ray: the same tests against Ray Serve on a cluster of this machine, but for those marked one_process
ON_RAY = ["--ray", "local"] if os.environ.get("TRT_VAR_SERVE") == "ray" else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not ON_RAY:
        return
    import rigged  # imports Ray

    trouble = rigged.trouble()
    for item in items:
        if "start" in getattr(item, "fixturenames", ()):  # half a minute each, for a cluster of its own
            item.add_marker("starts")
        found = item.get_closest_marker("one_process")
        rigged_here = {"here", "there"} & set(getattr(item, "fixturenames", ()))
        if trouble or found or rigged_here:
            why = found.args[0] if found else "nothing of it can be replaced: it is of this process or one with other code"
            item.add_marker(pytest.mark.skip(reason=trouble or f"on Ray Serve {why}"))


class Served:
    """A running ``trt-var serve``."""

    def __init__(self, log: Path, *options: str, env: dict[str, str] | None = None) -> None:
        given = ["--engines", "digits", "--backend", "onnxruntime", "--port", "0", "--batch", "8", *ON_RAY, *options]
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trt_var", "serve", *given],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(env or {})},
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, log.read_text()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            found: bytes = answer.read()
        return found

    def metric(self, line: str) -> float:
        """The value of one line of the metrics, 0 if it is not there."""
        lines = [one for one in self.get("/metrics").decode().splitlines() if one.startswith(line + " ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(END)
        finally:
            with suppress(ProcessLookupError):
                self.process.kill()
            if self.process.stdout:
                self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts services with options; those still running are killed at the end."""
    running: list[Served] = []

    def begin(*options: str, env: dict[str, str] | None = None) -> Served:
        running.append(Served(tmp_path / f"service-{len(running)}.log", *options, env=env))
        return running[-1]

    yield begin
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
        if served.process.stdout:
            served.process.stdout.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that all tests of a session share, and leave as they found it."""
    served = Served(tmp_path_factory.mktemp("service") / "service.log")
    yield served
    assert served.stop() == 0, served.log.read_text()


@pytest.fixture(scope="session")
def served_by() -> type[Served]:
    """To start services that last longer than a test."""
    return Served


@pytest.fixture(scope="session")
def digits() -> Iterator[Pipeline]:
    """The pipeline that the service has, in this process."""
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        yield pipeline


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
