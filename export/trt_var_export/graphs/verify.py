"""The numeric gate: every exported graph against the torch model, scale by scale, before a bundle is written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trt_var.backends.onnxruntime.cpu import OnnxGraph
from trt_var.bundle.manifest import HEAD_WIDTH
from trt_var.errors import ExportError
from trt_var_export.graphs.conditions import condition_columns
from trt_var_export.graphs.modules import Step, Traceable, cache_names, step_parameters
from trt_var_export.models.sampler import draw
from trt_var_export.models.transformer import Transformer, TransformerShape
from trt_var_export.weights.architecture import unfilled

log = logging.getLogger(__name__)
BATCH = 2
# Largest difference of guided logits over their standard deviation; the references deviate by 4 at golden weights
LOGITS_TOLERANCE = {"fp32": 2.5e-4, "bf16": 2.5e-4, "fp16": 5e-2}
# Largest difference of keys and values over the standard deviation of the values
CACHE_TOLERANCE = {"fp32": 2.5e-4, "bf16": 2.5e-4, "fp16": 5e-2}
MODULE_TOLERANCE = {"fp32": 1e-3, "bf16": 1e-3, "fp16": 5e-2}
# Smallest share of equally drawn tokens: a draw may tip where rounding crosses a boundary, a few of a small scale as well
TOKEN_AGREEMENT = {"fp32": 0.99, "bf16": 0.99, "fp16": 0.8}
TIPPED = 2


@dataclass(frozen=True)
class ScaleError:
    """How far a graph is from the torch model at one scale."""

    model: str
    scale: int
    logits_max: float
    logits_mean: float
    cache_max: float
    cache_mean: float
    tokens_equal: float


@dataclass(frozen=True)
class _Reference:
    """Inputs of one scale and what the torch model makes of them."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


def fill_transformer(shape: TransformerShape, load: Callable[[str], Tensor]) -> Transformer:
    """A float32 transformer with its weights, without the layers that the condition table replaces."""
    model = unfilled(shape)
    state = {key: load(key) for key in step_parameters(model)}
    model.load_state_dict(state, strict=False, assign=True)
    model.set_levels()
    return model


def reference_scales(shape: TransformerShape, load: Callable[[str], Tensor], max_top_k: int) -> list[_Reference]:
    """Run the torch model in float32 over all scales, two labels, random features and sampling settings of each."""
    model = Step(fill_transformer(shape, load), max_top_k)
    rng = np.random.default_rng(0)
    labels = [0, shape.classes - 1, shape.classes, shape.classes]
    conditions = torch.cat([columns for _, columns in condition_columns(shape, load, labels)], 1)
    size = (shape.schedule.length, 2 * BATCH, shape.heads, HEAD_WIDTH)
    caches = [torch.empty(size) for _ in range(2 * shape.depth)]
    found = []
    for scale in range(shape.schedule.scales):
        n, span = shape.schedule.tokens(scale), shape.schedule.span(scale)
        features = rng.standard_normal((n, BATCH, shape.code_width), np.float32) * np.float32(0.5 if scale else 0.0)
        inputs = {
            "features": torch.from_numpy(features),
            "conditions": conditions,
            "uniforms": torch.from_numpy(rng.random((n, BATCH), np.float32)),
            "guidance": torch.tensor([[1.5, 4.0]]) * scale / max(shape.schedule.scales - 1, 1),
            "temperature": torch.tensor([[1.0, 1.1]]),
            "top_p": torch.tensor([[0.96, 1.0]]),
            "top_k": torch.tensor([[min(600, model.width), model.width]], dtype=torch.int32),
        }
        past = [cache[: span.start] for cache in caches]
        with torch.no_grad():
            logits, new = model.logits(inputs["features"], conditions, inputs["guidance"], past, n)
            _check_finite("the torch model's", scale, logits.numpy(), "fp32")
            settings = {key: inputs[key] for key in ("uniforms", "top_k", "top_p", "temperature")}
            tokens = draw(logits, **settings, width=model.width)
        for cache, piece in zip(caches, new, strict=True):
            cache[span] = piece
        inputs |= dict(zip(cache_names("past", shape.depth), past, strict=True))
        outputs = {"tokens": tokens, "guided_logits": logits}
        outputs |= {name: cache[span] for name, cache in zip(cache_names("new", shape.depth), caches, strict=True)}
        found.append(_Reference(_numpy(inputs), _numpy(outputs)))
    return found


def compare_step(
    name: str, graph: Path, references: list[_Reference], precision: str, progress: Callable[[], None]
) -> list[ScaleError]:
    """Run the exported graph on the same inputs.

    Raises:
        ExportError: a difference above the tolerance, with the scale and the figures.
    """
    session = open_session(graph)
    dtype = np.float16 if precision == "fp16" else np.float32
    errors = []
    for scale, reference in enumerate(references):
        inputs = {
            key: value.astype(dtype, copy=False) if key.startswith("past") else value
            for key, value in reference.inputs.items()
        }
        outputs = {
            key: np.empty(value.shape, dtype if key.startswith("new") else value.dtype)
            for key, value in reference.outputs.items()
        }
        session.run(inputs, outputs)
        errors.append(_scale_error(name, scale, reference.outputs, outputs, precision))
        progress()
    return errors


