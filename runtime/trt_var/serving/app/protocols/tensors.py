"""The Open Inference Protocol's tensors, as JSON or as bytes behind it (the binary tensor extension)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.serving.app.faults import Refusal
from trt_var.serving.app.protocols.wire import Settings, convert

HEADER = "inference-header-content-length"
KINDS = (np.int64, np.int32, np.uint64, np.uint16, np.uint8)
TYPES: dict[str, np.dtype[Any]] = {np.dtype(kind).name.upper(): np.dtype(kind) for kind in KINDS}
NAMES = {kind: name for name, kind in TYPES.items()}
INPUTS = {"label": ("INT64", "INT32", "BYTES"), "seed": ("UINT64", "INT64")}
OUTPUTS = ("images", "tokens", "seed", "label")
BINARY = ("binary_data", "binary_data_output", "binary_data_size")


class Tensor(msgspec.Struct, kw_only=True):
    """As a request has it."""

    name: str
    shape: list[int] = []
    datatype: str = ""
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class Infer(msgspec.Struct, kw_only=True):
    """A request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[Tensor] | None = None


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        outputs: names, and whether each is wanted as bytes.
    """

    labels: tuple[int | str, ...]
    seeds: tuple[int, ...] | None
    settings: Settings
    outputs: dict[str, bool]
    id: str | None


def read(body: bytes, header: str | None, images: int) -> Asked:
    """A request for at most so many ``images``.

    Raises:
        Refusal: no such request.
    """
    length = len(body) if header is None else _length(header, len(body))
    try:
        infer = msgspec.json.decode(body[:length], type=Infer)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Refusal(400, f"the request is none of the Open Inference Protocol: {error}", code="invalid_json") from error
    found: dict[str, list[Any]] = {}
    rest = body[length:]
    for tensor in infer.inputs:
        if tensor.name not in INPUTS or tensor.name in found:
            told = "twice" if tensor.name in found else f"; expected {', '.join(INPUTS)}"
            raise Refusal(400, f"input {tensor.name[:80]!r}{told}", code="unknown_parameter")
        count = _count(tensor, images)
        found[tensor.name], rest = _values(tensor, count, rest)
    if rest:
        raise Refusal(400, f"{len(rest)} bytes follow the last tensor", code="invalid_value")
    if "label" not in found:
        raise Refusal(400, "the input label is missing", code="invalid_value")
    labels, seeds = found["label"], found.get("seed")
    if seeds is not None and len(seeds) != len(labels):
        raise Refusal(400, f"{len(seeds)} seeds for {len(labels)} labels", code="invalid_value")
    given = {name: value for name, value in infer.parameters.items() if name not in BINARY}
    return Asked(tuple(labels), None if seeds is None else tuple(seeds), convert(given, Settings), _outputs(infer), infer.id)


def write(arrays: dict[str, NDArray[Any]], asked: Asked, told: dict[str, Any]) -> tuple[bytes, int]:
    """An answer's body, and the length of its JSON."""
    outputs, tail = [], b""
    for name, binary in asked.outputs.items():
        array = np.ascontiguousarray(arrays[name])
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": NAMES[array.dtype]}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            tail += array.tobytes()
        else:
            tensor["data"] = array.ravel().tolist()
        outputs.append(tensor)
    answer = {**told, **({"id": asked.id} if asked.id is not None else {}), "outputs": outputs}
    head = msgspec.json.encode(answer)
    return head + tail, len(head)


def _length(header: str, most: int) -> int:
    if not header.isascii() or not header.isdigit() or not 0 < int(header[:12]) <= most or len(header) > 12:
        raise Refusal(400, f"Inference-Header-Content-Length is no length of a part of {most} bytes", code="invalid_value")
    return int(header)


def _count(tensor: Tensor, images: int) -> int:
    """How many values a tensor has: one axis, or a second of one."""
    shape = [length for place, length in enumerate(tensor.shape) if place == 0 or length != 1]
    if len(shape) != 1 or not 1 <= shape[0] <= images:
        raise Refusal(400, f"{tensor.name} has the shape {tensor.shape}; expected [n], 1 to {images}", code="invalid_value")
    if tensor.datatype not in INPUTS[tensor.name]:
        expected = " or ".join(INPUTS[tensor.name])
        raise Refusal(400, f"{tensor.name} is of {tensor.datatype[:40]!r}; expected {expected}", code="invalid_value")
    return shape[0]


def _values(tensor: Tensor, count: int, rest: bytes) -> tuple[list[Any], bytes]:
    """A tensor's values, and the bytes that belong to later ones."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return _listed(tensor, count), rest
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
        raise Refusal(400, f"{tensor.name} says it has {size} bytes, of {len(rest)}", code="invalid_value")
    data, rest = rest[:size], rest[size:]
    if tensor.datatype == "BYTES":
        return _texts(data, count), rest
    kind = TYPES[tensor.datatype].newbyteorder("<")
    if size != count * kind.itemsize:
        raise Refusal(400, f"{tensor.name} has {size} bytes; expected {count * kind.itemsize}", code="invalid_value")
    return np.frombuffer(data, kind).tolist(), rest


def _listed(tensor: Tensor, count: int) -> list[Any]:
    values = list(tensor.data or [])
    if len(values) == 1 and count == 1 and isinstance(values[0], list):
        values = values[0]
    kind = str if tensor.datatype == "BYTES" else int
    if len(values) != count or not all(isinstance(one, kind) and not isinstance(one, bool) for one in values):
        raise Refusal(400, f"{tensor.name} does not have {count} values of {tensor.datatype}", code="invalid_value")
    return values


def _texts(data: bytes, count: int) -> list[str]:
    """Texts, each behind its length in 4 bytes."""
    texts: list[str] = []
    place = 0
    try:
        while place < len(data) and len(texts) < count:
            end = place + 4 + int.from_bytes(data[place : place + 4], "little")
            if end > len(data):
                break
            texts.append(data[place + 4 : end].decode())
            place = end
    except UnicodeDecodeError as error:
        raise Refusal(400, "a label is no UTF-8", code="invalid_value") from error
    if len(texts) != count or place != len(data):
        raise Refusal(400, f"label does not hold {count} texts, each behind its length", code="invalid_value")
    return texts


def _outputs(infer: Infer) -> dict[str, bool]:
    """Names of the outputs that are wanted, all if none is named, and whether as bytes."""
    default = infer.parameters.get("binary_data_output") is True
    if not infer.outputs:
        return dict.fromkeys(OUTPUTS, default)
    strangers = [one.name[:80] for one in infer.outputs if one.name not in OUTPUTS]
    if strangers:
        raise Refusal(400, f"output {strangers[0]!r}; expected {', '.join(OUTPUTS)}", code="unknown_parameter")
    for one in infer.outputs:
        if set(one.parameters) - {"binary_data"}:
            told = f"output {one.name} has parameters other than binary_data, which nothing would come of"
            raise Refusal(400, told, code="unknown_parameter")
    return {one.name: one.parameters.get("binary_data", default) is True for one in infer.outputs}
