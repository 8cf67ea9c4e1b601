"""Graphs as OpenVINO's CPU plugin computes them fastest: the same mathematics in the forms that it has kernels for.

docs/backends.md has what each rewrite gains.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.preprocess import PrePostProcessor

DECOMPRESSION = "decompression_0"  # OpenVINO's mark of a conversion that is no part of the mathematics
TURNED, STRAIGHT = [0, 2, 3, 1], [0, 2, 1, 3]
SMALLEST = 1e-24  # the square of the norm that the graphs divide by at least


def widen_late(model: ov.Model) -> None:
    """Weights kept in bfloat16 stay so until they are packed: else they are held a second time, in float32."""
    for node in _of(model, "Convert"):
        source = node.input_value(0).get_node()
        if source.get_type_name() == "Constant" and node.get_input_element_type(0) == ov.Type.bf16:
            node.get_rt_info()[DECOMPRESSION] = ""


def turn_late(model: ov.Model) -> None:
    """q·kᵀ as a product that reads k as it lies: one fused attention in place of it and a slow transposition of the keys."""
    constants = {node.get_friendly_name(): node for node in _of(model, "Constant")}
    for product in _of(model, "MatMul"):
        turned = product.input_value(1).get_node()
        if turned.get_type_name() != "Transpose":
            continue
        order = constants.get(turned.input_value(1).get_node().get_friendly_name())
        if order is not None and order.get_data().tolist() == TURNED:
            keys = ops.transpose(turned.input_value(0), ops.constant(np.array(STRAIGHT)))
            _replace(product, ops.matmul(product.input_value(0), keys, False, True))


def norm_at_once(model: ov.Model) -> None:
    """X / ‖x‖ of a head as root mean squares, which are one kernel."""
    for division in _of(model, "Divide"):
        norm = division.input_value(1).get_node()
        while norm.get_type_name() in ("Minimum", "Maximum"):  # at least so large, however the graph says it
            below = [norm.input_value(i).get_node() for i in range(2)]
            norm = next((node for node in below if node.get_type_name() != "Constant"), below[0])
        width = division.get_output_partial_shape(0)[-1]
        if norm.get_type_name() != "ReduceL2" or width.is_dynamic or norm.input_value(0) != division.input_value(0):
            continue
        x, size = division.input_value(0), width.get_length()
        mean = ops.reduce_mean(ops.power(x, _float(2)), ops.constant(np.array([-1])), True)
        root = ops.sqrt(ops.add(mean, _float(SMALLEST / size)))
        gains = ops.constant(np.full(size, size**-0.5, np.float32))
        _replace(division, ops.multiply(ops.multiply(x, ops.divide(_float(1), root)), gains))


def shorten_cache(model: ov.Model) -> ov.Model:
    """Keys and values of a step graph in bfloat16, as the products take them: else every pass converts them twice."""
    past = [name for port in model.inputs if (name := port.any_name).startswith("past_")]
    if not past:
        return model
    wrapped = PrePostProcessor(model)
    for name in past:
        wrapped.input(name).tensor().set_element_type(ov.Type.bf16)
        wrapped.output(name.replace("past_", "new_", 1)).tensor().set_element_type(ov.Type.bf16)
    return wrapped.build()


def _of(model: ov.Model, kind: str) -> Iterator[ov.Node]:
    return (node for node in model.get_ordered_ops() if node.get_type_name() == kind)


def _float(value: float) -> ov.Node:
    return ops.constant(np.float32(value))


def _replace(old: ov.Node, new: ov.Node) -> None:
    new.set_friendly_name(old.get_friendly_name())
    names = old.output(0).get_names()
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))
    new.output(0).add_names(names)
