"""Which groups of layers bear int8: the error of the guided logits when one group alone is quantised, on equal history."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_var.backends.base import Graph
from trt_var.backends.onnxruntime.cpu import OnnxGraph, OnnxRuntime
from trt_var.bundle.manifest import Role
from trt_var.bundle.opening import Bundle
from trt_var.decoding.chain import Chain
from trt_var.decoding.editing import psnr
from trt_var.decoding.feeds import Request, upload
from trt_var.decoding.loop import decode, render
from trt_var.decoding.sampling import Sampling, uniforms
from trt_var.pipeline import Pipeline
from trt_var_calibration.layers import GROUPS, load
from trt_var_calibration.observe import Observed, open_edited, some_labels
from trt_var_calibration.quantise import Quantisation, quantise

LIMIT = 0.1  # of the logits' standard deviation; groups above it stay in floating point
Walk = tuple[list[NDArray[np.int32]], list[NDArray[np.float32]]]


class LogitsBackend(OnnxRuntime):
    """ONNX Runtime whose step graphs also return their guided logits."""

    loads_aside = False  # as in observe.Observer

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        if path.stem not in ("drafter", "refiner"):
            return super().load(path, exact=exact)
        model = load(path)
        (logits,) = (value for node in model.graph for value in node.outputs if value.name == "guided_logits")
        logits.type = logits.type or ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(logits)
        return OnnxGraph(open_edited(model, path), "cpu")


def walk(bundle: Bundle, labels: tuple[int, ...], n_draft: int, sampling: Sampling, teacher: Walk | None = None) -> Walk:
    """Tokens and guided logits of every scale, [n, B] and [n, B, V]; on another walk's tokens if one is given."""
    with Pipeline(bundle, LogitsBackend()) as pipeline:
        chain = pipeline.chain(n_draft)
        numbers = uniforms(range(len(labels)), bundle.schedule.length)
        forced = None if teacher is None else np.concatenate(teacher[0])
        request = Request(labels, numbers, n_draft, sampling, forced)
        scales = list(decode(chain, n_draft, upload(chain, request), logits=True))
        return [np.asarray(scale.tokens) for scale in scales], [np.asarray(scale.logits) for scale in scales]


def errors(found: Walk, expected: Walk) -> list[float]:
    """Per scale: root mean square difference of the guided logits over their standard deviation."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(found[1], expected[1], strict=True)]
    return [float(np.sqrt(((a - b) ** 2).mean()) / (b.std() or 1)) for a, b in pairs]


def agreement(found: Walk, expected: Walk) -> list[float]:
    """Per scale: share of equal tokens."""
    return [float((a == b).mean()) for a, b in zip(found[0], expected[0], strict=True)]


def psnr_by_scale(bundle: Bundle, found: Walk, expected: Walk) -> list[float]:
    """Per scale, decibels between pictures of equal history in which only this scale's tokens are either walk's own.

    Infinite where all tokens are equal. ``bundle`` is either of the two: their VQVAE is the same.
    """
    backend, manifest = OnnxRuntime(), bundle.manifest
    quantiser = tuple(backend.load(bundle.graph(graph)) for graph in manifest.quantiser)
    chain = Chain(backend, manifest, {}, quantiser, backend.load(bundle.graph(manifest.decoder)))
    side, batch = bundle.schedule.side, expected[0][0].shape[1]
    nothing = np.zeros((batch, manifest.code_width, side, side), np.float32)
    keep, f_hat, decibels = np.zeros((batch, 1, side, side), np.float32), nothing, []
    for scale, graph in enumerate(quantiser):
        pictures = []
        for tokens in (found[0][scale], expected[0][scale]):
            after = np.empty_like(nothing)
            graph.run({"tokens": tokens, "f_hat": f_hat, "kept": nothing, "keep": keep}, {"new_f_hat": after})
            pictures.append(np.asarray(render(chain, after)).reshape(1, -1, 1, 1))
        decibels.append(float(psnr(*pictures)[0]))
        f_hat = after
    return decibels


def sweep(
    bundle: Bundle, observed: Observed, wanted: Quantisation, n_draft: int, sampling: Sampling
) -> Iterator[tuple[Role, str, float]]:
    """Role, group and the worst scale's error when only that group is quantised."""
    labels = some_labels(bundle)
    expected = walk(bundle, labels, n_draft, sampling)
    for role in observed:
        for group in GROUPS:
            with tempfile.TemporaryDirectory(prefix="trt-var-") as folder:
                chosen: dict[Role, tuple[str, ...]] = {"drafter": (), "refiner": ()}
                chosen[role] = (group,)
                quantise(bundle, observed, replace(wanted, groups=chosen), Path(folder))
                found = walk(Bundle.open(folder), labels, n_draft, sampling, expected)
            yield role, group, float(np.max(errors(found, expected)))  # max() would hide what is no number
