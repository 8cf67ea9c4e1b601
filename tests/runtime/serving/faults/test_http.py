"""HTTP that no client would speak: an answer of 4xx, or the one to what was meant, and a service that goes on."""

from __future__ import annotations

import json
import re

import pytest

from talking import GENERATIONS, JSON, Answer, Served, answer, ask, asking, assert_right, exchange, get, talk, unharmed
from talking import request as http
from trt_var import Pipeline

THREE = b'{"prompt":3,"seed":1}'
KIND = f"Content-Type: {JSON}"
CHUNKED = [KIND, "Transfer-Encoding: chunked"]
REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "a header of 60,000 bytes": (http("/healthz", f"X: {'y' * 60_000}"), {200}),
    "a URL of 60,000 bytes": (http(f"/healthz?{'x' * 60_000}"), {200, 400}),
    "a URL of 100,000 bytes": (http(f"/healthz?{'x' * 100_000}"), {400, 414}),
    "a path of a million bytes": (http("/" + "x" * (1 << 20)), {400}),
    "HEAD": (http("/v1/models", method="HEAD"), {200}),
    "HEAD of what is posted": (http(GENERATIONS, method="HEAD"), {405}),
    "OPTIONS": (http(GENERATIONS, method="OPTIONS"), {405}),
    "OPTIONS *": (http("*", method="OPTIONS"), {400, 404}),
    "TRACE": (http("/v1/models", method="TRACE"), {405}),
    "CONNECT": (http("localhost:80", method="CONNECT"), {400, 404}),
    "CONNECT to a path": (http("/v1/models", method="CONNECT"), {405}),
    "DELETE": (http("/v1/models", method="DELETE"), {405}),
    "PUT": (http(GENERATIONS, method="PUT"), {405}),
    "PATCH of metrics": (http("/metrics", method="PATCH"), {405}),
    "PROPFIND": (http("/v1/classes", method="PROPFIND"), {405}),
    "get": (http("/v1/models", method="get"), {400, 405}),
    "a method that there is not": (http("/v1/models", method="FOO"), {400, 405}),
    "a method of 10,000 letters": (http("/v1/models", method="X" * 10_000), {400, 405}),
    "..": (http("/v1/../metrics"), {404}),
    "../..": (http("/../../etc/passwd"), {404}),
    "%2e%2e": (http("/%2e%2e/metrics"), {404}),
    "%2f": (http("/v1%2fmodels"), {200}),
    "//v1": (http("//v1/models"), {404}),
    "//v1/": (http("//evil.example/"), {404}),
    "a slash behind": (http("/v1/models/"), {307}),
    "%00": (http("/v1/models/%00"), {404}),
    "%zz": (http("/v1/models/%zz"), {404}),
    "half a surrogate pair": (http("/v1/models/%ED%A0%80"), {404}),
    "%ff": (http("/v1/models/%ff"), {404}),
    "no ASCII": (http("/v1/models/\xff"), {400}),
    "a null byte in the path": (http("/v1/\0"), {400}),
    "a space in the path": (http("/v1/mod els"), {400}),
    "a whole URL": (http("http://localhost/healthz"), {404}),
    "no slash": (http("healthz"), {400, 404}),
    "a fragment": (http("/healthz#x"), {200, 404}),
    "a backslash": (http("\\healthz"), {400, 404}),
    "HTTP/1.0": (http("/healthz").replace(b"HTTP/1.1", b"HTTP/1.0"), {200}),
    "HTTP/2.0": (http("/healthz").replace(b"HTTP/1.1", b"HTTP/2.0"), {200, 400}),
    "HTTP/9.9": (http("/healthz").replace(b"HTTP/1.1", b"HTTP/9.9"), {200, 400}),
    "no version": (b"GET /healthz\r\n\r\n", {400, 403}),
    "HTTP/2's beginning": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 403}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), {400}),
    "SSH": (b"SSH-2.0-OpenSSH_9\r\n\r\n", {400}),
    "null bytes": (bytes(1000), {400}),
    "bytes": (bytes(range(1, 256)) * 10 + b"\r\n\r\n", {400}),
    "no host": (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", {400, 403}),
    "line feeds alone": (http("/healthz").replace(b"\r\n", b"\n"), {200, 400}),
    "empty lines before": (b"\r\n\r\n" + http("/healthz"), {200, 400}),
    "a space before the colon": (http("/healthz", "X : y"), {400}),
    "no colon": (http("/healthz", "Xy"), {400}),
    "no name": (http("/healthz", ": y"), {400}),
    "a folded header": (http("/healthz", "X: y\r\n z"), {200, 400}),
    "control characters in a header": (http("/healthz", "X: \x01\x02"), {200, 400}),
    "no ASCII in a header": (http("/healthz", "X: \xff"), {200}),
    "two lengths": (http(GENERATIONS, KIND, "Content-Length: 5", body=THREE), {400}),
    **{
        f"a length of {length!r}": (http(GENERATIONS, KIND, f"Content-Length: {length}", method="POST"), {400, 413})
        for length in ("-1", "+5", "0x10", "", "1e3", "9" * 17, "9" * 30, "\xb2")
    },
    "a length and chunks": (http(GENERATIONS, *CHUNKED, body=THREE), {400}),
    "an unknown encoding": (http(GENERATIONS, KIND, "Transfer-Encoding: xchunked", method="POST"), {400, 501}),
    "chunks of no number": (http(GENERATIONS, *CHUNKED, method="POST") + b"zz\r\n", {400}),
    "a chunk of -1 bytes": (http(GENERATIONS, *CHUNKED, method="POST") + b"-1\r\n", {400}),
    "chunks": (http(GENERATIONS, *CHUNKED, method="POST") + b"15\r\n" + THREE + b"\r\n0\r\n\r\n", {200}),
    "a trailer": (http(GENERATIONS, *CHUNKED, method="POST") + b"15\r\n" + THREE + b"\r\n0\r\nX: y\r\n\r\n", {200}),
    "a body with GET": (http("/healthz", "Content-Length: 5") + b"hello", {200}),
    "a limit of 99999": (http("/v1/classes?limit=99999"), {400}),
    "a limit of ²": (http("/v1/classes?limit=%C2%B2"), {400}),
    "50,000 parameters": (http("/v1/classes?" + "&" * 50_000), {200, 400}),
    "a search of 50,000 letters": (http("/v1/classes?q=" + "x" * 50_000), {200, 400}),
    "a search of null bytes": (http("/v1/classes?q=%00&limit=1&limit=2"), {200}),
    "a search of half a surrogate pair": (http("/v1/classes?q=%ED%A0%80"), {200}),
    "a version of 10,000 digits": (http(f"/v2/models/digits/versions/{'9' * 10_000}"), {404}),
    "another protocol": (http("/healthz", "Connection: Upgrade", "Upgrade: websocket"), {200}),
}
HOSTS = {
    **dict.fromkeys(("localhost", "LOCALHOST", "LocalHost:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80"), 200),
    **dict.fromkeys(
        ("evil.example", "localhost.evil.example", "a@localhost", "localhost, evil.example", "", "127.0.0.2"), 403
    ),
    **dict.fromkeys(("evil.example:80", "xn--9ca.example", "[::2]", "localhost evil.example", "0.0.0.0", "\xff"), 403),
}
ORIGINS = {
    **dict.fromkeys(("http://localhost", "HTTP://LOCALHOST", "https://localhost"), 200),
    **dict.fromkeys(
        ("http://evil.example", "null", "", "localhost", "http://localhost.evil.example", "http://localhost:81"), 403
    ),
    **dict.fromkeys(("file://", "http://evil.example/http://localhost", "\xff"), 403),
}


