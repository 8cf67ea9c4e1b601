"""Where weights come from: ``.pth`` and ``.safetensors`` files, and random tensors of a given shape.

Nothing is unpickled beyond tensors and containers (``weights_only``), and tensors are read one at a time.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trt_var.errors import CheckpointError, printable
from trt_var_export.weights.steady import SteadyFile, SteadySafetensors, fill

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MAX_LISTED = 200  # differences that an error names
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what files of torch.save begin with
FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)")
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
        """One tensor of the shape that ``shapes`` says: weights as float32, buffers of integers as they are.

        Raises:
            CheckpointError: a weight that is not of float16, bfloat16, float32 or float64.
        """
        ...


class StateDict:
    """A state dict in memory, or of a file whose tensors are read when they are asked for.

    Args:
        state: names with dense tensors.
        origin: where they came from, for the bundle's manifest.
        file: where the content of hollow tensors lies.
    """

    def __init__(self, state: Mapping[str, Tensor], origin: dict[str, str], file: SteadyFile | None = None) -> None:
        self._state, self._file = state, file
        self.origin = origin
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        value = self._state[key]
        return _widened(key, (value if self._file is None else fill(self._file, value)).detach())


class Safetensors:
    """A ``.safetensors`` file, whose tensors are read when they are asked for.

    Raises:
        CheckpointError: not such a file, or truncated; in ``load``, a tensor that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file = SteadyFile(path)
            whole: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is not a complete safetensors file ({_reason(error)}); fetch or save it again"
            ) from error
        file.check(path)
        self.origin = {"path": printable(path.name), "sha256": file.sha256()}
        self.shapes = {key: tuple(whole.get_slice(key).get_shape()) for key in whole.keys()}  # noqa: SIM118 - no mapping
        self._tensors = SteadySafetensors(file)

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        try:
            value = self._tensors.load(key)
        except CheckpointError:
            raise
        except Exception as error:  # of the reader's own kinds, by the tensor's type
            raise CheckpointError(f"cannot read the tensor {shown(key)} ({_reason(error)}); save it again") from error
        return _widened(key, value)


class RandomWeights:
    """Deterministic random weights of real shapes, for trying without a checkpoint.

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
        self.seed = seed
        self.origin = {"random": str(seed)}

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


def open_checkpoint(path: Path, part: str) -> Checkpoint:
    """Open a ``.pth``/``.pt`` or ``.safetensors`` file.

    A training checkpoint of VAR nests the weights under ``trainer`` → ``part`` (``var_wo_ddp`` or ``vae_local``).

    Raises:
        CheckpointError: no such file, not a file of weights, or damaged.
    """
    _beginning(path)
    if path.suffix == ".safetensors":
        return Safetensors(path)
    file = SteadyFile(path)
    state = read_torch(path, file)
    if isinstance(state, dict) and isinstance(state.get("trainer"), dict):
        state = state["trainer"].get(part)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names with tensors, flat or under trainer → {part}")
    _check_tensors(path, state)
    return StateDict(state, {"path": printable(path.name), "sha256": file.sha256()}, file)


def read_torch(path: Path, file: SteadyFile | None = None) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers only, memory-mapped; or hollow, through ``file``.

    Raises:
        CheckpointError: cannot be read, of torch's legacy format, damaged, or a pickle that would run code.
    """
    beginning = _beginning(path)
    if beginning.startswith(LEGACY):
        raise CheckpointError(
            f"{path} is of torch's legacy format, from before torch 1.6; save it again in the zip format: "
            f"torch.save(torch.load(OLD, weights_only=True), NEW)"
        )
    if not beginning.startswith(ZIP):
        found = f"begins with {beginning[:8]!r}" if beginning else "is empty"
        raise CheckpointError(f"{path} {found}; expected the zip file that torch.save writes: fetch or save it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file is not None:
                return file.load_hollow(weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever its unpickler stumbles over
        raise CheckpointError(f"{path} {_refusal(path, error)}") from error


def check_keys(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: with every difference, of more than MAX_LISTED the first ones and how many more there are.
    """
    ignored = {key for key in found if key.endswith(WITHOUT_LEARNED_VALUE)}
    problems = [f"missing {key} {list(shape)}" for key, shape in expected.items() if key not in found]
    problems += [f"extra {shown(key)} {list(found[key])}" for key in found if key not in expected and key not in ignored]
    problems += [
        f"{key} has shape {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        more = [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        listed = "\n  ".join(problems[:MAX_LISTED] + more)
        raise CheckpointError(f"the {what}'s checkpoint does not fit ({len(problems)} differences):\n  {listed}")


def shown(text: str, limit: int = 120) -> str:
    """A foreign name for a message: control characters escaped, the middle of a long one left out."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _beginning(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    try:
        if not path.is_file():
            raise CheckpointError(
                f"no checkpoint at {shown(str(path))}; give a .pth or .safetensors file, a released name or random:dN"
            )
        with path.open("rb") as file:
            return file.read(len(LEGACY))
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(str(path))}: {error.strerror or error}") from error


def _check_tensors(path: Path, state: Mapping[Any, Tensor]) -> None:
    """Names are text, and no tensor claims more memory than the whole file has (strides of zero can)."""
    size = path.stat().st_size
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path} names a tensor {shown(repr(key))}; expected a state dict, whose names are text")
        if value.layout is not torch.strided or value.is_nested or value.device.type != "cpu":
            raise CheckpointError(f"{path} holds no dense values for {shown(key)}; save the plain tensors of a state dict")
        if value.numel() * value.element_size() > size:
            raise CheckpointError(
                f"{path} has {size} bytes and a tensor {shown(key)} {list(value.shape)} of more; "
                f"save it again with .contiguous()"
            )


def _widened(key: str, value: Tensor) -> Tensor:
    if value.dtype in FLOATS:
        return value.float()
    if key.endswith(WITHOUT_LEARNED_VALUE):
        return value
    dtype = str(value.dtype).removeprefix("torch.")
    raise CheckpointError(f"the tensor {shown(key)} is of {dtype}; expected float32, float16, bfloat16 or float64")


def _refusal(path: Path, error: Exception) -> str:
    """What is wrong with a zip file that torch does not read."""
    foreign = FOREIGN.search(str(error)) if isinstance(error, UnpicklingError) else None
    if foreign and _is_whole_pickle(path):
        return (
            f"is not a plain file of weights: it would run code when loaded ({shown(foreign[1])}); refused: "
            f"save the tensors alone, torch.save(model.state_dict(), NEW)"
        )
    if "TorchScript" in str(error):
        return "is a TorchScript program, not a file of weights; save the state dict of the model instead"
    reason = "malformed pickle" if isinstance(error, UnpicklingError) else _reason(error)
    return f"is truncated or not a torch file ({reason}); fetch or save it again"


def _is_whole_pickle(path: Path) -> bool:
    """Whether the archive's pickle can be parsed to its end; nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return sum(1 for _ in pickletools.genops(archive.read(name))) > 0
    except Exception:
        return False


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return shown(lines[0]) if lines and lines[0] else type(error).__name__
