"""What outlier channels cost under min-max, and what of that migration recovers.

``python benchmarks/outliers.py engines/d16 --calibrate 4`` plants outliers into a copy whose function is unchanged: some
channels of the AdaLN outputs ×50 in the class table, ÷50 in the weights behind them. Losses are differences of the guided
logits on equal history, in standard deviations, of the worst scale.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from trt_var.bundle.manifest import FILE_NAME, File, Model, default_n_draft, encode
from trt_var.bundle.opening import Bundle, file_sha256
from trt_var.decoding.sampling import Sampling, preset
from trt_var_calibration.layers import layers
from trt_var_calibration.observe import observe, some_labels
from trt_var_calibration.quantise import Quantisation, quantise
from trt_var_calibration.sensitivity import errors, walk

SCALE, CHANNELS = 50, 3
ROWS = {"qkv": (2, 4), "fc1": (3, 5)}  # of a block's six condition vectors: scale and shift before these layers


@dataclass(frozen=True)
class Losses:
    """Of the copy as it is, of the bundle in int8, of the copy in int8 without migration and with."""

    function: float
    clean: float
    plain: float
    migrated: float

    @property
    def recovered(self) -> float:
        """The share of what outliers cost that migration brings back."""
        return (self.plain - self.migrated) / (self.plain - self.clean)


def plant(bundle: Bundle, out: Path) -> Bundle:
    """A copy of a float32 bundle with outliers and the same function."""
    models = bundle.manifest.models
    changed = {name for model in models.values() for name in (model.step.onnx, model.step.weights, model.conditions)}
    shutil.copytree(bundle.path, out, ignore=lambda _, names: changed & set(names))
    for model in models.values():
        _plant(bundle, model, out)
    files = {name: File((out / name).stat().st_size, file_sha256(out / name)) for name in sorted(changed)}
    manifest = msgspec.structs.replace(bundle.manifest, files={**bundle.manifest.files, **files})
    (out / FILE_NAME).write_bytes(encode(manifest))
    return Bundle.open(out)


def _plant(bundle: Bundle, model: Model, out: Path) -> None:
    graph, table = ir.load(bundle.graph(model.step)), np.load(bundle.file(model.conditions))
    channels = np.ones(model.width, np.float32)
    channels[np.arange(1, CHANNELS + 1) * model.width // (CHANNELS + 1)] = SCALE
    for layer in layers(graph):
        if layer.group in ROWS:
            scale, shift = (1 + 6 * layer.block + row for row in ROWS[layer.group])
            table[:, scale] = (1 + table[:, scale]) * channels - 1
            table[:, shift] *= channels
            weight = layer.weight.const_value.numpy() / channels[:, None]
            layer.weight.const_value = ir.tensor(weight.astype(np.float32), name=layer.weight.name)
    ir.save(graph, out / model.step.onnx, external_data=model.step.weights)
    np.save(out / model.conditions, table)


def losses(bundle: Bundle, folder: Path, n_draft: int, samples: int, sampling: Sampling) -> Losses:
    """Plant, calibrate on ``samples`` images and compare; ``folder`` takes three copies of the bundle."""
    labels = some_labels(bundle)
    expected = walk(bundle, labels, n_draft, sampling)

    def loss(other: Bundle) -> float:
        return max(errors(walk(other, labels, n_draft, sampling, expected), expected))

    planted = plant(bundle, folder / "planted")
    found = [loss(planted)]
    seen = {one.path: observe(one, n_draft, samples, sampling) for one in (bundle, planted)}
    for i, (one, alpha) in enumerate(((bundle, 0.0), (planted, 0.0), (planted, None))):
        out = folder / str(i)
        out.mkdir()
        quantise(one, seen[one.path], Quantisation(method="minmax", alpha=alpha), out)
        found.append(loss(Bundle.open(out)))
        shutil.rmtree(out)
    return Losses(*found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="in float32")
    parser.add_argument("--n-draft", type=int)
    parser.add_argument("--calibrate", type=int, default=8, help="images (default: %(default)s)")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    manifest = bundle.manifest
    n_draft = default_n_draft(manifest) if options.n_draft is None else options.n_draft
    sampling = preset("default", len(manifest.schedule), manifest.vocabulary)
    with tempfile.TemporaryDirectory(prefix="trt-var-") as folder:
        found = losses(bundle, Path(folder), n_draft, options.calibrate, sampling)
    print(f"the copy's own difference (0 but for rounding): {found.function:.2g}")
    print(f"int8 by min-max: {found.clean:.3f} before, {found.plain:.3f} with outliers, {found.migrated:.3f} with migration")
    print(f"recovered by migration: {found.recovered:.1%} of what outliers cost")


if __name__ == "__main__":
    main()
