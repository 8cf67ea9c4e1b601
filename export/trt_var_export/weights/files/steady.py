"""A file of weights that must stay as it was while it is exported.

A training may save over its checkpoint in place. A memory map of it would then end the process with SIGBUS, or give weights
that no hash was taken of. So everything is read through one open descriptor, a tensor at a time, and compared afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from trt_var.errors import CheckpointError

BLOCK = 1 << 22


class SteadyFile:
    """An open file whose content may not change.

    Args:
        path: opened at once; a file that is renamed to this place later is another one, and does no harm.

    Raises:
        OSError: it cannot be opened.
        CheckpointError: from every method, once the file has changed, or where it ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._seen = self._state()

    def sha256(self) -> str:
        """Hex digest of the content."""
        digest, at = hashlib.sha256(), 0
        while block := os.pread(self._file.fileno(), BLOCK, at):
            digest.update(block)
            at += len(block)
        self.check()
        return digest.hexdigest()

    def read(self, offset: int, size: int) -> bytearray:
        """So many bytes from an offset on."""
        if offset + size > self._seen[0]:
            raise CheckpointError(f"{self.path} ends within a tensor; fetch or save it again")
        found, done = bytearray(size), 0
        with memoryview(found) as view:
            while done < size and (block := os.pread(self._file.fileno(), min(BLOCK, size - done), offset + done)):
                view[done : done + len(block)] = block
                done += len(block)
        self.check()
        return found

    def load_hollow(self, **options: Any) -> Any:
        """What ``torch.save`` wrote into a zip file, with tensors that know where their content lies, for ``fill``."""
        self._file.seek(0)
        with FakeTensorMode():
            loaded = torch.load(self._file, map_location="cpu", **options)
        self.check()
        return loaded

    def check(self, path: Path | None = None) -> None:
        """See that the file is what it was when it was opened; and ``path``, which a library opened, the same one."""
        if self._state() != self._seen or (path and not os.path.samestat(path.stat(), os.fstat(self._file.fileno()))):
            raise CheckpointError(
                f"{self.path} was written to while it was read; wait until it is saved, or copy it, and begin again"
            )

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


def fill(file: SteadyFile, tensor: Tensor) -> Tensor:
    """The content of a tensor of ``SteadyFile.load_hollow``: what its strides reach and no more; any other tensor as it is.

    Raises:
        CheckpointError: the file has changed.
    """
    begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if begin is None:
        return tensor
    if not tensor.numel():
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    item = tensor.element_size()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = begin + int(tensor.storage_offset()) * item
    flat = torch.frombuffer(file.read(start, int(reach) * item), dtype=tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), 0)


class SteadySafetensors:
    """The tensors of a ``.safetensors`` file that its own library has found whole.

    Raises:
        CheckpointError: from every method, once the file has changed.
    """

    def __init__(self, file: SteadyFile) -> None:
        self._file = file
        size = int.from_bytes(file.read(0, 8), "little")
        self._entries: dict[str, dict[str, Any]] = json.loads(file.read(8, size))
        self._begin = 8 + size

    def load(self, key: str) -> Tensor:
        """One tensor, by the library, from a small file in memory that holds it alone."""
        begin, end = self._entries[key]["data_offsets"]
        alone = {key: {**self._entries[key], "data_offsets": [0, end - begin]}}
        header = json.dumps(alone).encode()
        data = b"".join((len(header).to_bytes(8, "little"), header, self._file.read(self._begin + begin, end - begin)))
        return safetensors.torch.load(data)[key]
