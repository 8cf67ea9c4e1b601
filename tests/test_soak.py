"""A short run of the soak, and its check for growth. docs/reliability.md has the long one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_requests_of_every_kind_on_both_backends(tmp_path: Path) -> None:
    """Twelve requests do not reach a plateau; what is written is the same whether they do or not."""
    command = [sys.executable, str(SOAK), "--requests", "12", "--threads", "1", "--out", str(tmp_path / "soak")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    assert list(found) == ["onnxruntime", "openvino"]
    for backend, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        one = found[backend]
        assert one["backend"].startswith(name) and "1 thread" in one["backend"]
        assert len(one["anonymous"]) == len(one["file-backed"]) == one["requests"] == 12
        assert 12 < one["images"] < 12 * 32
        assert one["previews"] % 6 == 0 and one["previews"]
        assert (f"{backend} {one['growth']:.1%}" in ran.stderr) == (one["growth"] > 0.02)
    assert found["onnxruntime"]["images"] == found["openvino"]["images"], "the same requests"
    assert (ran.returncode != 0) == any(one["growth"] > 0.02 for one in found.values())
    assert (tmp_path / "soak.png").stat().st_size > 5000


def test_growth_is_of_the_last_quarter(soak: ModuleType) -> None:
    assert soak.plateau([*range(1, 101), *[100] * 300])["growth"] == 0, "filling up at first is no growth"
    assert soak.plateau([100 + i // 4 for i in range(400)])["growth"] > 0.02, "a leak is, however slow"
    assert soak.plateau([100, 300] * 200)["growth"] == 0, "nor are ups and downs"
