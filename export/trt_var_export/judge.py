"""Putting a judge into a bundle: a classifier of real pictures by which drawn ones are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import File, Graph
from trt_var.bundle.opening import Bundle, file_sha256
from trt_var.files.paths import expanded
from trt_var.files.writing import replacing
from trt_var_export.graphs import tracing
from trt_var_export.graphs.modules import Traceable

OPSET = 20


@dataclass(frozen=True)
class RealPictures:
    """What the judge is sure of.

    Attributes:
        reference: uint8 [n, H, W, 3], whose features drawn pictures are compared with.
        accuracy: the judge's own, on real pictures that it was not trained on.
    """

    reference: NDArray[np.uint8]
    accuracy: float


def add_judge(path: Path, model: nn.Module, real: RealPictures) -> None:
    """Write a judge and its reference into a bundle; the manifest, which makes them known, comes last.

    Args:
        path: the bundle.
        model: float32, pictures uint8 [n, H, W, 3] → logits [n, classes] and features [n, F].

    Raises:
        BundleError: no bundle there.
        ExportError: the judge cannot be traced.
    """
    path = expanded(path)
    bundle = Bundle.open(path)
    side = bundle.manifest.image_side
    parameters = {name: name for name, _ in model.named_parameters()}
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    part = Traceable("judge", model.eval(), {"images": images}, {"images": {0: "n"}}, ("logits", "features"), parameters)
    weights = tracing.WeightFile(path / "judge.weights")
    state = model.state_dict()
    traced = tracing.trace(part, OPSET)
    tracing.bind_weights(traced, part, weights, lambda key: state[key].float())
    tracing.save(traced, path / "judge.onnx")
    weights.close()
    with torch.no_grad():
        features = torch.cat([model(chunk)[1] for chunk in torch.from_numpy(real.reference).split(256)]).double().numpy()
    np.savez(path / "judge.npz", mean=features.mean(0), covariance=np.cov(features, rowvar=False))
    files = {
        name: File((path / name).stat().st_size, file_sha256(path / name))
        for name in ("judge.onnx", "judge.weights", "judge.npz")
    }
    judge = manifests.Judge(Graph("judge.onnx", "judge.weights"), "judge.npz", features.shape[1], real.accuracy)
    manifest = msgspec.structs.replace(bundle.manifest, files=bundle.manifest.files | files, judge=judge)
    with replacing(path / manifests.FILE_NAME, follow=False) as file:  # a store of contents keeps its own
        file.write(manifests.encode(manifest))
