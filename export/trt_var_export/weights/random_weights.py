"""Random weights of real shapes, for trying without a checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class RandomWeights:
    """Deterministic random weights.

    Every tensor depends on its name, its shape and the seed alone, on any machine. The gains keep activations and
    logits of any depth in a range where the arithmetic can be compared; the images mean nothing.

    Args:
        shapes: by the names of the released state dicts.
        seed: 0 to 2^64 − 1.
        buffers: tensors that are not random, returned by ``load`` as they are.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], seed: int, buffers: Mapping[str, Tensor] | None = None
    ) -> None:
        self._buffers = dict(buffers or {})
        self.shapes = {**shapes, **{key: tuple(value.shape) for key, value in self._buffers.items()}}
        self.dtypes = dict.fromkeys(self.shapes, "float32")
        self.seed = seed
        self.origin = {"random": str(seed)}
        self.metadata: Mapping[str, str] = {}

    def load(self, key: str) -> Tensor:
        """One tensor, float32."""
        if key in self._buffers:
            return self._buffers[key]
        shape = self.shapes[key]
        bits = np.random.Philox(key=np.array([self.seed, zlib.crc32(key.encode())], np.uint64))
        values = np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
        offset, gain = _distribution(key, shape)
        values *= np.float32(gain)
        values += np.float32(offset)
        return torch.from_numpy(values)


def _distribution(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a random tensor."""
    if key.endswith("scale_mul_1H11"):
        return math.log(4.0), 0.1
    if ".norm" in key or "norm_out" in key:
        return (1.0, 0.1) if key.endswith("weight") else (0.0, 0.1)
    if key.endswith("bias"):
        return 0.0, 0.05
    tables = ("pos_start", "pos_1LC", "lvl_embed.weight", "class_emb.weight", "quantize.embedding.weight")
    if len(shape) < 2 or key.endswith(tables):
        return 0.0, 0.5
    gain = 4.0 if key.startswith("head.") else 0.3 if "ada_lin" in key else 1.0
    return 0.0, gain / math.sqrt(math.prod(shape[1:]))
