"""What one decoding runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Backend, Graph
from trt_var.bundle.manifest import Manifest, Role


@dataclass(frozen=True)
class Transformer:
    """A loaded transformer: its step graph and its class table [classes + 1, M, C]."""

    step: Graph
    conditions: NDArray[np.floating]
    depth: int
    heads: int


@dataclass(frozen=True)
class Chain:
    """Everything that one decoding needs, loaded on one backend; with ``smooth`` graphs, step graphs that return logits.

    ``source`` is the address on the hub that the bundle was fetched from.
    """

    backend: Backend
    manifest: Manifest
    transformers: Mapping[Role, Transformer]
    quantiser: tuple[Graph, ...]
    decoder: Graph
    smooth: tuple[Graph, ...] = ()
    source: str | None = None
