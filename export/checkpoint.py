"""Where weights come from: ``.pth`` and ``.safetensors`` files, and random tensors of a given shape.

Nothing is unpickled beyond tensors and containers (``weights_only``), and tensors are read one at a time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from trt_var.bundle import file_sha256
from trt_var.errors import CheckpointError

WITHOUT_LEARNED_VALUE = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")


class Checkpoint(Protocol):
    """Named tensors that are loaded one at a time."""

    origin: dict[str, str]
    """Where the weights came from, for the bundle's manifest."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""
        ...

    def load(self, key: str) -> Tensor:
        """One tensor; floating-point tensors as float32."""
        ...


class StateDict:
    """A state dict in memory or memory-mapped by torch."""

    def __init__(self, state: Mapping[str, Tensor], origin: dict[str, str]) -> None:
        self._state = state
        self.origin = origin
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}

    def load(self, key: str) -> Tensor:
        value = self._state[key].detach()
        return value.float() if value.is_floating_point() else value


class Safetensors:
    """A ``.safetensors`` file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a complete safetensors file ({error}); fetch or save it again") from error
        self.origin = {"path": path.name, "sha256": file_sha256(path)}
        keys = self._file.keys()
        self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in keys}

    def load(self, key: str) -> Tensor:
        value: Tensor = self._file.get_tensor(key)
        return value.float() if value.is_floating_point() else value


class RandomWeights:
    """Deterministic random weights of real shapes, for trying without a checkpoint.

    Every tensor depends on its name, its shape and the seed alone, on any machine. The gains keep activations and
    logits of any depth in a range where the arithmetic can be compared; the images mean nothing.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], seed: int, buffers: Mapping[str, Tensor] | None = None
    ) -> None:
        self._buffers = dict(buffers or {})
        self.shapes = {**shapes, **{key: tuple(value.shape) for key, value in self._buffers.items()}}
        self.seed = seed
        self.origin = {"random": str(seed)}

    def load(self, key: str) -> Tensor:
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


def open_checkpoint(path: Path, part: str) -> Checkpoint:
    """Open a ``.pth``/``.pt`` or ``.safetensors`` file.

    A training checkpoint of VAR nests the weights under ``trainer`` → ``part`` (``var_wo_ddp`` or ``vae_local``).

    Raises:
        CheckpointError: no such file, not a file of weights, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give a .pth or .safetensors file, a released name or random:dN")
    if path.suffix == ".safetensors":
        return Safetensors(path)
    state = read_torch(path)
    if isinstance(state, dict) and isinstance(state.get("trainer"), dict):
        state = state["trainer"].get(part)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names with tensors, flat or under trainer → {part}")
    return StateDict(state, {"path": path.name, "sha256": file_sha256(path)})


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers only, memory-mapped.

    Raises:
        CheckpointError: damaged, or a pickle that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise CheckpointError(f"{path} is not a plain file of weights: it would run code when loaded; refused") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or not a torch file ({reason}); fetch or save it again") from error


def check_keys(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare names and shapes, listing every difference in one CheckpointError."""
    ignored = {key for key in found if key.endswith(WITHOUT_LEARNED_VALUE)}
    problems = [f"missing {key} {list(shape)}" for key, shape in expected.items() if key not in found]
    problems += [f"extra {key} {list(found[key])}" for key in found if key not in expected and key not in ignored]
    problems += [
        f"{key} has shape {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"the {what}'s checkpoint does not fit ({len(problems)} differences):\n  {listed}")
