"""Bodies that no service may accept: each is answered 4xx, and costs nothing but that."""

from __future__ import annotations

from typing import Any

import msgspec

DEEP = 20_000  # brackets; more than any parser follows


def _body(**fields: Any) -> bytes:
    return msgspec.json.encode({"prompt": "0", "seed": 1} | fields)


KINDS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b'{"prompt": "0", "seed": ',
    "no object": b'["0", 1]',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "deep": b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not a number": b'{"prompt": "0", "cfg": NaN}',
    "unknown field": _body(colour="red"),
    "no prompt": msgspec.json.encode({"seed": 1}),
    "unknown class": _body(prompt="no such class as this one"),
    "too many images": _body(n=1000),
    "no images": _body(n=0),
    "n of another type": _body(n="many"),
    "seed out of range": _body(seed=2**64),
    "negative temperature": _body(temperature=-1.0),
    "N out of range": _body(n_draft=99),
    "several in a stream": _body(stream=True, n=2),
    "unknown format": _body(output_format="tiff"),
}
NAMES = tuple(KINDS)
