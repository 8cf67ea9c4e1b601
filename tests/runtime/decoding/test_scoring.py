"""Log-likelihoods by teacher forcing, against PyTorch's and as a classifier."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from helpers import GOLDEN, assert_close, golden_weights
from trt_var import Pipeline, UsageError
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.decoding.models import Models
from trt_var.decoding.scoring import log_likelihoods
from trt_var_export.graphs.reference import TorchBackend

golden = np.load(GOLDEN / "tiny.npz")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The digits that nothing was trained on."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / "digits")
    return importlib.import_module("digits").splits()[1]


@pytest.mark.parametrize("n_draft", [6, 10])
def test_equal_to_pytorch(golden_bundle: Path, n_draft: int) -> None:
    bundle = Bundle.open(golden_bundle)
    torch_backend = TorchBackend({role: golden_weights(role) for role in ("drafter", "refiner")}, golden_weights("vae"))
    tokens = golden["greedy_N8_tokens"].T.astype(np.int64)
    found, expected = (
        log_likelihoods(Models(bundle, backend).chain(n_draft, logits=True), n_draft, tokens, (3, 7))
        for backend in (OnnxRuntime(), torch_backend)
    )
    assert found.shape == (10, 2)
    assert (found < 0).all()
    assert_close(found, expected, absolute=1e-3)


def test_digits_are_told_apart(held: Any) -> None:
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        scores = pipeline.score(held.images[:60], batch_size=50)
        some = pipeline.score(held.images[:2], ["3", 8, 3], n_draft=6)
    assert scores.nats.shape == (60, 10)
    right = (scores.likeliest == held.labels[:60]).mean()
    assert right >= 0.95, f"{right:.3f} of the labels are the likeliest"
    assert some.labels.tolist() == [3, 8]
    assert_close(scores.bits_per_token, scores.nats / scores.tokens.shape[1] / np.log(2))


def test_an_image_scores_the_same_in_any_batch(held: Any) -> None:
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        one, many = (pipeline.score(held.images[:2], batch_size=size) for size in (1, 64))
    assert_close(one.nats, many.nats, relative=1e-5)


def test_refusals(held: Any) -> None:
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        for change, reason in (
            ({"labels": [11]}, "11"),
            ({"labels": []}, "no classes"),
            ({"n_draft": 7}, "n_draft is 7"),
            ({"batch_size": 0}, "batch_size is 0"),
        ):
            with pytest.raises(UsageError, match=reason):
                pipeline.score(held.images[:1], **change)  # type: ignore[arg-type]
        opened = pipeline._models.open()
        models = {role: msgspec.structs.replace(model, logits=None) for role, model in opened.manifest.models.items()}
        opened.manifest = msgspec.structs.replace(opened.manifest, models=models)
        with pytest.raises(UsageError, match="step graphs with logits"):
            pipeline.score(held.images[:1])


def test_command(held: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(held.images[3]).save(tmp_path / "three.png")
    asked = ["score", "--engines", "digits", "--backend", "onnxruntime", str(tmp_path / "three.png")]
    assert main([*asked, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "bits a token" in lines[1]
    assert main([*asked, "--labels", "3,8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == [3, 8]
    assert len(found["nats"][0]) == 2
    assert main([*asked, "--top", "0"]) != 0
    assert main([*asked[:-1], str(tmp_path / "none.png")]) != 0
