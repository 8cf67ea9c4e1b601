"""HTTP by hand, for requests that no client would send: bytes on a socket, and what comes back."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trt_var import Pipeline
from trt_var.bench.resident import highest

GENERATIONS, EDITS, INFER = "/v1/images/generations", "/v1/images/edits", "/v2/models/digits/infer"
JSON, BOUNDARY = "application/json", "XX"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PATIENCE, LOOK = 60.0, 0.02  # seconds after which an answer counts as lost, on a slow machine too; between looks
Found = TypeVar("Found")
Part = tuple[str | bytes, str | bytes, str | bytes | None]
"""Of a form: name, value, and a file's name."""


class Served(Protocol):
    """A service in a process of its own; see conftest.py beside the tests of serving."""

    url: str
    log: Path
    process: subprocess.Popen[str]

    def stop(self, number: int = ...) -> int: ...


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of an error."""
        error = self.json["error"]
        return error["code"] if isinstance(error, dict) else error


def connect(url: str, room: int | None = None) -> socket.socket:
    """A connection, with ``room`` for so many bytes that come."""
    place = urlsplit(url)
    found = socket.socket()
    if room is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    found.settimeout(PATIENCE)
    found.connect((place.hostname, place.port))
    return found


def request(
    path: str,
    *headers: str,
    body: bytes | None = None,
    method: str | None = None,
    host: str = "localhost",
    close: bool = True,
) -> bytes:
    """A request's bytes."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", f"Host: {host}", *headers]
    lines += ([] if body is None else [f"Content-Length: {len(body)}"]) + (["Connection: close"] if close else [])
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def asking(given: Any, *headers: str, path: str = GENERATIONS, close: bool = True) -> bytes:
    """A request in JSON: an object, or text or bytes that may be none."""
    text = given if isinstance(given, bytes | str) else json.dumps(given)
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return request(path, f"Content-Type: {JSON}", *headers, body=body, close=close)


def exchange(url: str, *parts: bytes, shut: bool = False) -> bytes:
    """Send bytes, and read until the other side ends; a connection that hangs fails."""
    found = b""
    with connect(url) as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough; what did it say?
            for part in parts:
                client.sendall(part)
            if shut:
                client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while chunk := hear(client):
                found += chunk
    return found


def hear(client: socket.socket) -> bytes:
    """What comes next; nothing at the end. Seconds in which the machine sleeps do not count."""
    client.settimeout(1.0)
    for _ in range(round(PATIENCE)):
        with suppress(TimeoutError):
            return client.recv(1 << 16)
    raise AssertionError("a connection hangs")


def answer(data: bytes) -> Answer:
    """The first answer of what came; status 0 if nothing did."""
    if not data:
        return Answer(0, {}, b"")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    assert re.match(r"HTTP/1\.[01] [0-9]{3} ", first), data[:200]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    return Answer(int(first.split()[1]), headers, body)


