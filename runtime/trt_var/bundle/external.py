"""The files that an ONNX graph reads beside itself, found without the onnx package.

A tensor may lie in another file, which its ``external_data`` names. Engines read whatever is named there, so a bundle looks
first. Only the messages of onnx.proto that can hold a tensor are walked; all else is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

# message → field number → the message there
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
KEY, VALUE = 1, 2
MAX_TAG = 1 << 32
Field = tuple[int, memoryview]


def locations(data: bytes) -> set[str]:
    """Every ``location`` of external data in a serialised ONNX model.

    Raises:
        ValueError: not a protobuf message that can be read in one way alone.
    """
    found: set[str] = set()
    pending: list[tuple[str, memoryview]] = [("model", memoryview(data))]
    while pending:
        kind, message = pending.pop()
        fields = _fields(message)
        if kind == "entry":
            keys = {bytes(value) for number, value in fields if number == KEY}
            if b"location" in keys:
                found |= {bytes(value).decode() for number, value in fields if number == VALUE}
            continue
        children = CHILDREN[kind]
        pending += [(children[number], value) for number, value in fields if number in children]
    return found


def through_link(path: Path) -> tuple[bytes, Path] | None:
    """A graph's content, and where its weights lie, if a link leads to either; else None: the path says it all.

    Engines take weights from the folder of the graph alone, and a store of contents keeps neither names nor neighbours. With
    ``relocated`` they read them where they lie. The graph is one that a bundle has checked.
    """
    if not any(entry.is_symlink() for entry in os.scandir(path.parent)):
        return None
    data = path.read_bytes()
    weights = path.parent / next(iter(locations(data)), path.name)
    return (data, weights.resolve()) if path.is_symlink() or weights.is_symlink() else None


def relocated(data: bytes, location: str) -> bytes:
    """A serialised ONNX model with another ``location`` of its external data."""
    return _relocated("model", memoryview(data), os.fsencode(location))


def _relocated(kind: str, message: memoryview, location: bytes) -> bytes:
    children, done = CHILDREN.get(kind, {}), bytearray()
    named = any(number == KEY and bytes(message[start:end]) == b"location" for number, start, end, _ in _spans(message))
    begun = 0
    for number, start, end, tag_end in _spans(message):
        if number in children:
            value = _relocated(children[number], message[start:end], location)
        elif kind == "entry" and named and number == VALUE:
            value = location
        else:
            continue
        done += b"".join((message[begun:tag_end], _as_varint(len(value)), value))
        begun = end
    return b"".join((done, message[begun:]))


def _fields(message: memoryview) -> list[Field]:
    """The length-delimited fields of a message."""
    return [(number, message[start:end]) for number, start, end, _ in _spans(message)]


def _spans(message: memoryview) -> list[tuple[int, int, int, int]]:
    """Number, start and end of every length-delimited field of a message, and where the tag before its length ends."""
    fields, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        tagged = at
        number, wire = tag >> 3, tag & 7
        if not number or tag >= MAX_TAG:
            raise ValueError(f"field {number} of an ONNX graph")
        if wire == VARINT:
            _, at = _varint(message, at)
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        elif wire == BYTES:
            size, at = _varint(message, at)
            fields.append((number, at, at + size, tagged))
            at += size
        else:
            raise ValueError(f"wire type {wire} in an ONNX graph")
        if at > len(message):
            raise ValueError("an ONNX graph that ends too early")
    return fields


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("an ONNX graph that ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes in an ONNX graph")


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
