"""Hooks of Schemathesis: half of the bodies that it invents are made such that the service draws.

What it invents of tensors, or of a form with files, is else refused before it gets far.
"""

from __future__ import annotations

import io
from itertools import count
from typing import Any

import schemathesis
from PIL import Image

KNOWN = ("n", "n_draft", "cfg", "top_k", "top_p", "seed", "scales", "output_format", "stream", "partial_images")
number = count()  # what is invented comes in the same order every time


def file(mode: str, colour: tuple[int, ...]) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (32, 32), colour).save(written, "PNG")
    return written.getvalue()


FILES = {"image": file("RGB", (90, 60, 30)), "mask": file("RGBA", (0, 0, 0, 0))}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    place = next(number)
    if not isinstance(body, dict) or place % 2:
        return body
    if context.operation.path.endswith("/infer"):
        labels = [place % 10] * (1 + place % 3)
        tensors = [{"name": "label", "shape": [len(labels)], "datatype": "INT64", "data": labels}]
        if place % 4:
            tensors.append({"name": "seed", "shape": [len(labels)], "datatype": "UINT64", "data": labels})
        return {"inputs": tensors, "outputs": [{"name": "tokens"}, {"name": "seed"}], "parameters": {"n_draft": place % 7}}
    if context.operation.path.endswith("/edits"):
        return {**FILES, "prompt": str(place % 10), **{name: body[name] for name in KNOWN if name in body}}
    return body