def _joined(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        found, body = found + body[:length], body[length + 2 :]
    return found


def talk(url: str, *parts: bytes, shut: bool = False) -> Answer:
    return answer(exchange(url, *parts, shut=shut))


def ask(url: str, given: Any, *headers: str, path: str = GENERATIONS) -> Answer:
    return talk(url, asking(given, *headers, path=path))


def get(url: str, path: str, *headers: str) -> Answer:
    return talk(url, request(path, *headers))


def events(body: bytes) -> list[tuple[str, Any]]:
    """Server-sent events: names and data."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def metrics(url: str, *headers: str) -> dict[str, float]:
    text = get(url, "/metrics", *headers).body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def under_way(url: str, *headers: str) -> float:
    """Images that wait or are drawn."""
    found = metrics(url, *headers)
    return found["trt_var_queue_images"] + found["trt_var_running_images"]


def idle(url: str, *headers: str) -> bool:
    """Whether none do; of replicas on Ray Serve that is not known here."""
    return os.environ.get("TRT_VAR_SERVE") == "ray" or not under_way(url, *headers)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something; looks are counted, not seconds, in which the machine may have slept."""
    for _ in range(round(seconds / LOOK)):
        if condition():
            return
        time.sleep(LOOK)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def ended(process: subprocess.Popen[str], seconds: float = PATIENCE) -> int:
    """The exit status of a process that should end."""
    until(lambda: process.poll() is not None, "the process ends", seconds)
    return process.returncode


@contextmanager
def unharmed(service: Served) -> Iterator[None]:
    """What happens inside leaves a healthy service: ready, nothing in its queue, no failure and no traceback in its log."""
    begin = service.log.stat().st_size
    yield
    until(lambda: idle(service.url), "the queue is empty")
    assert get(service.url, "/readyz").json == {"status": "ready"}
    with service.log.open("rb") as log:
        log.seek(begin)
        told = log.read()
    assert b"Traceback" not in told and b'"status":5' not in told


def grown(service: Served, act: Callable[[], Any]) -> int:
    """By how many bytes a service's memory was larger meanwhile, at its peak."""
    folder = Path(f"/proc/{service.process.pid}")
    (folder / "clear_refs").write_text("5")  # forgets the peak
    before = highest(folder / "status")
    act()
    return highest(folder / "status") - before


def together(count: int, call: Callable[[int], Found]) -> tuple[list[threading.Thread], dict[int, Found]]:
    """Calls at the same time; what they find is there once their threads have ended."""
    found: dict[int, Found] = {}

    def one(place: int) -> None:
        found[place] = call(place)

    threads = [threading.Thread(target=one, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


def joined(threads: Sequence[threading.Thread]) -> None:
    until(lambda: not any(thread.is_alive() for thread in threads), "all requests are answered")


def form(*parts: Part, boundary: str = BOUNDARY, ended: bool = True) -> bytes:
    """A body of multipart/form-data."""
    found = b""
    for name, value, file in parts:
        named = b"" if file is None else b'; filename="' + _bytes(file) + b'"\r\nContent-Type: image/png'
        found += f"--{boundary}\r\n".encode() + b'Content-Disposition: form-data; name="' + _bytes(name) + b'"' + named
        found += b"\r\n\r\n" + _bytes(value) + b"\r\n"
    return found + (f"--{boundary}--\r\n".encode() if ended else b"")


def edit(url: str, body: bytes, kind: str = FORM) -> Answer:
    return talk(url, request(EDITS, f"Content-Type: {kind}", body=body))


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def made_png(width: int, height: int, data: bytes = b"", *, depth: int = 8, colour: int = 6, ended: bool = True) -> bytes:
    """A PNG that says what it likes."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, colour, 0, 0, 0))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), *([(b"IEND", b"")] if ended else [])]
    found = b"\x89PNG\r\n\x1a\n"
    for kind, inside in chunks:
        found += len(inside).to_bytes(4, "big") + kind + inside + zlib.crc32(kind + inside).to_bytes(4, "big")
    return found


def pixels(file: str) -> NDArray[np.uint8]:
    """Of a file in Base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(file, validate=True))).convert("RGB"))


def assert_right(found: Answer, pipeline: Pipeline, label: int, seed: int, images: int = 1) -> None:
    """An answer holds the pictures that the pipeline draws, of consecutive seeds, up to rounding."""
    assert found.status == 200, found
    told = found.json
    assert [(one["label"], one["seed"]) for one in told["data"]] == [(label, seed + i) for i in range(images)]
    for one in told["data"]:
        assert_picture(one, pipeline, told["n_draft"])


def assert_picture(one: dict[str, Any], pipeline: Pipeline, n_draft: int) -> None:
    drawn = pipeline.generate(one["label"], seeds=one["seed"], n_draft=n_draft).images[0]
    apart = np.abs(pixels(one["b64_json"]).astype(int) - drawn)
    assert apart.max() <= 1, f"label {one['label']}, seed {one['seed']}: {apart.max()} of 255 apart"
