"""The Open Inference Protocol with tensors and lengths that lie: an answer of 400, or the pictures."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from talking import INFER, Served, asking, talk, unharmed
from talking import request as http
from trt_var import Pipeline

THREE = struct.pack("<q", 3)


def label(**other: Any) -> dict[str, Any]:
    return {"name": "label", "shape": [1], "datatype": "INT64", "data": [3], **other}


def seed(**other: Any) -> dict[str, Any]:
    return {"name": "seed", "shape": [1], "datatype": "UINT64", "data": [1], **other}


def behind(size: Any, **other: Any) -> dict[str, Any]:
    """A label whose bytes come behind the JSON."""
    found = label(parameters={"binary_data_size": size}, **other)
    if "data" not in other:
        del found["data"]
    return found


def text(*names: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(name)) + name for name in names)


LISTED: dict[str, tuple[dict[str, Any] | str | bytes, int]] = {
    **{f"shape {shape}": ({"inputs": [label(shape=shape)]}, 400) for shape in ([], [0], [-1], [2], [1, 0], [2, 1], [11])},
    **{
        f"a shape of {one}": ({"inputs": [label(shape=[one])]}, 400)
        for one in (10**30, 2**62, -(2**62), 1.5, True, None, "1")
    },
    **{f"shape is {shape!r}": ({"inputs": [label(shape=shape)]}, 400) for shape in ("1", 1, None, {}, [[1]])},
    "a shape of 100,000 ones": ({"inputs": [label(shape=[1] * 100_000)]}, 200),
    "a shape of 1000 huge numbers": ({"inputs": [label(shape=[-(2**62)] * 1000)]}, 400),
    "[1, 1], nested": ({"inputs": [label(shape=[1, 1], data=[[3]])]}, 200),
    "[2, 1], nested": ({"inputs": [label(shape=[2, 1], data=[[3], [4]])]}, 400),
    "no shape": ({"inputs": [{"name": "label", "datatype": "INT64", "data": [3]}]}, 400),
    **{
        f"of {kind[:9]!r}": ({"inputs": [label(datatype=kind)]}, 400)
        for kind in ("FP32", "", "int64", "BOOL", "x" * 100_000)
    },
    **{f"data {data!r}": ({"inputs": [label(data=data)]}, 400) for data in ([True], [3.0], None, [], [3, 3], [{}], ["3"])},
    **{f"labels of {n}": ({"inputs": [label(data=[n])]}, 400) for n in (10**30, 2**63, -(2**63), 11, -2)},
    "100,000 brackets": ('{"inputs":[{"name":"label","data":' + "[" * 100_000, 400),
    "parameters of 100,000 brackets": ('{"inputs":[],"parameters":{"cfg":' + "[" * 100_000, 400),
    "an integer of 10,000 digits": (f'{{"inputs":[{{"name":"label","data":[{"9" * 10_000}]}}]}}', 400),
    "an INT32 of more bits": ({"inputs": [label(datatype="INT32", data=[2**40])]}, 400),
    "BYTES": ({"inputs": [label(datatype="BYTES", data=["three"])]}, 200),
    "BYTES that are numbers": ({"inputs": [label(datatype="BYTES", data=[3])]}, 400),
    "a null byte": ({"inputs": [label(datatype="BYTES", data=["\0"])]}, 400),
    "half a surrogate pair": ({"inputs": [label(datatype="BYTES", data=["\ud800"])]}, 400),
    "half a surrogate pair as a name": ({"inputs": [label(name="\ud800")]}, 400),
    "half a surrogate pair as an id": ({"inputs": [label()], "id": "\ud800"}, 400),
    "half a surrogate pair as a parameter": ({"inputs": [label()], "parameters": {"\ud800": 1}}, 400),
    "half a surrogate pair as an output": ({"inputs": [label()], "outputs": [{"name": "\ud800"}]}, 400),
    "a seed of 2^64": ({"inputs": [label(), seed(data=[2**64])]}, 400),
    "a seed of 2^64 - 1": ({"inputs": [label(), seed(data=[2**64 - 1])]}, 200),
    "two seeds": ({"inputs": [label(), seed(shape=[2], data=[1, 2])]}, 400),
    "seeds as BYTES": ({"inputs": [label(), seed(datatype="BYTES", data=["1"])]}, 400),
    "labels twice": ({"inputs": [label(), label()]}, 400),
    "labels 10,000 times": ({"inputs": [label()] * 10_000}, 400),
    "another input": ({"inputs": [label(), label(name="x" * 100_000)]}, 400),
    "no labels": ({"inputs": [seed()]}, 400),
    **{f"inputs {one!r}": ({"inputs": one}, 400) for one in ([], {}, None, 3, "label", [3])},
    **{f"id {one!r}": ({"inputs": [label()], "id": one}, 400) for one in (3, [], {})},
    "an id of control characters": ({"inputs": [label()], "id": "\n\0\r"}, 200),
    "an id of 500,000 letters": ({"inputs": [label()], "id": "x" * 500_000}, 200),
    **{
        f"parameters {one!r}": ({"inputs": [label()], "parameters": one}, 400)
        for one in (None, [], 3, {"x": 1}, {"cfg": "1"})
    },
    **{f"{n} scales": ({"inputs": [label()], "parameters": {"scales": n}}, 400) for n in (0, 7, 10**18, 10**30)},
    **{f"N {n}": ({"inputs": [label()], "parameters": {"n_draft": n}}, 400) for n in (-1, 7, 10**19, 10**30, "x", 1.5)},
    **{
        f"outputs {one!r}": ({"inputs": [label()], "outputs": one}, 400)
        for one in ([1], [{"name": "x"}], {}, "images", [{}])
    },
    "an output 10,000 times": ({"inputs": [label()], "outputs": [{"name": "tokens"}] * 10_000}, 200),
    "NaN": ('{"inputs":[],"parameters":{"cfg":NaN}}', 400),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps({"inputs": [label()]}).encode(), 400),
    "UTF-16": (json.dumps({"inputs": [label()]}).encode("utf-16"), 400),
    "nothing": (b"", 400),
    "bytes": (bytes(range(256)) * 10, 400),
}
BEHIND: dict[str, tuple[dict[str, Any], bytes, int]] = {
    "as said": (behind(8), THREE, 200),
    "INT32": (behind(4, datatype="INT32"), THREE[:4], 200),
    **{f"{size!r} bytes": (behind(size), THREE, 400) for size in (9, 7, 0, -8, 2**62, 2**70, True, 8.0, "8", None, [8])},
    "bytes that follow": (behind(8), THREE + b"abc", 400),
    "no bytes": (behind(8), b"", 400),
    "ten images of eight bytes": (behind(8, shape=[10]), THREE, 400),
    "a list too": (behind(8, data=[4]), THREE, 200),
    "a text": (behind(9, datatype="BYTES"), text(b"three"), 200),
    "two texts": (behind(18, datatype="BYTES", shape=[2]), text(b"three", b"seven"), 200),
    "one text for two": (behind(9, datatype="BYTES", shape=[2]), text(b"three"), 400),
    "a text that says it is longer": (behind(9, datatype="BYTES"), b"\6\0\0\0three", 400),
    "a text that says it is shorter": (behind(9, datatype="BYTES"), b"\4\0\0\0three", 400),
    "a text of 4 GB": (behind(9, datatype="BYTES"), b"\xff\xff\xff\xffthree", 400),
    "half a length": (behind(3, datatype="BYTES"), b"\0\0\0", 400),
    "an empty text": (behind(4, datatype="BYTES"), text(b""), 400),
    "no text": (behind(0, datatype="BYTES"), b"", 400),
    "invalid UTF-8": (behind(6, datatype="BYTES"), text(b"\xff\xfe"), 400),
    "half a surrogate pair in UTF-8": (behind(7, datatype="BYTES"), text(b"\xed\xa0\x80"), 400),
}
LENGTHS = {
    **{
        str(one): 400
        for one in ("0", "-1", "1", "10", "9" * 11, "9" * 5000, "", "+{}", "{}.0", "0x10", "1e2", "1_0", "{},{}")
    },
    **dict.fromkeys(("\xb2", "1\xb2", "{}\xb2"), 400),
    "{}": 200,
    "0000{}": 200,
}


@pytest.mark.parametrize("name", LISTED)
def test_in_json(service: Served, name: str) -> None:
    given, expected = LISTED[name]
    with unharmed(service):
        found = talk(service.url, asking(given, path=INFER))
        assert found.status == expected, found
        assert expected == 200 or len(found.json["error"]) <= 2000


@pytest.mark.parametrize("name", BEHIND)
def test_behind_the_json(service: Served, name: str) -> None:
    given, tail, expected = BEHIND[name]
    head = json.dumps({"inputs": [given]}).encode()
    with unharmed(service):
        found = talk(service.url, http(INFER, f"Inference-Header-Content-Length: {len(head)}", body=head + tail))
        assert found.status == expected, found


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_of_the_json(service: Served, length: str) -> None:
    head = json.dumps({"inputs": [behind(8)]}).encode()
    said = length.replace("{}", str(len(head)))
    with unharmed(service):
        found = talk(service.url, http(INFER, f"Inference-Header-Content-Length: {said}", body=head + THREE))
        assert found.status == LENGTHS[length], found


@pytest.mark.parametrize("timeout", ["nan", "-1", "inf", "0", "\xb2", "", "1e9", "x", "--1", "1,2"])
def test_deadlines_that_are_none(service: Served, timeout: str) -> None:
    with unharmed(service):
        found = talk(service.url, asking({"inputs": [label()]}, f"X-Request-Timeout: {timeout}", path=INFER))
        assert found.status == 400, found


def test_the_answer_after_all_that(service: Served, digits: Pipeline) -> None:
    given = {"inputs": [label(shape=[2], data=[3, 7]), seed(shape=[2], data=[5, 2**64 - 1])], "parameters": {"n_draft": 4}}
    found = {one["name"]: one for one in talk(service.url, asking(given, path=INFER)).json["outputs"]}
    drawn = digits.generate([3, 7], seeds=[5, 2**64 - 1], n_draft=4)
    assert found["tokens"]["data"] == drawn.tokens.ravel().tolist()
    assert found["seed"]["data"] == [5, 2**64 - 1]
    apart = np.array(found["images"]["data"]) - drawn.images.ravel().astype(int)
    assert np.abs(apart).max() <= 1
