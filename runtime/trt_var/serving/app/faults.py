"""Errors as answers."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.responses import Response

from trt_var.errors import (
    BackendError,
    BundleError,
    DataError,
    DeadlineError,
    OverloadedError,
    TrtVarError,
    UsageError,
    printable,
)

LONGEST = 2000  # characters of a message: names come back in it


class Refusal(Exception):  # noqa: N818  # an answer, not a failure of ours
    """An answer other than what was asked for.

    Attributes:
        status: HTTP's.
        message: for people.
        param: the field that it is about.
        code: for programs.
        headers: that go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, _utf8(printable(message)[:LONGEST]), code
        self.param = None if param is None else _utf8(param)
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's clients know it."""
        return {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}

    def response(self, plain: bool = False) -> Response:
        """The answer; ``plain`` as the Open Inference Protocol has it."""
        body = {"error": self.message} if plain else {"error": self.body}
        return Response(msgspec.json.encode(body), self.status, self.headers, "application/json")


def _utf8(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode()


def refusal(error: TrtVarError) -> Refusal:
    """What an error of the library means to a client."""
    text = str(error)
    if isinstance(error, OverloadedError):
        again = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        if error.reason == "key":
            return Refusal(429, text, code="rate_limit_exceeded", headers=again)
        code = "draining" if error.reason == "draining" else "server_overloaded"
        closing = {"Connection": "close"} if error.reason == "draining" else {}
        return Refusal(503, text, code=code, headers={**again, **closing})
    if isinstance(error, DeadlineError):
        return Refusal(504, text, code="deadline_exceeded", headers={"x-should-retry": "false"})
    if isinstance(error, (UsageError, DataError)):
        return Refusal(400, text, param=_param(text), code=_code(text))
    if isinstance(error, (BackendError, BundleError)):
        return Refusal(503, text, code="engine_failed", headers={"Retry-After": "5"})
    return Refusal(500, text, code="internal_error")


PARAMS = (
    "n_draft",
    "cfg",
    "top_k",
    "top_p",
    "temperature",
    "guided_scales",
    "scales",
    "more_smooth",
    "seeds",
    "preset",
    "mask",
)


def _param(text: str) -> str | None:
    """The field that a message of the library begins with."""
    if text.startswith("label"):
        return "prompt"
    found = next((name for name in PARAMS if text.startswith((f"{name} ", f"the {name} "))), None)
    return "seed" if found == "seeds" else found


def _code(text: str) -> str:
    return "unknown_class" if text.startswith("label") else "invalid_value"


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
