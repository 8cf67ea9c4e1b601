"""``serve deploy`` with the example's file on a node started by hand, as operators do. With ``make contract`` alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from talking import Answer, ask, assert_right, pixels
from trt_var import Pipeline

yaml = pytest.importorskip("yaml")

pytestmark = [
    pytest.mark.starts,
    pytest.mark.skipif(os.environ.get("TRT_VAR_SERVE") != "ray", reason="a minute of a cluster's own: make contract"),
]
EXAMPLE = Path(__file__).parents[4] / "examples" / "serving" / "ray" / "serve.yaml"
SECRET = "sk-0123456789abcdef"
PORT, GCS, DASHBOARD = 8741, 6741, 8742
SEED = 5


class Node:
    """A Ray node, and Ray's commands against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "HOME": str(folder),  # of the token
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{DASHBOARD}",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "trt_var.serving.ray.edge:middlewares",
        }

    def call(self, command: str, *given: str) -> str:
        program = str(Path(sys.executable).parent / command)
        done = subprocess.run([program, *given], env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, engines: str) -> None:
        """By the example's file, with what this machine has."""
        config = yaml.safe_load(EXAMPLE.read_text("utf-8"))
        (app,) = config["applications"]
        del app["deployments"], app["args"]["floor"], app["args"]["target"]
        keys = self.folder / "keys"
        app["args"] |= {"engines": engines, "backend": "onnxruntime", "gpus": 0, "replicas": 2, "ingresses": 1}
        app["args"] |= {"key_file": str(keys)}
        config["http_options"] |= {"host": "127.0.0.1", "port": PORT}
        keys.write_text(f"alice {SECRET}\n")
        keys.chmod(0o600)
        (self.folder / "serve.yaml").write_text(yaml.safe_dump(config))
        assert "Sent deploy request" in self.call("serve", "deploy", "serve.yaml")

    def running(self) -> bool:
        (app,) = yaml.safe_load(self.call("serve", "status"))["applications"].values()
        assert "FAILED" not in app["status"], app
        states: dict[str, Any] = {name: one["status"] for name, one in app["deployments"].items()}
        return app["status"] == "RUNNING" and set(states.values()) == {"HEALTHY"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    pytest.importorskip("ray.serve", reason="needs trt-var[ray]")
    folder = Path("/tmp/trt-var-deploy")  # sockets lie below it, whose paths may have 107 letters
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = Node(folder)
    found.call("ray", "get-auth-token", "--generate")
    ports = ("--port", str(GCS), "--dashboard-port", str(DASHBOARD))
    found.call("ray", "start", "--head", "--num-cpus", "2", *ports, "--temp-dir", str(folder / "ray"))
    yield found
    for process in psutil.process_iter(["cmdline"]):  # ray stop would end other clusters of this machine, too
        if str(folder) in " ".join(process.info["cmdline"] or ()):
            process.kill()


@pytest.fixture(scope="module")
def int8_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("bundle") / "int8"
    given = ["--engines", "digits", "--n-draft", "4", "--calibrate", "2", "--groups", "all", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "trt_var", "calibrate", *given], check=True, capture_output=True)
    return str(out)


def wait(until: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(1)


def asked(key: str = SECRET) -> Answer:
    return ask(f"http://127.0.0.1:{PORT}", {"prompt": "3", "seed": SEED}, f"Authorization: Bearer {key}")


def test_deployed_and_replaced_under_load(node: Node, int8_digits: str) -> None:
    node.deploy("digits")
    wait(node.running, 90)
    assert asked("sk-somebody-elses-key").status == 401
    before = asked()
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        assert_right(before, pipeline, 3, SEED)

    codes: list[int] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            codes.append(asked().status)

    asking = threading.Thread(target=client)
    asking.start()
    node.deploy(int8_digits)
    time.sleep(3)  # until Serve has begun
    wait(node.running, 120)
    over.set()
    asking.join()
    after = asked()
    with Pipeline.load(int8_digits, "onnxruntime") as pipeline:
        assert_right(after, pipeline, 3, SEED)
    first, second = (pixels(one.json["data"][0]["b64_json"]).astype(int) for one in (before, after))
    assert np.abs(first - second).max() > 1, "the two bundles draw the same: the test shows nothing"
    assert codes
    assert set(codes) == {200}
