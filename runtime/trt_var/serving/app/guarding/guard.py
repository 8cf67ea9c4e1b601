"""Around every request: its identity, its key, its origin, the time that it may take to come and to go; log and metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trt_var.serving.app.answers import CLIENT_GONE, PLAIN, place
from trt_var.serving.app.faults import Refusal
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.app.settings import Settings

log, faults = logging.getLogger("trt_var.serving.access"), logging.getLogger(__name__)
IDENTITY = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
CHALLENGE = 'Basic realm="trt-var", Bearer realm="trt-var"'  # Basic, so that a browser asks; Chromium reads the first alone
LONGEST_URL, LARGEST_HEADERS, MOST_HEADERS = 64 << 10, 64 << 10, 200
UPLOADS = "/v1/images/edits"
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
EXACT = {
    "/",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/models",
    "/v1/classes",
    "/v2",
    "/metrics",
    "/openapi.json",
    "/version",
    *OPEN,
}
PATTERNS = {
    "/v1/models/{id}": re.compile(r"/v1/models/[^/]+"),
    "/v2/models/{id}/infer": re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer"),
    "/v2/models/{id}/ready": re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready"),
    "/v2/models/{id}": re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?"),
}


class Told(dict[str, Any]):
    """What a log line says, for formatters that take it apart; JSON for others."""

    def __str__(self) -> str:
        return msgspec.json.encode(dict(self)).decode()


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._bodies = _Bodies(settings.bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Passage(self._settings, self._metrics, self._bodies, scope).pass_on(self._app, receive, send)


class _Bodies:
    """Bytes of all requests that are under way."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    def hold(self, count: int) -> None:
        """Some more have come.

        Raises:
            Refusal: more than there is room for.
        """
        self._held += count
        if self._held > self._most:
            told = "too much is being sent at once: ask again later"
            raise Refusal(503, told, code="overloaded", headers={"Retry-After": "1"})

    def let_go(self, count: int) -> None:
        """A request has been answered."""
        self._held -= count


class _Passage:
    """One request's way through."""

    def __init__(self, settings: Settings, metrics: Metrics, bodies: _Bodies, scope: Scope) -> None:
        self._settings, self._metrics, self._bodies, self._scope = settings, metrics, bodies, scope
        self._path = place(scope)
        self._headers, self._route = Headers(scope=scope), _route(self._path)
        self._began = time.monotonic()
        given = self._headers.get("x-request-id", "")
        self._identity = given if IDENTITY.fullmatch(given) else secrets.token_hex(12)
        self._status, self._streams, self._bytes = 0, False, 0
        self._body, self._body_ended = 0, False
        self._most = settings.upload if self._path == UPLOADS else settings.body
        self._plain = self._path.startswith(PLAIN)
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._state.update(key=None, told={}, began=self._began, request_id=self._identity)

    async def pass_on(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        try:
            refused = self._refused()
            if refused:
                await refused.response(self._plain)(self._scope, receive, self._sent)
            else:
                await app(self._scope, self._received, self._sent)
        except ClientDisconnect:  # before its request had come
            self._status = self._status or CLIENT_GONE
        except Exception:
            faults.exception("request %s failed", self._identity)
            if not self._status:
                broken = Refusal(500, "something went wrong here; the log has it by the request's id", code="internal_error")
                await broken.response(self._plain)(self._scope, receive, self._sent)
        finally:
            self._bodies.let_go(self._body)
            self._note()

    def _refused(self) -> Refusal | None:
        """Why a request goes no further."""
        length = self._headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > self._most:
            return self._too_large()
        if self._headers.get("content-encoding", "identity") != "identity":
            return Refusal(415, "compressed requests are not taken (Content-Encoding)", code="unsupported_media_type")
        if len(self._scope["path"]) + len(self._scope["query_string"]) > LONGEST_URL:
            return Refusal(414, f"the address is too long; expected {LONGEST_URL} bytes at most", code="request_too_large")
        headers = self._scope["headers"]
        if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > LARGEST_HEADERS:
            expected = f"expected {MOST_HEADERS} and {LARGEST_HEADERS} bytes at most"
            return Refusal(431, f"the headers are too many or too large; {expected}", code="request_too_large")
        if "content-length" in self._headers and "transfer-encoding" in self._headers:
            return Refusal(400, "a request has a length or is in chunks, not both", code="invalid_request")
        host, origin = self._headers.get("host", ""), self._headers.get("origin")
        if self._settings.hosts and self._path not in OPEN and _name(host) not in self._settings.hosts:
            return Refusal(403, "this service is not known by that name (Host)", code="unknown_host")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(403, "requests from other sites' pages are not answered (Origin)", code="foreign_origin")
        keys = self._settings.keys
        if keys is None or self._path in OPEN:
            return None
        name = keys.name(self._headers.get("authorization", ""))
        if name is None:
            told = "no valid API key; expected Authorization: Bearer KEY"
            return Refusal(401, told, code="invalid_api_key", headers={"WWW-Authenticate": CHALLENGE})
        self._state["key"] = name
        return None

    async def _received(self) -> Message:
        """The next part of the body, which may not take for ever; later, the news that the client has gone."""
        if self._body_ended:
            return await self._receive()
        left = self._began + self._settings.body_timeout - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except asyncio.TimeoutError as error:
            raise Refusal(408, "the request did not arrive in time", code="request_timeout") from error
        self._body_ended = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self._body += count
        self._bodies.hold(count)
        if self._body > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request is too large; expected {self._most} bytes at most", code="request_too_large")

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            self._streams = headers.get("content-type", "").startswith("text/event-stream")
            headers["X-Request-ID"] = self._identity
            for name, value in SAFE.items():
                headers.setdefault(name, value)
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def _note(self) -> None:
        seconds = time.monotonic() - self._began
        self._metrics.requests.labels(self._route, str(self._status)).inc()
        self._metrics.durations.labels(self._route, str(self._streams).lower()).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            told = Told(request_id=self._identity, key=self._state["key"], method=self._scope["method"])
            told.update(route=self._route, status=self._status, seconds=round(seconds, 6), bytes=self._bytes)
            told.update(self._state["told"])
            log.info(told)


def _route(path: str) -> str:
    if path in EXACT:
        return path
    return next((name for name, pattern in PATTERNS.items() if pattern.fullmatch(path)), "other")


def _name(host: str) -> str:
    """A host without its port."""
    return host.lower() if host.endswith("]") or ":" not in host else host.lower().rpartition(":")[0]
