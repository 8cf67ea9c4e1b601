"""Folding AdaLN over the classes: every condition vector depends on the label alone, so a table replaces the layers.

A third of a VAR's parameters, and of its weights' traffic at every scale, becomes one row a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trt_var.errors import CheckpointError
from trt_var_export.models.transformer import TransformerShape

Load = Callable[[str], Tensor]


def condition_columns(
    shape: TransformerShape, load: Load, labels: Sequence[int] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Pieces of the table, each (first vector, [rows, vectors, C]), in float32.

    The rows are ``labels``, or all classes and the null class. Vector 0 is the class embedding; block i has
    γ1, γ2, s1, s2, b1, b2 from 1 + 6i; the head's s, b come last.
    """
    embedding = load("class_emb.weight")
    embedding = embedding if labels is None else embedding[list(labels)]
    active = F.silu(embedding)

    def linear(prefix: str) -> Tensor:
        vectors = F.linear(active, load(f"{prefix}.weight"), load(f"{prefix}.bias"))
        return vectors.reshape(len(vectors), -1, shape.width)

    yield 0, embedding.unsqueeze(1)
    shared = linear("shared_ada_lin.1") if shape.shared_aln else None
    for i in range(shape.depth):
        block = f"blocks.{i}"
        yield 1 + 6 * i, linear(f"{block}.ada_lin.1") if shared is None else shared + load(f"{block}.ada_gss")[0]
    yield 1 + 6 * shape.depth, linear("head_nm.ada_lin.1")


def write_conditions(path: Path, shape: TransformerShape, load: Load, half: bool) -> None:
    """Write the table [classes + 1, M, C] as ``.npy``, float16 for half precision, a block at a time.

    Raises:
        CheckpointError: a vector that is not finite in that type, with its block and class.
    """
    dtype = np.float16 if half else np.float32
    size = (shape.classes + 1, shape.conditions, shape.width)
    table = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=size)
    with torch.no_grad():
        for first, columns in condition_columns(shape, load):
            with np.errstate(over="ignore"):
                table[:, first : first + columns.shape[1]] = columns.numpy()
            _check_finite(table[:, first : first + columns.shape[1]], first, shape, path.name.split(".")[0])
    table.flush()


def _check_finite(columns: NDArray[np.floating], first: int, shape: TransformerShape, role: str) -> None:
    wrong = np.argwhere(~np.isfinite(columns))
    if not len(wrong):
        return
    block = (first - 1) // 6
    where = "class embedding" if first == 0 else "head's AdaLN" if block == shape.depth else f"AdaLN of block {block}"
    half = columns.dtype == np.float16
    raise CheckpointError(
        f"the {role}'s {where} of class {wrong[0][0]} is not finite in {columns.dtype} ({len(wrong)} of {columns.size}): "
        f"{'beyond 65504; build with --precision fp32' if half else 'these weights are of no use'}"
    )
