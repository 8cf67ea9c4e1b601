"""The bundle inside the package: from the shipped weights, and what the demo draws from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main
from trt_var.quality.evaluation import Judge

WEIGHTS = Path(__file__).parents[3] / "examples" / "digits" / "weights"


def test_bundle_is_built_from_the_shipped_weights() -> None:
    bundle = Bundle.open("digits")
    assert bundle.path == PACKAGED / "digits"
    bundle.verify()
    origins = {"vae": bundle.manifest.vae_origin} | {role: model.origin for role, model in bundle.manifest.models.items()}
    for name, origin in origins.items():
        data = (WEIGHTS / f"{name}.safetensors").read_bytes()
        assert origin == {"path": f"{name}.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) < 8e6
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) < 10e6


def test_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Bundle.open("digits").path == PACKAGED / "digits"
    (tmp_path / "digits").mkdir()
    assert main(["run", "--engines", "digits"]) == 1, "an empty folder is no bundle"


def test_demo_draws_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    assert "100 digits" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "demo.png"))
    images = np.stack(
        [sheet[row : row + 32, column : column + 32] for row in range(0, 340, 34) for column in range(0, 340, 34)]
    )
    seen, _ = Judge(Bundle.open("digits"))(images)
    accuracy = (seen == np.repeat(np.arange(10), 10)).mean()
    assert accuracy >= 0.9, f"{accuracy:.0%} of the drawn digits are read right"
    assert main(["demo", "--out", str(tmp_path / "nowhere" / "demo.png")]) == 1
    assert main(["demo", "--n-draft", "9", "--out", str(tmp_path / "demo.png")]) == 2
