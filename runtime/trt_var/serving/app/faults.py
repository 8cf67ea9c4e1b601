"""Errors as answers."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from starlette.responses import Response

from trt_var.decoding.sampling import Sampling
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
from trt_var.serving.app.answers import as_json

LONGEST = 2000  # characters of a message: names come back in it
PARAMS = ("n_draft", *(field.name for field in fields(Sampling)), "seeds", "preset", "mask")  # that messages begin with


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
        return as_json(body, self.status, self.headers)


def _utf8(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode()


def no_such_model(asked: str, served: str, param: str | None = "model") -> Refusal:
    """Of a name that is not the served one's; both as they are to be shown."""
    return Refusal(404, f"there is no model {asked} here; this is {served}", param=param, code="model_not_found")


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
