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
HEADS_FIRST, KEYS_LAST, HEADS_BACK = [1, 2, 0, 3], [1, 2, 3, 0], [2, 0, 1, 3]  # the orders in which step graphs transpose
SMALLEST = 1e-24  # the square of the norm that the graphs divide by at least


def widen_late(model: ov.Model) -> None:
    """Weights kept in bfloat16 stay so until they are packed: else they are held a second time, in float32."""
    for node in _of(model, "Convert"):
        source = node.input_value(0).get_node()
        if source.get_type_name() == "Constant" and node.get_input_element_type(0) == ov.Type.bf16:
            node.get_rt_info()[DECOMPRESSION] = ""


def attend_over_rows(model: ov.Model) -> None:
    """Attention of [T, R, H, D] as one of R·H heads, [1, T, R·H, D], with keys that are read as they lie.

    The kernel that fuses an attention takes its transpositions in only in this order; else each is a copy, that of the keys
    a slow one.
    """
    orders = {node.get_friendly_name(): node.get_data().tolist() for node in _of(model, "Constant") if _is_order(node)}

    def turned(value: ov.Output, order: list[int]) -> ov.Output | None:
        """What is transposed in that order, if it is."""
        node = value.get_node()
        found = (
            node.get_type_name() == "Transpose" and orders.get(node.input_value(1).get_node().get_friendly_name()) == order
        )
        return node.input_value(0) if found else None

    for softmax in _of(model, "Softmax"):
        masked, after = softmax.input_value(0).get_node(), _reader(softmax)
        if masked.get_type_name() != "Add" or after.get_type_name() != "MatMul":
            continue
        scores = masked.input_value(0).get_node()
        if scores.get_type_name() != "MatMul":
            continue
        q, k = turned(scores.input_value(0), HEADS_FIRST), turned(scores.input_value(1), KEYS_LAST)
        v = turned(after.input_value(1), HEADS_FIRST)
        back = _reader(after)
        if q is None or k is None or v is None or turned(back.output(0), HEADS_BACK) is None:
            continue
        product = ops.matmul(_over_rows(q), _over_rows(k), False, True)
        weights = ops.softmax(ops.add(product, masked.input_value(1)), -1)
        _replace(back, _transposed(ops.matmul(weights, _over_rows(v), False, False)))


def norm_at_once(model: ov.Model) -> None:
    """Norms of heads, x / ‖x‖, as root mean squares, which are one kernel."""
    for division in _of(model, "Divide"):
        norm = division.input_value(1).get_node()
        while norm.get_type_name() in ("Minimum", "Maximum"):  # at least so large, however the graph says it
            below = [norm.input_value(i).get_node() for i in range(2)]
            norm = next((node for node in below if node.get_type_name() != "Constant"), below[0])
        width = division.get_output_partial_shape(0)[-1]
        if norm.get_type_name() != "ReduceL2" or width.is_dynamic or norm.input_value(0) != division.input_value(0):
            continue
        x, size = division.input_value(0), width.get_length()
        mean = ops.reduce_mean(ops.power(x, _float(2)), _axes(-1), True)
        root = ops.sqrt(ops.add(mean, _float(SMALLEST / size)))
        gains = ops.constant(np.full(size, size**-0.5, np.float32))
        normed = ops.multiply(ops.multiply(x, ops.divide(_float(1), root)), gains)
        scaled = _reader(division)
        if scaled.get_type_name() != "Multiply":
            _replace(division, normed)
            continue
        # with an axis more: else the heads' temperatures are multiplied into the gains, which the kernel takes for one head
        by = next(scaled.input_value(i) for i in range(2) if scaled.input_value(i) != division.output(0))
        _replace(scaled, ops.squeeze(ops.multiply(ops.unsqueeze(normed, _axes(0)), by), _axes(0)))


def gather_heads(model: ov.Model) -> None:
    """Queries, keys and values [n, R, H, D] taken out of [n, R, 3, H, D] by copying runs, not by a general split."""
    for cut in _of(model, "Slice"):
        whole, start, squeezed = cut.input_value(0), cut.input_value(1).get_node(), _reader(cut)
        before, after = whole.get_partial_shape(), cut.get_output_partial_shape(0)
        if len(before) != 5 or before[2] != ov.Dimension(3) or after[2] != ov.Dimension(1):
            continue
        if start.get_type_name() == "Constant" and squeezed.get_type_name() == "Squeeze":
            _replace(squeezed, ops.gather(whole, ops.constant(np.int64(start.get_data().item())), ops.constant(np.int64(2))))


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


def _reader(node: ov.Node) -> ov.Node:
    """What reads a node's only output, the first if there are several."""
    return next(iter(node.output(0).get_target_inputs())).get_node()


def _is_order(node: ov.Node) -> bool:
    """Whether a constant may say in which order four axes are taken."""
    return node.get_element_type() == ov.Type.i64 and list(node.get_output_shape(0)) == [4]


def _over_rows(value: ov.Output) -> ov.Node:
    """[T, R, H, D] → [1, R·H, T, D]."""
    width = value.get_partial_shape()[3].get_length()
    return _transposed(ops.reshape(ops.unsqueeze(value, _axes(0)), _axes(0, 0, -1, width), True))


def _transposed(value: ov.Node) -> ov.Node:
    """[1, A, B, D] → [1, B, A, D]."""
    return ops.transpose(value, _axes(0, 2, 1, 3))


def _axes(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def _float(value: float) -> ov.Node:
    return ops.constant(np.float32(value))


def _replace(old: ov.Node, new: ov.Node) -> None:
    new.set_friendly_name(old.get_friendly_name())
    names = old.output(0).get_names()
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))
    new.output(0).add_names(names)


ALL = (widen_late, attend_over_rows, gather_heads, norm_at_once)
