"""Bundle + statistics → bundle with products of eight bits: explicit Q/DQ around the linear layers that gain from it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import File, Graph, Model, Role
from trt_var.bundle.opening import Bundle, file_sha256
from trt_var.errors import DataError, UsageError
from trt_var_calibration import migrate
from trt_var_calibration.decoder import quantise_decoder
from trt_var_calibration.grids import GRIDS
from trt_var_calibration.layers import GROUPS, Layer, layers, load
from trt_var_calibration.migrate import FOLDED, Floats, Plan, quantise_weight
from trt_var_calibration.observe import Observed, check_float
from trt_var_calibration.statistics import METHODS, Statistics

log = logging.getLogger(__name__)
Mode = Literal["int8", "fp8", "weights"]
SEARCHED = 4  # layers of a group, evenly spread, among which α is searched


@dataclass(frozen=True)
class Quantisation:
    """What to quantise, and how.

    Attributes:
        mode: ``int8`` or ``fp8`` (E4M3) products of activations and weights, or ``weights`` alone in int8.
        method: ``minmax``, ``percentile`` or ``entropy``, for inputs without migration.
        alpha: share of the outliers that moves into the weights; None to search for it, 0 for none.
        groups: of linear layers that are quantised, by role.
    """

    mode: Mode = "int8"
    method: str = "percentile"
    alpha: float | None = None
    groups: Mapping[Role, tuple[str, ...]] | None = None

    def check(self) -> None:
        """Raises UsageError for a value that there is not."""
        if self.method not in METHODS:
            raise UsageError(f"method is {self.method!r}; expected {', '.join(METHODS)}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha}; expected 0 to 1")
        unknown = {group for groups in (self.groups or {}).values() for group in groups} - set(GROUPS)
        if unknown:
            raise UsageError(f"there is no group {', '.join(sorted(unknown))}; expected {', '.join(GROUPS)}")


def quantise(
    bundle: Bundle,
    observed: Observed,
    wanted: Quantisation,
    folder: Path,
    progress: Callable[[], object] = lambda: None,
    maps: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Write a quantised bundle into an empty folder, manifest last.

    Args:
        bundle: what to quantise.
        observed: of a float32 bundle of the same weights.
        wanted: how.
        folder: where to.
        progress: called after every layer.
        maps: f_hat [n, Z, P, P] of finished images: the decoder's convolutions are int8 too, with ranges from these.

    Returns:
        What report.json says: α, scale and error by layer, and the decoder's PSNR.

    Raises:
        UsageError, DataError: a value out of range; a bundle that is quantised already; statistics that lack a layer.
    """
    wanted.check()
    manifest = bundle.manifest
    if manifest.quantised:
        raise UsageError(f"{bundle.path} is quantised already; take the bundle that it was made from")
    check_float(bundle)
    changed = {
        name for model in manifest.models.values() for name in (model.step.onnx, model.step.weights, model.conditions)
    }
    changed |= {model.logits.onnx for model in manifest.models.values() if model.logits}  # of the float weights
    changed |= set() if maps is None else {manifest.decoder.onnx, manifest.decoder.weights}
    for name in manifest.files.keys() - changed - {manifest.report}:
        shutil.copyfile(bundle.file(name), folder / name)
    report: dict[str, Any] = {"mode": wanted.mode, "method": wanted.method, "layers": {}}
    chosen: dict[Literal["drafter", "refiner", "decoder"], dict[str, str]] = {}
    for role, model in manifest.models.items():
        groups = GROUPS if wanted.groups is None else wanted.groups.get(role, GROUPS)
        step = _Step(bundle, role, model, observed.get(role, {}), wanted, groups)
        step.write(folder, progress)
        report["layers"][role] = step.report
        chosen[role] = {group: wanted.mode if group in groups else "float" for group in GROUPS}
    if maps is not None:
        report["decoder"] = {"psnr": quantise_decoder(bundle, maps, folder)}
        chosen["decoder"] = {"convolutions": "int8"}
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    files = {name: File((folder / name).stat().st_size, file_sha256(folder / name)) for name in names}
    models = {role: msgspec.structs.replace(model, logits=None) for role, model in manifest.models.items()}
    described = msgspec.structs.replace(manifest, files=files, models=models, report="report.json", quantised=chosen)
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(described))
    return report


