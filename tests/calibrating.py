"""The digits, what their layers saw, and what is made of them: shared by the tests beside this."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_var import Sampling
from trt_var.bundle.manifest import FILE_NAME, File, encode
from trt_var.bundle.opening import PACKAGED, Bundle, file_sha256
from trt_var_calibration.observe import Observed, observe
from trt_var_calibration.quantise import Quantisation, quantise

N = 4
LABELS = (0, 3, 6, 9)
SETTINGS = Sampling(cfg=1.5, top_k=200)


def open_digits() -> Bundle:
    return Bundle.open(PACKAGED / "digits")


@cache
def seen() -> Observed:
    return observe(open_digits(), N, 20, SETTINGS)


def quantised(bundle: Bundle, observed: Observed, folder: Path, **change: object) -> Bundle:
    folder.mkdir()
    quantise(bundle, observed, Quantisation(**change), folder)  # type: ignore[arg-type]
    return Bundle.open(folder)


Weights = dict[str, NDArray[Any]]
Plant = Callable[[Weights, NDArray[Any]], object]


def planted(bundle: Bundle, out: Path, plant: Plant) -> Bundle:
    """A copy whose step graphs' float initialisers, by name, and class tables were changed in place, model by model."""
    changed = {
        name for model in bundle.manifest.models.values() for name in (model.step.onnx, model.step.weights, model.conditions)
    }
    shutil.copytree(bundle.path, out, ignore=lambda _, names: changed & set(names))
    for model in bundle.manifest.models.values():
        graph, table = ir.load(bundle.graph(model.step)), np.load(bundle.file(model.conditions))
        values = graph.graph.initializers
        weights = {name: one.const_value.numpy().copy() for name, one in values.items() if one.const_value is not None}
        plant({name: value for name, value in weights.items() if value.dtype.kind == "f"}, table)
        for name, value in weights.items():
            values[name].const_value = ir.tensor(value, name=name)
        ir.save(graph, out / model.step.onnx, external_data=model.step.weights, size_threshold_bytes=1024)
        np.save(out / model.conditions, table)
    files = {name: File((out / name).stat().st_size, file_sha256(out / name)) for name in sorted(changed)}
    models = {role: msgspec.structs.replace(model, logits=None) for role, model in bundle.manifest.models.items()}
    described = msgspec.structs.replace(bundle.manifest, files={**bundle.manifest.files, **files}, models=models)
    (out / FILE_NAME).write_bytes(encode(described))
    return Bundle.open(out)
