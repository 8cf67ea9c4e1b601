"""Named tensors that are loaded one at a time: in memory, in ``.safetensors`` files, under other names, in several files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trt_var.backends import failures
from trt_var.errors import CheckpointError, printable
from trt_var_export.weights.files.steady import SteadyFile, SteadySafetensors, fill

FLOATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
MAX_LISTED = 200  # differences that an error names
WITHOUT_LEARNED_VALUE = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class Checkpoint(Protocol):
    """Named tensors that are loaded one at a time."""

    origin: dict[str, str]
    """Where the weights came from, for the bundle's manifest."""

    metadata: Mapping[str, str]
    """What the file says about itself."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""
        ...

    @property
    def dtypes(self) -> Mapping[str, str]:
        """The type that every tensor has in its file, as torch calls it: ``bfloat16``."""
        ...

    def load(self, key: str) -> Tensor:
        """One tensor of the shape that ``shapes`` says: weights as float32, buffers of integers as they are.

        Raises:
            CheckpointError: a weight that is no floating-point number.
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
        self.metadata: Mapping[str, str] = {}
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}
        self.dtypes = {key: type_name(value.dtype) for key, value in state.items()}

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
        from safetensors import SafetensorError, safe_open  # files of torch's own format do without

        try:
            file = SteadyFile(path)
            whole: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{shown(str(path))} is not a complete safetensors file ({reason(error)}); fetch or save it again"
            ) from error
        file.check(path)
        self.origin = {"path": printable(path.name), "sha256": file.sha256()}
        self.metadata: Mapping[str, str] = dict(whole.metadata() or {})
        names: list[str] = whole.keys()
        slices = {key: whole.get_slice(key) for key in names}
        self.shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
        self.dtypes = {key: _safetensors_type(one.get_dtype()) for key, one in slices.items()}
        self._tensors = SteadySafetensors(file)

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        try:
            value = self._tensors.load(key)
        except CheckpointError:
            raise
        except Exception as error:  # of the reader's own kinds, by the tensor's type
            raise CheckpointError(f"cannot read the tensor {shown(key)} ({reason(error)}); save it again") from error
        return _widened(key, value)


class Renamed:
    """Some tensors of a checkpoint under other names.

    Args:
        names: the new name → the checkpoint's.
    """

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        self._checkpoint, self._names, self.origin = checkpoint, dict(names), checkpoint.origin
        self.metadata = checkpoint.metadata
        self.shapes = {new: checkpoint.shapes[old] for new, old in names.items()}
        self.dtypes = {new: checkpoint.dtypes[old] for new, old in names.items()}

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        return self._checkpoint.load(self._names[key])


class Joined:
    """Several files that hold one checkpoint.

    Raises:
        CheckpointError: a tensor is in two of them.
    """

    def __init__(self, parts: Sequence[Checkpoint], origin: dict[str, str]) -> None:
        self.origin = origin
        self.metadata: Mapping[str, str] = {key: value for part in parts for key, value in part.metadata.items()}
        self._holders: dict[str, Checkpoint] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for part in parts:
            for key in part.shapes:
                if key in self._holders:
                    files = " and ".join(one.origin.get("path", "?") for one in (self._holders[key], part))
                    raise CheckpointError(f"{shown(key)} is in {files}: these are no shards of one checkpoint")
                self._holders[key] = part
            self.shapes |= part.shapes
            self.dtypes |= part.dtypes

    def load(self, key: str) -> Tensor:
        """As ``Checkpoint.load``."""
        return self._holders[key].load(key)


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
    return printable(text)


def reason(error: Exception) -> str:
    """The first line of what a library said."""
    return shown(failures.reason(error))


def type_name(dtype: torch.dtype) -> str:
    """``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def _safetensors_type(name: str) -> str:
    return type_name(_SAFETENSORS[name]) if name in _SAFETENSORS else name.lower()


def _widened(key: str, value: Tensor) -> Tensor:
    if value.dtype in FLOATS:
        return value.float()
    if key.endswith(WITHOUT_LEARNED_VALUE):
        return value
    expected = "float32, float16, bfloat16, float64 or float8"
    raise CheckpointError(f"the tensor {shown(key)} is of {type_name(value.dtype)}; expected {expected}")