class _Step:
    """One transformer on its way."""

    def __init__(
        self,
        bundle: Bundle,
        role: Role,
        model: Model,
        observed: Mapping[str, Statistics],
        wanted: Quantisation,
        groups: tuple[str, ...],
    ) -> None:
        self._model, self._observed, self._wanted, self._groups = model, observed, wanted, groups
        self._role = role
        self._graph = load(bundle.graph(Graph(model.step.onnx, model.step.weights)))
        self._table: NDArray[Any] = np.array(bundle.conditions(role))
        self._layers = layers(self._graph)
        self._type = self._layers[0].weight.const_value.dtype  # type: ignore[union-attr]
        self._grid = replace(GRIDS[wanted.mode], scales=np.dtype(self._type.numpy()))
        self.report: dict[str, dict[str, float]] = {}

    def write(self, folder: Path, progress: Callable[[], object]) -> None:
        layers = [layer for layer in self._layers if layer.group in self._groups]
        if self._wanted.mode != "weights":
            self._check_statistics(layers)
        alphas = {group: self._alpha([layer for layer in layers if layer.group == group]) for group in self._groups}
        for layer in self._fold_order(layers):
            self._quantise(layer, alphas[layer.group])
            progress()
        np.save(folder / self._model.conditions, self._table)
        ir.save(
            self._graph, folder / self._model.step.onnx, external_data=self._model.step.weights, size_threshold_bytes=1024
        )

    def _check_statistics(self, layers: list[Layer]) -> None:
        missing = [layer.name for layer in layers if layer.name not in self._observed]
        if missing:
            raise DataError(f"the statistics lack {', '.join(missing[:3])}: calibrate with an N that uses both models")
        for layer in layers:
            found, expected = self._observed[layer.name], len(_floats(layer.weight))
            if found.channels.shape != (expected,) or found.rows.shape[1:] != (expected,):
                raise DataError(f"the statistics of {layer.name} are not of {expected} channels: damaged; calibrate again")

    def _fold_order(self, layers: list[Layer]) -> list[Layer]:
        """Proj before qkv: its factors change the columns of qkv's weight."""
        return sorted(layers, key=lambda layer: layer.group != "proj")

    def _alpha(self, layers: list[Layer]) -> float:
        if self._wanted.mode == "weights" or not layers or layers[0].group not in FOLDED:
            return 0.0
        if self._wanted.alpha is not None:
            return self._wanted.alpha
        some = layers[:: -(-len(layers) // SEARCHED)]
        return migrate.best_alpha(
            [(self._observed[layer.name], _floats(layer.weight)) for layer in some], self._wanted.method, self._grid
        )

    def _quantise(self, layer: Layer, alpha: float) -> None:
        weight = _floats(layer.weight)
        if not np.isfinite(weight).all():
            raise DataError(
                f"{layer.name}.weight of the {self._role} is not finite: build the bundle again from whole weights"
            )
        if self._wanted.mode != "weights":
            found = self._plan(layer, weight, alpha)
            if found.factors is not None:
                weight = weight * found.factors[:, None]
            if found.scale:
                self._quantise_input(layer, found)
            self.report[layer.name] = {"alpha": found.alpha, "scale": found.scale, "error": found.error}
        quantised, scale = quantise_weight(weight, self._grid)
        self._dequantise_weight(layer, quantised, scale)

    def _plan(self, layer: Layer, weight: Floats, alpha: float) -> Plan:
        """How a layer is quantised, with its factors in the table or the layer before, if their type has room for them."""
        statistics, method = self._observed[layer.name], self._wanted.method
        found = migrate.plan(statistics, weight, alpha, method, self._grid)
        if found.factors is not None and not self._divide_input(layer, found.factors):
            log.warning(
                "%s of the %s: moving its outliers would go beyond %s; left as they are", layer.name, self._role, self._type
            )
            found = migrate.plan(statistics, weight, 0.0, method, self._grid)
        if not found.scale:
            log.warning("%s of the %s had nothing but zeros as input: its weights alone are rounded", layer.name, self._role)
        if not np.isfinite(found.scale):
            largest = float(statistics.channels.max())
            raise DataError(
                f"the input of {layer.name} in the {self._role} reaches {largest:g}, beyond {self._type}: take float32"
            )
        return found

    def _divide_input(self, layer: Layer, factors: Floats) -> bool:
        """Fold the factors; False, with nothing changed, where the results are beyond their type."""
        if layer.group == "proj":
            return self._divide_values(layer, factors)
        first = 1 + 6 * self._model.depth if layer.block is None else 1 + 6 * layer.block
        scale, shift = {"qkv": (2, 4), "fc1": (3, 5), "head": (0, 1)}[layer.group]
        table = self._table
        with np.errstate(over="ignore"):
            scales = ((1 + table[:, first + scale].astype(np.float32)) / factors - 1).astype(table.dtype)
            shifts = (table[:, first + shift].astype(np.float32) / factors).astype(table.dtype)
        fits = bool(np.isfinite(scales).all() and np.isfinite(shifts).all())
        if fits:
            table[:, first + scale], table[:, first + shift] = scales, shifts
        return fits

    def _divide_values(self, layer: Layer, factors: Floats) -> bool:
        """The columns of qkv's weight that make values, and their bias."""
        prefix, width = layer.name.removesuffix("proj"), len(factors)
        values, changed = self._graph.graph.initializers, {}
        for name, part in ((f"{prefix}mat_qkv.weight.T", np.s_[:, 2 * width :]), (f"{prefix}v_bias", np.s_[:])):
            content = _floats(values[name]).copy()
            with np.errstate(over="ignore"):
                content[part] = content[part] / factors
                changed[name] = content.astype(self._type.numpy())
        fits = all(np.isfinite(content).all() for content in changed.values())
        for name, content in changed.items() if fits else ():
            values[name].const_value = ir.tensor(content, name=name)
        return fits

    def _quantise_input(self, layer: Layer, found: Plan) -> None:
        scale = self._constant(f"{layer.name}.input.scale", np.array(found.scale, self._type.numpy()))
        zero = self._constant(f"{layer.name}.input.zero", np.array(0, self._grid.dtype))
        quantise = ir.node("QuantizeLinear", [layer.activation, scale, zero], name=f"{layer.name}.quantise")
        dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], name=f"{layer.name}.dequantise")
        self._graph.graph.insert_before(layer.node, [quantise, dequantise])
        layer.node.replace_input_with(0, dequantise.outputs[0])

    def _dequantise_weight(self, layer: Layer, quantised: NDArray[Any], scale: Floats) -> None:
        old = layer.weight
        weight = self._constant(f"{layer.name}.weight.quantised", quantised)
        scales = self._constant(f"{layer.name}.weight.scale", scale.astype(self._type.numpy()))
        zeros = self._constant(f"{layer.name}.weight.zero", np.zeros(scale.shape, self._grid.dtype))
        dequantise = ir.node(
            "DequantizeLinear", [weight, scales, zeros], {"axis": 1}, name=f"{layer.name}.weight.dequantise"
        )
        self._graph.graph.insert_before(layer.node, [dequantise])
        layer.node.replace_input_with(1, dequantise.outputs[0])
        del self._graph.graph.initializers[str(old.name)]

    def _constant(self, name: str, content: NDArray[Any]) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(content, name=name))
        value.shape, value.type = ir.Shape(content.shape), ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
        self._graph.graph.register_initializer(value)
        return value


def _floats(value: ir.Value) -> Floats:
    if value.const_value is None:
        raise DataError(f"{value.name} is not a constant")
    found: Floats = value.const_value.numpy().astype(np.float32)
    return found
