"""Files of weights, told apart by what they begin with, whatever they are called: safetensors, and ``torch.save``'s.

Nothing of a pickle is run: torch's own ``weights_only`` reads the plain ones, ``inert`` those with other objects beside
tensors.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from trt_var.errors import CheckpointError, printable
from trt_var_export.weights.files import inert
from trt_var_export.weights.files.steady import SteadyFile
from trt_var_export.weights.files.tensors import Checkpoint, Safetensors, StateDict, reason, shown
from trt_var_export.weights.files.tree import Tree, flatten

log = logging.getLogger(__name__)
BEGINNING = 64
ZIP = b"PK\x03\x04"
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch's format from before 1.6 begins with, pickled
OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: git lfs pull",
    b"<": "is a web page, not the file itself",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"\x89HDF": "is an HDF5 file of another framework",
    b"GGUF": "is a GGUF file, whose weights are of another kind",
}


def open_file(path: Path) -> Checkpoint:
    """Every tensor of one file, by its dotted name: ``model.blocks.0.ffn.fc1.weight`` for one nested under ``model``.

    Raises:
        CheckpointError: no such file, of another format, damaged, or without tensors.
    """
    beginning = _beginning(path)
    if beginning[8:9] == b"{" or (path.suffix == ".safetensors" and not _is_torch(beginning) and not _other(beginning)):
        return Safetensors(path)
    file = SteadyFile(path)
    tree = flatten(read_torch(path, file), shown(str(path)))
    if not tree.tensors:
        raise CheckpointError(_nothing(path, tree))
    _check_tensors(path, tree.tensors)
    aside = {**tree.objects, **dict.fromkeys(tree.sparse, "a tensor without dense values")}
    if aside:
        log.warning("%s: the dense tensors alone are read; left aside, and nothing of it run: %s", path, _listed(aside))
    return StateDict(tree.tensors, {"path": printable(path.name), "sha256": file.sha256()}, file)


def read_torch(path: Path, file: SteadyFile | None = None) -> Any:
    """What ``torch.save`` wrote, memory-mapped unless it is of the legacy format; or, of a ``file``, hollow for ``fill``.

    Tensors and plain containers are as they were; whatever else the file names is an ``inert.Inert``.

    Raises:
        CheckpointError: cannot be read, of another format, or damaged.
    """
    beginning = _beginning(path)
    if not _is_torch(beginning):
        raise CheckpointError(f"{shown(str(path))} {_unknown(beginning)}")
    zipped = beginning.startswith(ZIP)
    mapped = zipped and path.suffix != ".safetensors"  # torch goes by that suffix where it maps
    hollow = file if zipped else None
    try:
        if zipped:
            _check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return _load(path, mapped, hollow, weights_only=True)
            except UnpicklingError:
                return _load(path, mapped, hollow, weights_only=False, pickle_module=inert)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises whatever its unpickler stumbles over
        raise CheckpointError(f"{shown(str(path))} {_refusal(error)}") from error


def _load(path: Path, mapped: bool, hollow: SteadyFile | None, **options: Any) -> Any:
    if hollow is not None:
        return hollow.load_hollow(**options)
    if mapped:
        return torch.load(path, map_location="cpu", mmap=True, **options)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", **options)


def _beginning(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    try:
        if not path.is_file():
            raise CheckpointError(
                f"no checkpoint at {shown(str(path))}; give a .pth or .safetensors file, a folder with one, "
                f"a released name or random:dN"
            )
        with path.open("rb") as file:
            return file.read(BEGINNING)
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(str(path))}: {error.strerror or error}") from error


def is_weights(path: Path) -> bool:
    """Whether a file begins as one of weights does."""
    beginning = _beginning(path)
    return _is_torch(beginning) or beginning[8:9] == b"{"


def _is_torch(beginning: bytes) -> bool:
    return beginning.startswith(ZIP) or (beginning[:1] == b"\x80" and LEGACY in beginning)


def _other(beginning: bytes) -> str:
    return next((what for start, what in OTHERS.items() if beginning.startswith(start)), "")


def _unknown(beginning: bytes) -> str:
    if not beginning:
        return "is empty; fetch or save it again"
    return (
        f"{_other(beginning) or f'begins with {beginning[:8]!r}'}; expected a safetensors file, or the zip file that "
        f"torch.save writes: fetch or save it again"
    )


def _check_stored(path: Path) -> None:
    """Torch maps the archive's members as they lie there; of compressed ones it would take the packed bytes for weights."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if "/data/" in entry.filename and entry.compress_type]
    if packed:
        raise CheckpointError(
            f"{shown(str(path))} was packed by another tool than torch ({shown(packed[0])} is compressed); unpack it "
            f"and take the file inside, or save it again with torch.save"
        )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """No tensor claims more memory than the whole file has (strides of zero can)."""
    size = path.stat().st_size
    for key, value in tensors.items():
        if value.numel() * value.element_size() > size:
            raise CheckpointError(
                f"{shown(str(path))} has {size} bytes and a tensor {shown(key)} {list(value.shape)} of more; "
                f"save it again with .contiguous()"
            )


def _nothing(path: Path, tree: Tree) -> str:
    """Why a file without tensors is none of weights."""
    file = shown(str(path))
    if tree.sparse:
        return f"{file} holds no dense values for {shown(tree.sparse[0])}; save the plain tensors of a state dict"
    if tree.objects:
        return (
            f"{file} is not a file of weights: it holds no tensor, but what would run code when loaded "
            f"({', '.join(sorted(set(tree.objects.values()))[:4])}), which was not done; save the tensors alone, "
            f"torch.save(model.state_dict(), NEW)"
        )
    return f"{file} holds no state dict: expected names with tensors"


def _listed(objects: Mapping[str, str], most: int = 4) -> str:
    named = [f"{shown(name)} ({origin})" for name, origin in list(objects.items())[:most]]
    return ", ".join(named) + (f" and {len(objects) - most} more" if len(objects) > most else "")


def _refusal(error: Exception) -> str:
    """What is wrong with a file that torch does not read."""
    if "TorchScript" in str(error):
        return "is a TorchScript program, not a file of weights; save the state dict of the model instead"
    if "explicit pickle_module" in str(error):
        return (
            "holds more than tensors, which TORCH_FORCE_WEIGHTS_ONLY_LOAD does not let pass; unset it (nothing of the file "
            "is run: what is no tensor is left aside), or save the tensors alone"
        )
    why = "malformed pickle" if isinstance(error, UnpicklingError) else reason(error)
    return f"is truncated or not a torch file ({why}); fetch or save it again"
