"""The page at ``/``: one file, and the policy under which a browser runs it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

INLINE = {name: re.compile(rf"<{name}>(.*?)</{name}>".encode(), re.DOTALL) for name in ("script", "style")}


class Page:
    """Read once, answered from memory."""

    def __init__(self) -> None:
        self._body = files("trt_var.serving.app").joinpath("page.html").read_bytes()
        self._headers = {"Content-Security-Policy": _policy(self._body), "Cache-Control": "no-cache"}

    async def answer(self, request: Request) -> Response:
        """``GET /``."""
        return Response(self._body, headers=self._headers, media_type="text/html; charset=utf-8")


def _policy(page: bytes) -> str:
    """Nothing but the page's own script and style, which are known by their hashes; it talks to this service alone."""
    parts = {name: " ".join(map(_hash, pattern.findall(page))) for name, pattern in INLINE.items()}
    return (
        f"default-src 'none'; script-src {parts['script']}; style-src {parts['style']}; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
