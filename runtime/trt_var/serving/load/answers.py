"""What answers say: read once the run is over, so that reading costs the server nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from trt_var.serving.load.mix import Request
from trt_var.serving.load.service import OK, UNREADABLE

BLOCK = re.compile(rb"\r?\n\r?\n")


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The part of an answer that is counted.

    Attributes:
        problem: why an answer of status 200 is none, or not to what was asked; empty for a sound one.
        code: of an error.
        n_draft: the N that was drawn with.
        queue, draw: seconds that the request waited, and that it was drawn in, as the service says.
        first: seconds after the start of the run when the first preview was whole; None without one.
        reproducible: what the service promises of these pictures.
    """

    problem: str = ""
    code: str = ""
    n_draft: int | None = None
    queue: float | None = None
    draw: float | None = None
    first: float | None = None
    reproducible: str = ""


class _Timing(msgspec.Struct):
    queue_s: float | None = None
    draw_s: float | None = None


class _Image(msgspec.Struct):
    seed: int
    label: int


class _Picture(_Image):
    b64_json: str


class _Images(msgspec.Struct):
    data: list[_Image]
    n_draft: int
    timing: _Timing = msgspec.field(default_factory=_Timing)
    reproducible: str = ""


class _Pictures(msgspec.Struct):
    data: list[_Picture]


class _Completed(_Image):
    n_draft: int
    timing: _Timing = msgspec.field(default_factory=_Timing)
    reproducible: str = ""


class _Told(msgspec.Struct):
    code: str | None = None
    message: str = ""


class _Error(msgspec.Struct):
    error: _Told | str


_images, _pictures = msgspec.json.Decoder(_Images), msgspec.json.Decoder(_Pictures)
_completed, _picture = msgspec.json.Decoder(_Completed), msgspec.json.Decoder(_Picture)
_error = msgspec.json.Decoder(_Error)


def read(request: Request, status: int, body: bytes, marks: tuple[float, ...]) -> Answer:
    """What an answer says, but for its pixels; one that says something else than it must has a ``problem``."""
    if status != OK:
        return Answer(code=_code(body))
    try:
        return _streamed(request, body, marks) if request.stream else _whole(request, body)
    except UNREADABLE as error:
        return Answer(f"unreadable: {error}")


def pictures(request: Request, body: bytes) -> list[bytes]:
    """The pictures of a sound answer, in Base64.

    Raises:
        msgspec.MsgspecError, UnicodeError: an answer that is not one.
    """
    if not request.stream:
        return [picture.b64_json.encode() for picture in _pictures.decode(body).data]
    return [_picture.decode(data).b64_json.encode() for name, data, _ in events(body) if name.endswith(".completed")]


def events(body: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Server-sent events: name, data, and how many bytes there are up to their end; comments are left out."""
    start = 0
    for found in BLOCK.finditer(body):
        name, data = b"", []
        for line in body[start : found.start()].splitlines():
            field, _, value = line.partition(b":")
            if field == b"event":
                name = value.strip()
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        start = found.end()
        if data:
            yield name.decode("utf-8", "replace"), b"\n".join(data), start


def _whole(request: Request, body: bytes) -> Answer:
    found = _images.decode(body)
    return _ended(request, found, found.data, None)


def _streamed(request: Request, body: bytes, marks: tuple[float, ...]) -> Answer:
    first, completed, code = None, None, ""
    for name, data, end in events(body):
        if name == "error":
            code = _code(data) or "unknown"
        elif name.endswith(".completed"):
            completed = _completed.decode(data)
        elif name.endswith(".partial_image") and first is None:
            first = next((at for size, at in zip(marks[::2], marks[1::2], strict=True) if size >= end), None)
    if completed is None or code:
        return Answer("failed after its beginning" if code else "ends before its last event", code, first=first)
    return _ended(request, completed, [completed], first)


def _ended(request: Request, told: _Images | _Completed, images: Sequence[_Image], first: float | None) -> Answer:
    """Of an answer that came to its end."""
    timing, problem = told.timing, _differs(request, images)
    return Answer(problem, "", told.n_draft, timing.queue_s, timing.draw_s, first, told.reproducible)


def _differs(request: Request, found: Sequence[_Image]) -> str:
    """In what pictures are others than were asked for."""
    if len(found) != request.images:
        return f"{len(found)} pictures for {request.images}"
    if any(image.label != request.label for image in found):
        return "another label"
    if [image.seed for image in found] != list(range(request.seed, request.seed + request.images)):
        return "another seed"
    return ""


def _code(body: bytes) -> str:
    try:
        told = _error.decode(body).error
    except UNREADABLE:
        return "not as JSON"
    return told if isinstance(told, str) else told.code or ""
