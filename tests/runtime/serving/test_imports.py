"""What a serving process has loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVER = {"starlette", "uvicorn", "prometheus_client", "multipart", "anyio"}
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "matplotlib", "scipy", "aiohttp", "ray"}
LIBRARY = "import trt_var; from trt_var import Batcher, Batching, Pipeline, Served"
COMMAND = "from trt_var.cli.main import main; assert main(['serve', '--engines', 'digits', '--key-images', '2'])"
SERVING = """
import asyncio
from starlette.testclient import TestClient
from trt_var import Batching, Pipeline
from trt_var.serving.app.app import build
from trt_var.serving.engine import LocalEngine
with TestClient(build(LocalEngine(Pipeline.load("digits", "onnxruntime"), Batching(batch=2)))) as client:
    answer = client.post("/v1/images/generations", json={"prompt": "seven", "seed": 1})
    assert answer.status_code == 200, answer.text
"""


def loaded(code: str) -> set[str]:
    told = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_the_library_does_not_load_the_server() -> None:
    assert not loaded(LIBRARY) & (SERVER | HEAVY)


def test_the_command_without_a_cluster_does_not_load_ray() -> None:
    pytest.importorskip("uvicorn", reason="needs trt-var[serve]")
    found = loaded(COMMAND)  # refused when all that it needs is there
    assert found >= {"starlette", "uvicorn"} and not found & HEAVY


def test_the_server_does_not_load_what_builds() -> None:
    pytest.importorskip("httpx2", reason="Starlette's test client needs it")
    found = loaded(SERVING)
    assert found >= {"starlette", "onnxruntime"}
    assert not found & HEAVY