def told(found: Answer) -> None:
    """A refusal says nothing of what is inside."""
    assert b"Traceback" not in found.body and b"trt_var" not in found.body and b".py" not in found.body
    assert len(found.body) < 4096


BROKEN = ["an unknown encoding", "chunks of no number", "a chunk of -1 bytes"]


own = pytest.mark.one_process("the proxy reads HTTP by another library")
STRICT = ("a whole URL", "no version", "no host")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[own] if name in STRICT else []) for name in REQUESTS])
def test_requests(service: Served, name: str) -> None:
    data, expected = REQUESTS[name]
    with unharmed(service):
        found = talk(service.url, data)
        assert found.status in expected, found
        if found.status >= 400:
            told(found)


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(service: Served, host: str) -> None:
    with unharmed(service):
        assert talk(service.url, http("/v1/models", host=host)).status == HOSTS[host]


@pytest.mark.parametrize("origin", ORIGINS)
def test_origins(service: Served, origin: str) -> None:
    with unharmed(service):
        found = talk(service.url, http(GENERATIONS, KIND, f"Origin: {origin}", body=THREE))
        assert found.status == ORIGINS[origin]
        assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize(("method", "expected"), [("GET", 200), ("POST", 405), ("PROPFIND", 405)])
def test_page(service: Served, method: str, expected: int) -> None:
    assert talk(service.url, http("/", method=method)).status == expected


