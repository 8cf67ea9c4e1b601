"""What several tests need: small checkpoints, altered bundles, comparisons that say how far apart things are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike

from trt_var.schedule import Schedule
from trt_var_export.models.transformer import TransformerShape
from trt_var_export.models.vqvae import VqvaeShape
from trt_var_export.weights.architecture import parameter_shapes
from trt_var_export.weights.checkpoint import RandomWeights

GOLDEN = Path(__file__).parent / "golden"


def assert_close(found: ArrayLike, expected: ArrayLike, *, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Compare with a tolerance of ``absolute`` + ``relative`` × the largest expected magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    difference = np.abs(found - expected)
    allowed = absolute + relative * np.abs(expected).max(initial=0.0)
    message = f"max difference {difference.max():.3g}, mean {difference.mean():.3g}, allowed {allowed:.3g}"
    assert difference.max() <= allowed, message


def assert_tokens(found: ArrayLike, expected: ArrayLike) -> None:
    """Compare tokens, saying where the first differs."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    wrong = np.argwhere(found != expected)
    assert not len(wrong), f"{len(wrong)} of {found.size} tokens differ, the first at {wrong[0].tolist()}"


def golden_weights(part: str) -> RandomWeights:
    """The golden models' weights; the generator of random weights is the golden fill rule."""
    config = json.loads((GOLDEN / "tiny.json").read_text())
    shapes = {key: tuple(shape) for key, shape in config[part]["parameters"].items()}
    levels = Schedule(tuple(config["patch_nums"])).levels()
    buffers = {} if part == "vae" else {"lvl_1L": torch.tensor([levels])}
    return RandomWeights(shapes, config[part]["seed"], buffers)


def save_checkpoint(weights: RandomWeights, path: Path, nest: str | None = None) -> Path:
    """Write weights as a released checkpoint is: flat, or nested as VAR's training checkpoints are."""
    state: dict[str, Any] = {key: weights.load(key) for key in weights.shapes}
    torch.save({"trainer": {nest: state}, "epoch": 3} if nest else state, path)
    return path


def random_weights(shape: TransformerShape | VqvaeShape, seed: int) -> RandomWeights:
    """Random weights with the buffers of a released checkpoint."""
    buffers = {}
    if isinstance(shape, TransformerShape):
        buffers["lvl_1L"] = torch.tensor([shape.schedule.levels()])
        buffers["attn_bias_for_masking"] = torch.zeros(1, 1, shape.schedule.length, shape.schedule.length)
    else:
        buffers["quantize.ema_vocab_hit_SV"] = torch.zeros(4, shape.vocabulary)
    return RandomWeights(parameter_shapes(shape), seed, buffers)


def expose_logits(bundle: Path, out: Path) -> Path:
    """A copy of a bundle whose step graphs also return their guided logits."""
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "manifest.json").read_text())
    for role in manifest["models"]:
        path = out / f"{role}.onnx"
        model = onnx.load(path, load_external_data=False)
        logits = onnx.helper.make_tensor_value_info("guided_logits", onnx.TensorProto.FLOAT, ["m", "b", "v"])
        model.graph.output.append(logits)
        onnx.save(model, path)
        record(out, manifest, path.name)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle's manifest as parsed JSON."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def record(bundle: Path, manifest: dict[str, Any], name: str) -> None:
    """Enter a changed file's size and hash into a manifest."""
    data = (bundle / name).read_bytes()
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
