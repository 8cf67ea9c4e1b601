"""Tracing modules to ONNX without weights, and streaming the weights into one data file a model.

Parameters are inputs while tracing, so the tracer sees no data and folds none; afterwards they become initialisers
that point into the data file. Memory stays at the size of the largest tensor.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from trt_var.errors import ExportError
from trt_var_export.graphs.modules import Traceable

ALIGNMENT = 4096  # page size, so that runtimes can map single tensors
DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
}


class WeightFile:
    """One ONNX external data file, written tensor by tensor; equal names are written once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._tensors: dict[tuple[str, bool], ir.ExternalTensor] = {}

    def add(self, key: str, transposed: bool, dtype: torch.dtype, load: Callable[[str], Tensor]) -> ir.ExternalTensor:
        """Append a tensor, or return the one already written under this name."""
        if (key, transposed) not in self._tensors:
            value = load(key)
            value = (value.T if transposed else value).to(dtype).contiguous()
            self._write(b"\0" * (-self._file.tell() % ALIGNMENT))
            offset = self._file.tell()
            self._write(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
            self._tensors[key, transposed] = ir.ExternalTensor(
                self.path.name,
                offset,
                self._file.tell() - offset,
                DTYPES[dtype],
                shape=ir.Shape(value.shape),
                name=key,
                base_dir=self.path.parent,
            )
        return self._tensors[key, transposed]

    def close(self) -> str:
        """Finish the file and return its sha256."""
        self._file.close()
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)


def rounded(load: Callable[[str], Tensor], short: Collection[str]) -> Callable[[str], Tensor]:
    """As ``load``, with the values that a bundle has of the tensors that it keeps in bfloat16."""
    return lambda key: load(key).bfloat16().float() if key in short else load(key)


class _Functional(nn.Module):
    """A module whose parameters are its first input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._hidden = (module,)  # in a tuple: not a submodule, so its parameters are no state of the trace

    def forward(self, parameters: dict[str, Tensor], *inputs: Tensor) -> Any:
        return torch.func.functional_call(self._hidden[0], parameters, inputs)


def trace(graph: Traceable, opset: int) -> ir.Model:
    """Trace a module; its parameters are still inputs of the result.

    Raises:
        ExportError: the tracer failed, or took a free axis for a fixed one.
    """
    values = dict(graph.module.named_parameters())
    parameters = {name: values[name] for name in graph.parameters}
    free: Any = torch.export.Dim.DYNAMIC
    axes = tuple(dict.fromkeys(graph.axes[name], free) for name in graph.inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Functional(graph.module),
                (parameters, *graph.inputs.values()),
                input_names=[*parameters, *graph.inputs],
                output_names=list(graph.outputs),
                dynamic_shapes=(dict.fromkeys(parameters), axes),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"tracing {graph.name} failed: {_root(error)}") from error
    if program is None:
        raise ExportError(f"tracing {graph.name} returned no graph")
    _check_axes(program.model, graph)
    return program.model


def bind_weights(
    model: ir.Model,
    graph: Traceable,
    weights: WeightFile,
    load: Callable[[str], Tensor],
    short: Collection[str] = (),
) -> None:
    """Turn the parameter inputs into initialisers in ``weights``, transposing on the way where the graph does.

    Those whose keys are in ``short`` are kept in bfloat16 and lie as they did, which OpenVINO packs with the least work; the
    graph widens and transposes them.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    values = dict(graph.module.named_parameters())
    for name, key in graph.parameters.items():
        value, dtype = inputs[name], torch.bfloat16 if key in short else values[name].dtype
        model.graph.inputs.remove(value)
        turned = [node for node, _ in value.uses() if _is_transpose(node) and key not in short]
        for node in turned:
            found = _bound(model, f"{key}.T", weights.add(key, True, dtype, load))
            node.outputs[0].replace_all_uses_with(found)
            model.graph.remove(node, safe=True)
        if value.uses():
            value.replace_all_uses_with(_bound(model, key, weights.add(key, False, dtype, load)))


def _bound(model: ir.Model, name: str, content: ir.ExternalTensor) -> ir.Value:
    """A new initialiser; of bfloat16, what widens it to float32, as the rest of the graph takes it."""
    value = ir.Value(name=name, const_value=content, shape=content.shape, type=ir.TensorType(content.dtype))
    model.graph.register_initializer(value)
    if content.dtype != ir.DataType.BFLOAT16:
        return value
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.widen")
    cast.outputs[0].shape, cast.outputs[0].type = content.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(model.graph[0], [cast])
    return cast.outputs[0]


def save(model: ir.Model, path: Path) -> None:
    """Write the graph beside its weight file. Tracing metadata (file names, stack traces) is left out."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "trt-var", None
    ir.save(model, path)


def _is_transpose(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [1, 0]


def _check_axes(model: ir.Model, graph: Traceable) -> None:
    shapes = {value.name: value.shape for value in model.graph.inputs}
    for name, axes in graph.axes.items():
        shape = shapes.get(name)
        fixed = [axis for axis in axes if shape is None or isinstance(shape[axis], int)]
        if fixed:
            raise ExportError(f"tracing {graph.name} fixed axes {fixed} of {name}: shape {shape}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's notices; failures still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _root(error: BaseException) -> str:
    """The first line of what an error began with; the exporter wraps it in advice for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