@pytest.mark.parametrize("given", ["a", "abc.DEF_1-2", "0" * 64])
def test_a_request_id_comes_back(service: Served, given: str) -> None:
    assert get(service.url, "/healthz", f"X-Request-ID: {given}").headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", ["", "0" * 65, "a b", "a%0d%0ab", "é", "a\tb", '"a"', "a\r\nX-Evil: 1", "a;b", "../a", "{}"]
)
def test_a_request_id_of_one_s_own(service: Served, given: str) -> None:
    """A line break ends the header, and begins another that nobody heeds."""
    with unharmed(service):
        found = get(service.url, "/healthz", f"X-Request-ID: {given}")
        expected = "a" if "\r\n" in given else "[0-9a-f]{24}"
        assert re.fullmatch(expected, found.headers["x-request-id"]) and "x-evil" not in found.headers


@pytest.mark.parametrize("given", ["a\rb", "a\nX-Evil: 1", "a\0b"])
def test_a_request_id_that_is_no_header(service: Served, given: str) -> None:
    with unharmed(service):
        found = get(service.url, "/healthz", f"X-Request-ID: {given}")
        assert found.status in (200, 400) and "x-evil" not in found.headers


def test_a_request_is_continued(service: Served, digits: Pipeline) -> None:
    with unharmed(service):
        found = exchange(service.url, http(GENERATIONS, KIND, "Expect: 100-continue", body=THREE))
        assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert_right(answer(found.partition(b"\r\n\r\n")[2]), digits, 3, 1)


@own
def test_a_request_too_large_is_not_continued(service: Served) -> None:
    with unharmed(service):
        head = http(GENERATIONS, KIND, "Expect: 100-continue", "Content-Length: 104857600", method="POST")
        assert talk(service.url, head).status == 413


def test_pipelining(service: Served, digits: Pipeline) -> None:
    """Requests before the answers to those before them: all are answered, in their order."""
    seeds = (5, 6, 7)
    data = b"".join(asking({"prompt": 3, "seed": seed}, close=False) for seed in seeds)
    with unharmed(service):
        found = exchange(service.url, data + http("/healthz", close=False) * 50 + http("/v1/models"))
        rest = found
        for seed in seeds:
            first = answer(rest)
            length = int(first.headers["content-length"])
            assert_right(Answer(first.status, first.headers, first.body[:length]), digits, 3, seed)
            rest = first.body[length:]
        assert rest.count(b"HTTP/1.1 200 OK") == 51
        assert json.loads(rest.rpartition(b"\r\n\r\n")[2])["object"] == "list"


@own
def test_an_offer_of_http_2(service: Served, digits: Pipeline) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    found = talk(service.url, http(GENERATIONS, KIND, *offer, body=THREE, close=False))
    assert_right(found, digits, 3, 1)


def test_a_picture_after_all_that(service: Served, digits: Pipeline) -> None:
    assert_right(ask(service.url, {"prompt": 3, "seed": 1, "n": 2}), digits, 3, 1, 2)
