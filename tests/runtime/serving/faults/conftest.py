"""Services in which something goes wrong on purpose: in this process, or in another in which something was replaced."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from talking import PATIENCE, ended, until
from trt_var import Pipeline
from trt_var.serving.app.app import build
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.app.settings import Settings
from trt_var.serving.batching import worker
from trt_var.serving.batching.settings import Batching
from trt_var.serving.engine import LocalEngine

HASTE = "from trt_var.serving.batching import sizing\nsizing.REPEATS = 1\n"  # to be there sooner
MAIN = "\nimport sys\nfrom trt_var.cli.main import main\nsys.exit(main(['serve', *sys.argv[1:]]))\n"


class Here:
    """The app on the digits under uvicorn, in a thread."""

    def __init__(self, pipeline: Pipeline, batching: Batching, settings: Settings) -> None:
        metrics = Metrics()
        self.engine = LocalEngine(pipeline, batching, metrics)
        app = build(self.engine, settings, metrics)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", ws="none"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        self._thread.start()
        until(lambda: self._server.started, "the service starts")

    def stop(self) -> None:
        self._server.should_exit = True
        until(lambda: not self._thread.is_alive(), "the service ends")


class Gate:
    """Batches that begin while it is closed wait: at once, or after one of their scales."""

    draw = staticmethod(worker.draw_rows)

    def __init__(self) -> None:
        self._opened, self._scale = threading.Event(), -1
        self._opened.set()
        self.wanted: Callable[[], bool] = lambda: True  # whether anybody waits for the last batch

    def __call__(self, pipeline: Any, rows: Any, go_on: Any, on_scale: Any, *other: Any) -> Any:
        opened, place, self.wanted = self._opened, self._scale, go_on

        def wait(scale: int) -> None:
            assert scale != place or opened.wait(PATIENCE)

        def stopped(scale: Any) -> None:
            wait(scale.index)
            on_scale(scale)

        wait(-1)
        return self.draw(pipeline, rows, go_on, stopped, *other)

    def close(self, scale: int = -1) -> None:
        """For batches to come; those that wait already go on."""
        before, self._opened, self._scale = self._opened, threading.Event(), scale
        before.set()

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate()
    monkeypatch.setattr(worker, "draw_rows", found)
    yield found
    found.open()


@pytest.fixture(scope="module")
def here(digits: Pipeline) -> Iterator[Callable[..., Here]]:
    """Starts services in this process, which end with the module; settings are the app's."""
    with ExitStack() as stack:

        def begin(batching: Batching = Batching(batch=8), **settings: Any) -> Here:  # noqa: B008  # frozen
            found = Here(digits, batching, Settings(**{"model": "digits", **settings}))
            stack.callback(found.stop)
            return found

        yield begin


class There:
    """``trt-var serve`` in another process, in which some code ran first."""

    def __init__(self, log: Path, code: str, options: tuple[str, ...], env: dict[str, str]) -> None:
        given = ["--engines", "digits", "--backend", "onnxruntime", "--port", "0", "--batch", "8", *options]
        self.log, self.url = log, ""
        with log.open("ab") as errors:
            command = [sys.executable, "-c", HASTE + code + MAIN, *given]
            environment = {**os.environ, **env}
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # without a terminal, on which OpenSSL would ask for a password
            )

    def ready(self) -> There:
        """Wait until it serves."""
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        return self

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return ended(self.process)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., There]]:
    """Begins to start services in other processes; those still running when the module ends are killed."""
    folder = tmp_path_factory.mktemp("there")
    with ExitStack() as stack:
        count = 0

        def begin(*options: str, code: str = "", **env: str) -> There:
            nonlocal count
            count += 1
            found = There(folder / f"there-{count}.log", code, options, env)
            stack.callback(found.kill)
            return found

        yield begin


class Held:
    """Makes batches wait, in another process, while a file is there.

    Attributes:
        wait: the lines that wait, of a function.
        code: to run first.
        env: to give it.
    """

    wait = "    import os, time\n    while os.path.exists(os.environ['GATE']):\n        time.sleep(0.01)\n"
    code = (
        "from trt_var.serving.batching import worker\ndrawn = worker.draw_rows\ndef held(*given):\n"
        f"{wait}    return drawn(*given)\nworker.draw_rows = held\n"
    )

    def __init__(self, path: Path) -> None:
        self._path, self.env = path, {"GATE": str(path)}

    def close(self) -> None:
        self._path.touch()

    def open(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path / "gate")
