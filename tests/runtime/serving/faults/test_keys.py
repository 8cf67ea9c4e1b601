"""API keys: files that are none, requests without one, and a key that is never said again."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from talking import (
    EDITS,
    FORM,
    GENERATIONS,
    INFER,
    Served,
    ask,
    asking,
    assert_right,
    connect,
    exchange,
    get,
    idle,
    talk,
    until,
)
from talking import request as http
from trt_var import Pipeline, UsageError
from trt_var.serving.app.keys import Keys

KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"
BEARER = f"Authorization: Bearer {KEY}"
OPEN = ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]
CLOSED = ["/", "/v1/models", "/v1/models/digits", "/v1/models/other", "/v1/classes", "/v2", "/v2/models/digits", "/metrics"]
CLOSED += ["/v2/models/digits/ready", "/v2/models/digits/versions/1", "/v2/models/digits/versions/1/ready", "/version"]
CLOSED += [
    "/openapi.json",
    "/nothing",
    "/healthz/",
    "//healthz",
    "/healthz/..",
    "/%2fhealthz",
    "/readyz%00",
    "/v2/health/live/",
]
WRONG = {
    "nothing": [],
    "an empty header": ["Authorization:"],
    "the key alone": [f"Authorization: {KEY}"],
    "no key": ["Authorization: Bearer"],
    "no key, a space": ["Authorization: Bearer "],
    "another key": [f"Authorization: Bearer {OTHER[:-1]}x"],
    "half a key": [f"Authorization: Bearer {KEY[:-1]}"],
    "more than a key": [f"Authorization: Bearer {KEY}x"],
    "a name": ["Authorization: Bearer alice"],
    "capitals": [f"Authorization: Bearer {KEY.upper()}"],
    "two keys": [f"Authorization: Bearer {KEY} {OTHER}"],
    "a null byte's escape": [f"Authorization: Bearer {KEY}%00"],
    "no ASCII": ["Authorization: Bearer \xff\xfe" + KEY],
    "60,000 bytes": ["Authorization: Bearer " + "x" * 60_000],
    "another kind": [f"Authorization: Digest {KEY}"],
    "Basic of no Base64": ["Authorization: Basic !!!"],
    "Basic of no UTF-8": ["Authorization: Basic " + base64.b64encode(b"\xff:\xfe").decode()],
    "Basic of no colon": ["Authorization: Basic " + base64.b64encode(KEY.encode()).decode()],
    "Basic with the key as the user": ["Authorization: Basic " + base64.b64encode(f"{KEY}:".encode()).decode()],
    "another header": [f"X-API-Key: {KEY}"],
    "a cookie": [f"Cookie: key={KEY}"],
    "a wrong one first": ["Authorization: Bearer x", BEARER],
}


def basic(text: str) -> str:
    return "Authorization: Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def guarded(served_by: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One with two keys, that of alice for eight images under way."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys"
    file.write_text(f"# ours\n\nalice {KEY}\n  bob\t{OTHER}  \n#carol {KEY}x\n")
    file.chmod(0o600)
    served = served_by(folder / "service.log", "--api-key-file", str(file), "--key-images", "8")
    yield served
    assert served.stop() == 0, served.log.read_text()


@pytest.mark.parametrize("path", CLOSED)
def test_routes_that_want_a_key(guarded: Served, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        found = talk(guarded.url, http(path, method=method))
        assert found.status == 401 and found.headers["www-authenticate"], (method, found)
        if method != "HEAD":
            assert "API key" in found.body.decode() and ("/v2" in path or found.code == "invalid_api_key")
    assert get(guarded.url, path, BEARER).status != 401


@pytest.mark.parametrize("path", OPEN)
def test_routes_that_want_none(guarded: Served, path: str) -> None:
    assert get(guarded.url, path).status == 200
    assert get(guarded.url, path, "Authorization: Bearer x").status == 200


@pytest.mark.one_process("the proxy asks for the body")
@pytest.mark.parametrize("path", [GENERATIONS, EDITS, INFER])
def test_a_body_is_not_read_without_a_key(guarded: Served, path: str) -> None:
    """It never comes; the answer does."""
    kind = FORM if path == EDITS else "application/json"
    found = talk(
        guarded.url, http(path, f"Content-Type: {kind}", "Expect: 100-continue", "Content-Length: 1000", method="POST")
    )
    assert found.status == 401


@pytest.mark.parametrize("name", WRONG)
def test_wrong_keys(guarded: Served, name: str) -> None:
    assert get(guarded.url, "/v1/models", *WRONG[name]).status == 401
    assert ask(guarded.url, {"prompt": 3}, *WRONG[name]).status == 401


@pytest.mark.parametrize(
    "header",
    [BEARER, f"authorization: bearer {KEY}", f"Authorization:   BEARER   {KEY}", basic(f"anyone:{KEY}"), basic(f":{KEY}")],
)
def test_right_keys(guarded: Served, digits: Pipeline, header: str) -> None:
    assert_right(ask(guarded.url, {"prompt": 3, "seed": 1}, header), digits, 3, 1)


@pytest.mark.one_process("the log is Ray's")
def test_a_key_is_said_nowhere(guarded: Served) -> None:
    """Not where it is right, nor where something goes wrong with it in any place."""
    told = [exchange(guarded.url, http(f"/v1/models/{KEY}", BEARER)).replace(f"model '{KEY}'".encode(), b"")]
    told += [exchange(guarded.url, asking(body, BEARER)) for body in ({"prompt": 3}, {"prompt": "x"}, "{", {"x": 1})]
    told += [exchange(guarded.url, http("/healthz", BEARER, f"X-Request-Timeout: {KEY}"))]
    told += [exchange(guarded.url, asking({"prompt": 3}, BEARER, f"X-Request-Timeout: {KEY}"))]
    told += [
        exchange(guarded.url, http("/v1/models", f"{BEARER}\rx")),
        exchange(guarded.url, http("/v1/models", f"{BEARER}x")),
    ]
    told += [exchange(guarded.url, http(f"/metrics?key={KEY}", BEARER)), exchange(guarded.url, http("/v1/classes", BEARER))]
    told += [exchange(guarded.url, asking({"prompt": 3}, BEARER)[:-5], shut=True)]  # a traceback, as things are
    assert not [one for one in told if KEY.encode() in one]
    until(lambda: '"status":' in guarded.log.read_text(), "it is logged")
    assert KEY not in guarded.log.read_text() and KEY not in exchange(guarded.url, http("/metrics", BEARER)).decode()
    assert '"alice"' in guarded.log.read_text() and '"bob"' not in guarded.log.read_text()


def test_a_key_s_images_come_back(guarded: Served, digits: Pipeline) -> None:
    """Whatever became of the requests that they were for: a stream's too, left at any moment."""
    for i in range(60):
        given = {"prompt": 3, "stream": True, "partial_images": 3} if i % 2 else {"prompt": 3, "n": 2}
        with connect(guarded.url) as client:
            client.sendall(asking(given, BEARER, close=False))
            if i % 3 == 0:
                client.recv(1)
    until(lambda: ask(guarded.url, {"prompt": 3, "n": 8}, BEARER).status == 200, "all of them are free again")
    assert_right(ask(guarded.url, {"prompt": 3, "seed": 1, "n": 8}, f"Authorization: Bearer {OTHER}"), digits, 3, 1, 8)
    assert idle(guarded.url, BEARER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n# only a comment\n",
        KEY,
        "alice",
        f"alice {KEY[:15]}",
        f"alice {'x' * 513}",
        f"alice {KEY} more",
        f"al ice {KEY}",
        f"alice:{KEY}",
        f"alice {KEY}\nbob {KEY}",
        f"alice {KEY}\nalice {OTHER}",
        f"alice {KEY} # a comment",
        f"älice {KEY}",
        f"alice {KEY}ä",
        f"{'x' * 65} {KEY}",
        f"alice {KEY}\0",
        f"alice\u00a0{KEY}",
        "\0" * 1000,
        "x" * 1_000_000,
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(UsageError) as raised:
        Keys(file)
    assert str(file) in str(raised.value) and KEY[:15] not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("kind", ["missing", "a folder", "no UTF-8", "unreadable", "UTF-16"])
def test_files_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "keys"
    if kind == "a folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes(f"alice {KEY}".encode("utf-16") if kind == "UTF-16" else b"alice \xff" + KEY.encode())
    if kind == "unreadable":
        file.chmod(0)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read everything")
    with pytest.raises(UsageError, match="cannot read the keys of"):
        Keys(file)


@pytest.mark.parametrize(
    "text",
    [f"alice {KEY}", f"alice {KEY}\r\n", f"\talice\t{KEY}\t\n", f"# x\n alice   {KEY}", f"a.b_c-1 {KEY}", f"alice {KEY}#!"],
)
def test_files_that_are_fine(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8", newline="")
    file.chmod(0o644)
    with caplog.at_level(logging.INFO):
        keys = Keys(file)
    assert keys.name(f"Bearer {text.split()[-1]}") == text.split()[-2]
    assert "may be read by others" in caplog.text and KEY not in caplog.text


def test_a_file_of_a_windows_editor(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"alice {KEY}\r\n", encoding="utf-8-sig")
    assert Keys(file).name(f"Bearer {KEY}") == "alice"
