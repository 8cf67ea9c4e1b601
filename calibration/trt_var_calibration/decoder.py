"""int8 convolutions for the VQVAE's decoder, with ranges from what the chain draws: a choice of its own."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.bundle.manifest import Graph
from trt_var.bundle.opening import Bundle
from trt_var.decoding.chain import Chain
from trt_var.decoding.editing import psnr
from trt_var.decoding.feeds import Request, upload
from trt_var.decoding.loop import decode, render
from trt_var.decoding.sampling import Sampling, uniforms
from trt_var.pipeline import Pipeline
from trt_var_calibration.observe import some_labels


def drawn_maps(bundle: Bundle, n_draft: int, sampling: Sampling, seed: int) -> NDArray[np.float32]:
    """f_hat of a few finished images, spread over the classes [n, Z, P, P]."""
    labels = some_labels(bundle)
    with Pipeline(bundle, OnnxRuntime()) as pipeline:
        chain = pipeline.chain(n_draft)
        numbers = uniforms(range(seed, seed + len(labels)), bundle.schedule.length)
        *_, last = decode(chain, n_draft, upload(chain, Request(labels, numbers, n_draft, sampling)))
        return np.asarray(last.f_hat)


def quantise_decoder(bundle: Bundle, maps: NDArray[np.float32], folder: Path) -> float:
    """Write ``decoder.onnx`` and its weights with int8 convolutions into a folder.

    Symmetric int8 by tensor for what goes in and comes out, by channel for weights, biases in float32. ONNX Runtime
    multiplies in int8 only where a convolution's output is quantised too. Between them the graph keeps its type. The first
    convolution and the last stay as they are: the last one's error is the largest, and both cost no time (docs/int8.md).

    Args:
        bundle: float32 or float16, whose decoder; ONNX Runtime runs it for the ranges.
        maps: f_hat [n, Z, P, P] that the ranges come from.
        folder: where the files go; files of these names are replaced.

    Returns:
        PSNR of the pictures of ``maps`` against the float decoder's, in decibels, over all of them.
    """
    # it imports tools of onnx, which take a second
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = bundle.manifest.decoder
    with _quiet(), tempfile.TemporaryDirectory(prefix="trt-var-") as scratch:
        quantised, given = Path(scratch) / "decoder.onnx", Path(scratch) / "float"
        given.mkdir()
        for path in (bundle.graph(graph), bundle.file(graph.weights)):  # copies: ONNX takes no links for weights
            shutil.copyfile(path, given / path.name)
        quantize_static(
            str(given / graph.onnx),
            str(quantised),
            _Maps(maps),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_outermost(given / graph.onnx),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        model = ir.load(quantised)
    for name in (graph.onnx, graph.weights):
        (folder / name).unlink(missing_ok=True)
    ir.save(model, folder / graph.onnx, external_data=graph.weights, size_threshold_bytes=1024)
    return _difference(bundle, folder / graph.onnx, graph, maps)


def _outermost(path: Path) -> list[str]:
    """Names of a graph's first and last convolution."""
    convolutions = [str(node.name) for node in ir.load(path).graph if node.op_type == "Conv"]
    return [convolutions[0], convolutions[-1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to optimise the graph first, which it gives through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _Maps:
    """ONNX Runtime's calibration reader: a map at a time."""

    def __init__(self, maps: NDArray[np.float32]) -> None:
        self._left: Iterator[NDArray[np.float32]] = iter(maps)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        found = next(self._left, None)
        return None if found is None else {"f_hat": found[None]}


def _difference(bundle: Bundle, quantised: Path, graph: Graph, maps: NDArray[np.float32]) -> float:
    backend = OnnxRuntime()
    pictures = []
    for path in (quantised, bundle.graph(graph)):
        chain = Chain(backend, bundle.manifest, {}, (), backend.load(path))
        pictures.append(np.asarray(render(chain, maps)).reshape(1, -1, 1, 1))
    return float(psnr(*pictures)[0])