def check_first_scale(name: str, graph: Path, table: Path, shape: TransformerShape, precision: str) -> None:
    """Run the exported graph's first scale on two labels, where nothing else compares it.

    Args:
        table: the condition table.

    Raises:
        ExportError: the logits are not finite.
    """
    n, vocabulary = shape.schedule.tokens(0), shape.vocabulary
    dtype = np.float16 if precision == "fp16" else np.float32
    rows = [0, shape.classes - 1, shape.classes, shape.classes]
    inputs = {
        "features": np.zeros((n, BATCH, shape.code_width), np.float32),
        "conditions": np.load(table, mmap_mode="r")[rows].astype(np.float32),
        "uniforms": np.zeros((n, BATCH), np.float32),
        "guidance": np.zeros((1, BATCH), np.float32),
        "temperature": np.ones((1, BATCH), np.float32),
        "top_p": np.ones((1, BATCH), np.float32),
        "top_k": np.ones((1, BATCH), np.int32),
    }
    pieces = {kind: cache_names(kind, shape.depth) for kind in ("past", "new")}
    inputs |= {key: np.zeros((0, 2 * BATCH, shape.heads, HEAD_WIDTH), dtype) for key in pieces["past"]}
    outputs = {key: np.empty((n, 2 * BATCH, shape.heads, HEAD_WIDTH), dtype) for key in pieces["new"]}
    logits = np.empty((n, BATCH, vocabulary), np.float32)
    open_session(graph).run(inputs, {"tokens": np.empty((n, BATCH), np.int32), "guided_logits": logits, **outputs})
    _check_finite(f"the {name}'s", 0, logits, precision)


def _check_finite(whose: str, scale: int, logits: NDArray[Any], precision: str) -> None:
    if not np.isfinite(logits).all():
        half = precision == "fp16"
        limit = "float16's 65504; build with --precision fp32" if half else "float32's range; they are damaged, or of no use"
        raise ExportError(f"{whose} logits at scale {scale} are not finite: what these weights compute is beyond {limit}")


def compare_module(graph: Traceable, path: Path, precision: str) -> dict[str, float]:
    """Compare a graph of the VQVAE with its filled module, on random inputs where the example's are zero.

    Raises:
        ExportError: a float output off by more than the tolerance times its standard deviation, a picture value by
            more than 2, or more than 1 % of the tokens unequal.
    """
    inputs = {name: value if value.any() else _random_like(value) for name, value in graph.inputs.items()}
    with torch.no_grad():
        computed = graph.module(*inputs.values())
    named = zip(graph.outputs, computed if isinstance(computed, tuple) else (computed,), strict=True)
    expected = _numpy(dict(named))
    outputs = {name: np.empty(value.shape, value.dtype) for name, value in expected.items()}
    open_session(path).run(_numpy(inputs), outputs)
    found = {}
    for name, value in expected.items():
        difference = np.abs(outputs[name].astype(np.float64) - value)
        if value.dtype == np.uint8:
            found[name], limit = float(difference.max()), 2.0
        elif value.dtype.kind == "i":
            found[name], limit = float((difference > 0).mean()), 0.01
        else:
            found[name], limit = float(difference.max() / max(value.std(), 1e-6)), MODULE_TOLERANCE[precision]
        if name == "f_hats" and found["tokens"] > 0:
            continue  # one unequal token changes all that follows
        if not found[name] <= limit:
            raise ExportError(f"{graph.name}: {name} differs from the torch model by {found[name]:.3g}, allowed {limit:.3g}")
    return found


def _random_like(value: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator) * 0.5
    return torch.randint(0, 64, value.shape, generator=generator, dtype=value.dtype)  # tokens of the smallest codebooks


def open_session(path: Path) -> OnnxGraph:
    """An ONNX Runtime session that reads weights where they lie instead of keeping packed or widened copies of them."""
    import onnxruntime as ort  # a build without comparison needs no engine

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")
    without = ["ConstantFolding"]  # it would widen all weights that are in bfloat16
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=without)
    return OnnxGraph(session, "cpu")


def _scale_error(
    name: str, scale: int, expected: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]], precision: str
) -> ScaleError:
    _check_finite(f"the {name}'s", scale, found["guided_logits"], precision)
    logits, deviation = _difference(expected["guided_logits"], found["guided_logits"])
    caches = [_difference(expected[key], found[key]) for key in expected if key.startswith("new")]
    error = ScaleError(
        name,
        scale,
        float(logits.max() / deviation),
        float(logits.mean() / deviation),
        max(float(difference.max() / spread) for difference, spread in caches),
        float(np.mean([difference.mean() / spread for difference, spread in caches])),
        float((expected["tokens"] == found["tokens"]).mean()),
    )
    log.debug("%s", error)
    tipped = (1 - error.tokens_equal) * expected["tokens"].size
    within = (
        error.logits_max <= LOGITS_TOLERANCE[precision]
        and error.cache_max <= CACHE_TOLERANCE[precision]
        and (error.tokens_equal >= TOKEN_AGREEMENT[precision] or round(tipped) <= TIPPED)
    )
    if not within:
        raise ExportError(
            f"the {name}'s graph disagrees with the torch model at scale {scale}: {asdict(error)}; allowed logits "
            f"{LOGITS_TOLERANCE[precision]}, cache {CACHE_TOLERANCE[precision]}, tokens {TOKEN_AGREEMENT[precision]} or "
            f"all but {TIPPED}"
        )
    return error


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    return np.abs(expected.astype(np.float32) - found.astype(np.float32)), max(float(expected.std()), 1e-6)


def _numpy(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: value.detach().numpy() for name, value in tensors.items()}
