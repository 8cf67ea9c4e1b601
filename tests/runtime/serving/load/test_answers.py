"""Answers read: what is sound, what is not, when a preview was there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trt_var.serving.load.answers import Answer, events, pictures, read
from trt_var.serving.load.mix import Request

ASKED = Request(b"", label=3, seed=7, images=2)
STREAM = Request(b"", label=3, seed=7, images=1, stream=True)


def whole(**changes: Any) -> bytes:
    data = [{"b64_json": "QQ==", "seed": 7 + i, "label": 3, "revised_prompt": "3: three"} for i in range(2)]
    answer = {"data": data, "n_draft": 4, "reproducible": "tokens", "timing": {"queue_s": 0.25, "draw_s": 0.5}, "usage": {}}
    return json.dumps(answer | changes).encode()


def test_whole() -> None:
    assert read(ASKED, 200, whole(), ()) == Answer("", "", 4, 0.25, 0.5, None, "tokens")
    assert pictures(ASKED, whole()) == [b"QQ=="] * 2
    assert read(ASKED, 200, whole(timing={}), ()).queue is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (whole(data=[]), "0 pictures for 2"),
        (whole(data=[{"b64_json": "", "seed": 7 + i, "label": 4} for i in range(2)]), "another label"),
        (whole(data=[{"b64_json": "", "seed": 7, "label": 3} for i in range(2)]), "another seed"),
        (whole(n_draft="4"), "unreadable"),
        (b"", "unreadable"),
        (b"\xff", "unreadable"),
        (b"[" * 100_000, "unreadable"),
    ],
)
def test_unsound(body: bytes, problem: str) -> None:
    assert read(ASKED, 200, body, ()).problem.startswith(problem)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"message": "m", "type": "t", "param": null, "code": "rate_limit_exceeded"}}', "rate_limit_exceeded"),
        (b'{"error": {"message": "m", "code": null}}', ""),
        (b'{"error": "plain text"}', "plain text"),
        (b"Internal Server Error", "not as JSON"),
    ],
)
def test_errors(body: bytes, code: str) -> None:
    assert read(ASKED, 429, body, ()) == Answer(code=code)


def event(name: str, **fields: Any) -> bytes:
    return (
        f"event: {name}\ndata: {json.dumps({'b64_json': 'QQ==', 'seed': 7, 'label': 3, 'n_draft': 4} | fields)}\n\n".encode()
    )


PREVIEW = event("image_generation.partial_image", partial_image_index=0)
LAST = event("image_generation.completed", timing={"queue_s": 0.5}, reproducible="tokens")


def test_stream() -> None:
    body = b": hello\n\n" + PREVIEW + PREVIEW + LAST
    marks = (9.0, 1.0, 9.0 + len(PREVIEW) - 1, 1.5, 9.0 + len(PREVIEW), 2.0, float(len(body)), 3.0)
    assert read(STREAM, 200, body, marks) == Answer("", "", 4, 0.5, None, 2.0, "tokens"), "whole with the third chunk"
    assert pictures(STREAM, body) == [b"QQ=="]
    windows = body.replace(b"\n", b"\r\n")
    assert read(STREAM, 200, windows, (float(len(windows)), 1.0)).first == 1.0


@pytest.mark.parametrize(
    ("body", "problem", "code"),
    [
        (PREVIEW, "ends before its last event", ""),
        (PREVIEW + LAST[:-1], "ends before its last event", ""),
        (
            PREVIEW + event("error", error={"code": "engine_failed", "message": ""}),
            "failed after its beginning",
            "engine_failed",
        ),
        (event("image_generation.completed", seed=8), "another seed", ""),
        (b"event: image_generation.completed\ndata: {\n\n", "unreadable", ""),
        (b"", "ends before its last event", ""),
    ],
)
def test_unsound_streams(body: bytes, problem: str, code: str) -> None:
    found = read(STREAM, 200, body, (float(len(body)), 2.0))
    assert found.problem.startswith(problem) and found.code == code
    assert found.first == (2.0 if body.startswith(PREVIEW) else None)


def test_events() -> None:
    body = b"data: 1\ndata:2\n\n: comment\n\nevent: a\nretry: 5\n\nevent:b\ndata: x\n\ndata: cut"
    assert list(events(body)) == [("", b"1\n2", 16), ("b", b"x", body.index(b"data: cut"))]
