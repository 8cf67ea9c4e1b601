"""FID through torch-fidelity."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trt_var.cli.main import main

FILES = ["eval", "--engines", "digits", "--per-class", "2", "--backend", "onnxruntime"]


def test_fidelity_gets_pictures_and_the_real_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity itself is a stand-in here: its weights are a download."""
    asked = {}

    class StandIn:
        @staticmethod
        def calculate_metrics(input1: str, input2: str, **options: bool) -> dict[str, float]:
            asked.update(drawn=len(list(Path(input1).glob("*.png"))), real=input2, **options)
            return {"frechet_inception_distance": 1.5}

    monkeypatch.setitem(sys.modules, "torch_fidelity", StandIn)
    assert main([*FILES, "--fidelity", str(tmp_path), "--json", str(tmp_path / "report.json")]) == 0
    assert (asked["drawn"], asked["real"], asked["fid"], asked["isc"]) == (20, str(tmp_path), True, True)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == {"frechet_inception_distance": 1.5}
