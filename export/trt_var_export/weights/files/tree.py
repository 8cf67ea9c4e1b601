"""What a checkpoint's pickle holds, flattened: tensors by name, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trt_var.errors import CheckpointError
from trt_var_export.weights.files.inert import Inert
from trt_var_export.weights.files.tensors import shown

MAX_NODES, MAX_DEPTH = 1 << 20, 64
NESTED = "/"  # between the names of nested containers: model/module.blocks.0.ffn.fc1.weight
MODULE = ("_parameters", "_buffers", "_modules")  # where a whole nn.Module keeps what its state dict lists


@dataclass
class Tree:
    """A flattened checkpoint.

    Attributes:
        tensors: dense ones on the CPU, by the names on the way to them, with NESTED between.
        sparse: names of tensors without dense values.
        objects: names with the class or function that the file gives for what is no tensor and no plain container.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    sparse: list[str] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)


def flatten(content: Any, file: str) -> Tree:
    """Walk dicts, lists and the attributes of inert objects.

    Raises:
        CheckpointError: more entries than any checkpoint has, or nested without end.
    """
    tree, nodes = Tree(), 0
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        path, value = waiting.pop()
        nodes += 1
        if nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise CheckpointError(f"{file} is nested without end, or has more than {MAX_NODES} entries: no file of weights")
        if isinstance(value, Tensor):
            _take(tree, NESTED.join(path), value)
        children = [(path if name in MODULE else (*path, name), child) for name, child in _children(value)]
        if isinstance(value, Inert):
            tree.objects[shown(".".join(path)) or "all of it"] = shown(value.origin)
        waiting += reversed(children)
    return tree


def _take(tree: Tree, name: str, value: Tensor) -> None:
    if value.layout is not torch.strided or value.is_nested or value.device.type != "cpu":
        tree.sparse.append(name)
    else:
        tree.tensors.setdefault(name, value)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), child) for key, child in dict.items(value))
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), child) for index, child in enumerate(value))
    elif isinstance(value, Inert):
        yield from ((str(key), child) for key, child in value.entries.items())
        states = value.state if isinstance(value.state, tuple) else (value.state,)
        for state in states:
            if isinstance(state, dict):
                yield from ((str(key), child) for key, child in dict.items(state))
