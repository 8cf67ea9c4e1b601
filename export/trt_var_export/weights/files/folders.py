"""Checkpoints of several files: shards with an index, shards by their names, and folders."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from trt_var.errors import CheckpointError
from trt_var_export.weights.files.reading import is_weights, open_file
from trt_var_export.weights.files.tensors import Checkpoint, Joined, shown

log = logging.getLogger(__name__)
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,5})-of-(?P<count>\d{1,5})(?P<suffix>\.[A-Za-z.]+)?", re.ASCII)
INDEX = ".index.json"
USUAL = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin")
MAX_INDEX, MAX_FILES = 1 << 26, 4096


def open_all(path: Path) -> Checkpoint:
    """Every tensor of a file, of the shards that it is one of or the index of, or of the checkpoint in a folder.

    Raises:
        CheckpointError: not there, damaged; a shard is missing; a folder with no checkpoint or several.
    """
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.name.endswith(INDEX) and path.is_file():
            return _open_index(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(str(path))}: {error.strerror or error}") from error
    match = SHARD.fullmatch(path.name)
    return _open_shards(path.parent, match) if match and int(match["count"]) > 1 else open_file(path)


def _open_folder(folder: Path) -> Checkpoint:
    """An index, a complete set of shards, a file with a usual name, or the only file of weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))[:MAX_FILES]
    indexes = [path for path in files if path.name.endswith(INDEX)]
    shards = {match["stem"] + (match["suffix"] or ""): path for path in files if (match := SHARD.fullmatch(path.name))}
    weights = [
        path for path in files if not SHARD.fullmatch(path.name) and not path.name.endswith(INDEX) and is_weights(path)
    ]
    usual = [path for path in weights if path.name in USUAL]
    if (folder / ".metadata").is_file():
        raise CheckpointError(
            f"{folder} is a distributed checkpoint; make one file of it: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE"
        )
    for some in (indexes, list(shards.values()), usual, weights):
        preferred = [path for path in some if ".safetensors" in path.name] or some
        if len(preferred) == 1:
            log.warning("%s: taking %s of %s", folder, preferred[0].name, ", ".join(path.name for path in files[:8]))
            return open_all(preferred[0])
        if preferred:
            raise CheckpointError(f"{folder} holds several checkpoints: {_names(preferred)}; name one of these files")
    raise CheckpointError(f"{folder} holds no file of weights, but {_names(files) or 'nothing'}")


def _open_index(path: Path) -> Checkpoint:
    """The shards that an index lists, with every tensor where it says."""
    places = _places(path)
    parts = {name: open_file(_shard(path, name)) for name in sorted(set(places.values()))}
    lacking = [key for key, name in places.items() if key not in parts[name].shapes]
    if lacking:
        raise CheckpointError(
            f"{shown(str(path))} says that {shown(lacking[0])} is in {places[lacking[0]]}, where it is not "
            f"({len(lacking)} such tensors): index and shards are of different checkpoints"
        )
    return Joined(list(parts.values()), _origin(path.name, parts))


def _places(path: Path) -> Mapping[str, str]:
    """Names of tensors → plain names of files."""
    try:
        content = json.loads(path.read_bytes() if path.stat().st_size <= MAX_INDEX else b"{}")
        places = content["weight_map"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        places, plain = {}, False
    if not places or not plain or len(set(places.values())) > MAX_FILES:
        raise CheckpointError(f'{shown(str(path))} is no index of shards: expected {{"weight_map": {{TENSOR: FILE}}}}')
    found: Mapping[str, str] = places
    return found


def _shard(index: Path, name: str) -> Path:
    path = index.parent / name
    if not path.is_file():
        raise CheckpointError(f"{shown(str(index))} names {shown(name)}, which is not beside it; fetch all shards")
    return path


def _open_shards(folder: Path, match: re.Match[str]) -> Checkpoint:
    """All shards of the set that one belongs to."""
    count, digits, suffix = int(match["count"]), len(match["number"]), match["suffix"] or ""
    if count > MAX_FILES:
        raise CheckpointError(f"{shown(match[0])} is one of more than {MAX_FILES} shards")
    names = [f"{match['stem']}-{i:0{digits}}-of-{match['count']}{suffix}" for i in range(count + 1)]
    names = names[:-1] if (folder / names[0]).is_file() else names[1:]  # some count from 0
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise CheckpointError(
            f"{shown(match[0])} is one of {count} shards, of which {len(lacking)} are not beside it, "
            f"{shown(lacking[0])} for one; fetch all shards"
        )
    parts = {name: open_file(folder / name) for name in names}
    return Joined(list(parts.values()), _origin(match["stem"] + suffix, parts))


def _origin(name: str, parts: Mapping[str, Checkpoint]) -> dict[str, str]:
    listed = "".join(f"{part.origin['sha256']}  {file}\n" for file, part in sorted(parts.items()))
    return {"path": name, "sha256": hashlib.sha256(listed.encode()).hexdigest()}


def _names(paths: list[Path], most: int = 6) -> str:
    return ", ".join(shown(path.name) for path in paths[:most]) + (", …" if len(paths) > most else "")
