"""Rewritten graphs compute what they did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from helpers import assert_close, assert_tokens
from trt_var.backends.openvino import rewriting


def kinds(model: ov.Model) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ops())


def computed(model: ov.Model, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {name: value for port, value in compiled(inputs).items() for name in port.get_names()}


def step_inputs(model: ov.Model, past: int, new: int, batch: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    sizes = {"features": (new, batch), "conditions": (2 * batch,), "uniforms": (new, batch)}
    settings = {"guidance": 2.0, "temperature": 1.0, "top_p": 0.9}
    found: dict[str, NDArray[Any]] = {"top_k": np.full((1, batch), 50, np.int32)}
    for port in model.inputs:
        name, shape = port.any_name, list(port.partial_shape)
        if name in settings:
            found[name] = np.full((1, batch), settings[name], np.float32)
        elif name != "top_k":
            free = sizes.get(name, (past, 2 * batch))
            rest = [axis.get_length() for axis in shape[len(free) :]]
            found[name] = rng.random((*free, *rest), np.float32) - (0.0 if name == "uniforms" else 0.5)
    return found


@pytest.mark.parametrize(("past", "new"), [(0, 1), (1, 4), (5, 9), (0, 14)])
def test_step_graph(toy_bundle: Path, past: int, new: int) -> None:
    core = ov.Core()
    model, rewritten = core.read_model(toy_bundle / "drafter.onnx"), core.read_model(toy_bundle / "drafter.onnx")
    for rewrite in rewriting.ALL:
        rewrite(rewritten)
    assert kinds(model)["ReduceL2"] == 4
    assert kinds(model)["Softmax"] == kinds(rewritten)["Softmax"]
    assert kinds(rewritten)["ReduceL2"] == 0
    assert kinds(rewritten)["Gather"] == kinds(model)["Gather"] + 6
    products = [node for node in rewritten.get_ops() if node.get_type_name() == "MatMul"]
    assert sum(product.get_attributes()["transpose_b"] for product in products) == 2
    inputs = step_inputs(model, past, new, 3)
    expected, found = computed(model, inputs), computed(rewritten, inputs)
    assert_tokens(found["tokens"], expected["tokens"])
    for name in (f"new_{which}_{block}" for block in range(2) for which in "kv"):
        assert_close(found[name], expected[name], absolute=1e-5)


def test_norms_are_one_kernel(toy_bundle: Path) -> None:
    """Those of q, too, which are multiplied by the heads' temperatures; and q, k and v are not split."""
    core = ov.Core()
    model = core.read_model(toy_bundle / "drafter.onnx")
    for rewrite in rewriting.ALL:
        rewrite(model)
    run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    layers = Counter(node.get_rt_info()["layerType"].astype(str) for node in run.get_ops())
    assert layers["RMS"] == 4
    splits = [node for node in run.get_ops() if node.get_rt_info()["layerType"].astype(str) == "Split"]
    assert not [node for node in splits if len(node.get_output_partial_shape(0)) == 5]


def test_heads_of_nothing(toy_bundle: Path) -> None:
    """A head whose keys are zero, as in pruned models, has no direction, and no NaN either."""
    core = ov.Core()
    x = ov.opset13.parameter([-1, 4, 64], np.float32, name="x")
    norm = ov.opset13.reduce_l2(x, ov.opset13.constant(np.array([-1])), True)
    unit = ov.opset13.divide(x, ov.opset13.maximum(norm, ov.opset13.constant(np.float32(1e-12))))
    model = ov.Model([unit], [x], "unit")
    rewriting.norm_at_once(model)
    given = np.random.default_rng(0).standard_normal((3, 4, 64)).astype(np.float32)
    given[1] = 0
    given[2] *= 1e-6
    (found,) = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": given}).values()
    lengths = np.linalg.norm(found, axis=-1)
    assert_close(lengths[[0, 2]], np.ones((2, 4)), absolute=1e-5)
    assert_close(lengths[1], np.zeros(4))


def test_divisions_that_are_no_norms_stay() -> None:
    x = ov.opset13.parameter([2, 8], np.float32, name="x")
    y = ov.opset13.parameter([2, 8], np.float32, name="y")
    norm = ov.opset13.reduce_l2(x, ov.opset13.constant(np.array([-1])), True)
    model = ov.Model([ov.opset13.divide(y, norm), ov.opset13.divide(x, y)], [x, y], "others")
    rewriting.norm_at_once(model)
    assert kinds(model)["Divide"] == 2
    assert kinds(model)["ReduceL2"] == 1
