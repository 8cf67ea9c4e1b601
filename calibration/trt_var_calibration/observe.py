"""Statistics from the decoding chain: labels × seeds drawn through drafter and refiner, both branches of the guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from trt_var.backends.base import Buffer, Graph
from trt_var.backends.onnxruntime.cpu import OnnxGraph, OnnxRuntime
from trt_var.bundle import external
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.opening import Bundle
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.pipeline import Pipeline
from trt_var.requests.seeds import check_range
from trt_var.schedule import Schedule
from trt_var_calibration.layers import Layer, layers, load
from trt_var_calibration.statistics import Statistics

Observed = dict[Role, dict[str, Statistics]]
MEMORY = 2e9  # bytes of activations that one pass may hand out
FEWEST = 2
SOME = 4  # labels
MOST = 4096


def some_labels(bundle: Bundle) -> tuple[int, ...]:
    """A few labels, spread over the classes: what errors and the decoder's ranges are taken from."""
    count = min(bundle.manifest.classes, SOME)
    return tuple(i * bundle.manifest.classes // count for i in range(count))


def open_edited(model: ir.Model, path: Path) -> ort.InferenceSession:
    """A session of a graph that was changed in memory, with the weights beside the file that it came from."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    edited, folder = ir.to_proto(model).SerializeToString(), path.parent
    if linked := external.through_link(path):
        edited, folder = external.relocated(edited, linked[1].name), linked[1].parent
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(edited, options, providers=["CPUExecutionProvider"])


class ProbedGraph(OnnxGraph):
    """A step graph whose layers' inputs are outputs too."""

    def __init__(self, path: Path, statistics: dict[str, Statistics]) -> None:
        model = load(path)
        self._statistics = statistics
        self._layers: dict[str, Layer] = {}
        self._role = path.stem
        for layer in layers(model):
            value = layer.activation
            value.type = value.type or ir.TensorType(layer.weight.dtype or ir.DataType.FLOAT)
            model.graph.outputs.append(value)
            self._layers[str(value.name)] = layer
            statistics.setdefault(layer.name, Statistics(int(layer.weight.shape[0])))  # type: ignore[index, arg-type]
        super().__init__(open_edited(model, path), "cpu")

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        values = self.run_with(inputs, outputs, self._layers)[len(outputs) :]
        for layer, value in zip(self._layers.values(), values, strict=True):
            self._statistics[layer.name].add(layer.name, value.numpy(), f" in the {self._role}")


class Observer(OnnxRuntime):
    """ONNX Runtime that watches the transformers."""

    loads_aside = False  # one model in memory at a time while it is edited

    def __init__(self, before: Observed) -> None:
        super().__init__()
        self.observed = before

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        if path.stem not in ("drafter", "refiner"):
            return super().load(path, exact=exact)
        role: Role = "drafter" if path.stem == "drafter" else "refiner"
        return ProbedGraph(path, self.observed.setdefault(role, {}))


def check_float(bundle: Bundle) -> None:
    """Raises UsageError for a bundle whose weights are short already."""
    if bundle.manifest.precision == "bf16":
        raise UsageError(f"{bundle.path} keeps its weights in bfloat16; take the float32 bundle of the same weights")


def observe(
    bundle: Bundle,
    n_draft: int,
    samples: int,
    sampling: Sampling,
    seed: int = 0,
    before: tuple[int, Observed] = (0, {}),
    keep: Callable[[int, Observed], object] = lambda done, observed: None,
) -> Observed:
    """Draw ``samples`` images of evenly spread classes and remember what the layers saw, every token counting once.

    Args:
        before: how many of them an earlier run has drawn, and what it saw, to go on from.
        keep: called after every batch with how many are done, and what was seen so far.

    Raises:
        UsageError: too few or too many samples; an N or a setting out of range; a bundle that is quantised already.
        DataError: an activation that is not finite, with its layer's name.
    """
    if not FEWEST <= samples <= MOST:
        raise UsageError(f"{samples} samples; calibration takes {FEWEST} to {MOST}, and some dozens to be of use")
    check_range(seed, seed + samples - 1)
    done, found = before
    manifest, backend, size = bundle.manifest, Observer(dict(found)), _batch(bundle.manifest)
    if manifest.quantised:
        raise UsageError(f"{bundle.path} is quantised already; calibrate the bundle that it was made from")
    check_float(bundle)
    few = samples < manifest.classes
    labels = [i * manifest.classes // samples if few else i % manifest.classes for i in range(samples)]
    with Pipeline(bundle, backend) as pipeline:
        for start in range(done, samples, size):
            batch = labels[start : start + size]
            pipeline.generate(batch, seeds=seed + start, n_draft=n_draft, sampling=sampling, batch_size=size)
            keep(start + len(batch), backend.observed)
    return backend.observed


def _batch(manifest: Manifest) -> int:
    """As many images at once as memory allows: a pass hands out every layer's input."""
    tokens = Schedule(manifest.schedule).length
    image = max(2 * tokens * 7 * model.width * model.depth * 4 for model in manifest.models.values())
    return int(max(1, min(8, MEMORY // image)))
