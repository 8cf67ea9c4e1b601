"""The linear layers of a step graph: what can be quantised, and where each one's input comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.external_data import set_base_dir

from trt_var.bundle import external
from trt_var.errors import UsageError

GROUPS = ("qkv", "proj", "fc1", "fc2", "head")
_WEIGHT = re.compile(r"(?:blocks\.(\d+)\.)?(attn\.mat_qkv|attn\.proj|ffn\.fc1|ffn\.fc2|head)\.weight\.T")
_GROUP = {"attn.mat_qkv": "qkv", "attn.proj": "proj", "ffn.fc1": "fc1", "ffn.fc2": "fc2", "head": "head"}


@dataclass(frozen=True)
class Layer:
    """One product of activations with a weight [inputs, outputs].

    Attributes:
        name: of the weight in the checkpoint, ``blocks.3.attn.mat_qkv``.
        group: one of GROUPS.
        block: of the transformer; None for the head.
        node: the MatMul.
    """

    name: str
    group: str
    block: int | None
    node: ir.Node

    @property
    def activation(self) -> ir.Value:
        """The input tensor [.., inputs]."""
        value = self.node.inputs[0]
        if value is None:
            raise UsageError(f"{self.name} has no input")
        return value

    @property
    def weight(self) -> ir.Value:
        """The weight [inputs, outputs]."""
        value = self.node.inputs[1]
        if value is None or value.const_value is None:
            raise UsageError(f"the weight of {self.name} is not a constant")
        return value


def load(path: Path) -> ir.Model:
    """A bundle's graph; its weights stay in their file, wherever a link leads to."""
    linked = external.through_link(path)
    if not linked:
        return ir.load(path)
    data, weights = linked
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(external.relocated(data, weights.name)))
    set_base_dir(model.graph, weights.parent)
    return model


def layers(model: ir.Model) -> list[Layer]:
    """All of a step graph's, in order.

    Raises:
        UsageError: none is there: not a step graph, or one that is quantised already.
    """
    found = list(_layers(model))
    if not found:
        raise UsageError("this graph has no float linear layers: it is quantised already; take the bundle it was made from")
    return found


def _layers(model: ir.Model) -> Iterator[Layer]:
    for node in model.graph:
        name = node.inputs[1].name if node.op_type == "MatMul" and node.inputs[1] else None
        if match := _WEIGHT.fullmatch(name or ""):
            yield Layer(match[0].removesuffix(".weight.T"), _GROUP[match[2]], int(match[1]) if match[1] else None, node)
