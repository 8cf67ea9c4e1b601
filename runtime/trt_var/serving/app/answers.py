"""What all routes and the guard have in common: answers as JSON, and where a request goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Scope

JSON, FORM = "application/json", "multipart/form-data"
CLIENT_GONE = 499  # as nginx counts them; nobody reads the answer
PLAIN = "/v2"  # whose errors are the Open Inference Protocol's


def as_json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is encoded."""
    return Response(msgspec.json.encode(body), status, headers, JSON)


def place(scope: Scope) -> str:
    """A request's path in the app, which may be mounted in another."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))
