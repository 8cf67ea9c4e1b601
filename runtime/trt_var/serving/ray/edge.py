"""What Serve's proxies take from clients, and what the app does there: see docs/scale.md for how proxies come to use it."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trt_var.serving.app.guarding.guard import IDENTITY

IDENTITY_HEADER = b"x-request-id"
# by these a client would set Serve's own deadline, keep its request going after it left, or choose among replicas
REFUSED = ("x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id", "x-session-id")


def middlewares() -> list[Middleware]:
    """For a proxy, by the environment variable of its node."""
    return [Middleware(Edge)]


class Edge:
    """In a proxy, before Serve reads a request: headers that are meant for Serve do not come from clients."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope = {**scope, "headers": _cleaned(scope["headers"])}
        await self._app(scope, receive, send)


class Once:
    """Around the app: its ``X-Request-ID`` is left to the proxy, which adds the same one to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[IDENTITY_HEADER.decode()]
            await send(message)

        await self._app(scope, receive, sent)


def _cleaned(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without those, and with one identity, which may be written into logs."""
    given = [value.decode("latin-1") for name, value in headers if name == IDENTITY_HEADER]
    named = given[0] if given and IDENTITY.fullmatch(given[0]) else secrets.token_hex(12)
    kept = [(name, value) for name, value in headers if name != IDENTITY_HEADER and not _refused(name)]
    return [*kept, (IDENTITY_HEADER, named.encode())]


def _refused(name: bytes) -> bool:
    return name.decode("latin-1").lower().replace("_", "-") in REFUSED
