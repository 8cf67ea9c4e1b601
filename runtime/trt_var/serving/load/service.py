"""The service under load: where it is, and what it says about itself."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from trt_var.errors import UsageError, printable

PROBE = 10.0  # seconds that the service has to say what it is
OWNER = "trt-var"
UNAUTHORISED, FORBIDDEN, UNAVAILABLE, OK = 401, 403, 503, 200
SHOWN = 200  # characters of an answer in a message
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)  # what is no JSON, or says something else


class Model(msgspec.Struct, frozen=True):
    """What /v1/models says of the bundle that is served.

    Attributes:
        id: the bundle's name.
        owned_by: ``trt-var``.
        classes: how many there are.
        scales: K.
        schedule: patch sides of the scales.
        max_images: images a request may ask for.
        backend: engine and arithmetic, for people.
        reproducible: what does not depend on the batch: ``tokens`` (float32), ``images`` (each is drawn alone), or ``no``.
        exact: whether everything is computed in float32.
        seconds: measured time of one image, by N, as far as it was measured.
    """

    id: str
    owned_by: str
    classes: int
    scales: int
    schedule: tuple[int, ...]
    max_images: int = 1
    backend: str = ""
    reproducible: str = "no"
    exact: bool = False
    seconds: dict[str, float] = {}


class _Models(msgspec.Struct):
    data: list[Model]


@dataclass(frozen=True)
class Target:
    """Where to send requests.

    Attributes:
        url: without a slash at its end.
        key: of the service, if it wants one.
        timeout: seconds, sent as X-Request-Timeout.
    """

    url: str
    key: str | None = None
    timeout: float | None = None

    def headers(self) -> dict[str, str]:
        """Of every request."""
        found = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key is not None:
            found["Authorization"] = f"Bearer {self.key}"
        if self.timeout is not None:
            found["X-Request-Timeout"] = f"{self.timeout:g}"
        return found


def checked_url(text: str) -> str:
    """An address as ``http://host:port``, with a path where the service lies behind one, without a slash at its end.

    Raises:
        UsageError: no such address.
    """
    hint = "expected http://HOST:PORT"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{text[:SHOWN]!r} is no address: {error}; {hint}") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{text[:SHOWN]!r} does not begin with http:// or https://; {hint}")
    if not parts.hostname or port == 0 or any(one.isspace() or not one.isprintable() for one in text):
        raise UsageError(f"{text[:SHOWN]!r} is no address; {hint}")
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address holds a user or a password; give the key in a file, --api-key-file")
    if parts.query or parts.fragment:
        raise UsageError(f"{text[:SHOWN]!r} has a query or a fragment; {hint}")
    return text.rstrip("/").removesuffix("/v1")


def read_key(path: Path) -> str:
    """The key of the first line of a file that is neither empty nor a comment (#): ``key``, or ``name key``.

    Raises:
        UsageError: it cannot be read, or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    words = next((line.split() for line in lines if line and not line.startswith("#")), [])
    if len(words) not in (1, 2) or not (words[-1].isascii() and words[-1].isprintable()):
        raise UsageError(f"{path} holds no key; expected a line 'key' or 'name key', printable ASCII")
    return words[-1]


async def look(target: Target) -> Model:
    """Ask the service what it serves.

    Raises:
        UsageError: nothing is there, it is not ready, it refuses the key, or it is another service.
    """
    where = f"{target.url}/v1/models"
    patience = aiohttp.ClientTimeout(total=PROBE)
    try:
        async with (
            aiohttp.ClientSession(headers=target.headers(), timeout=patience) as session,
            session.get(where, allow_redirects=False) as response,
        ):
            return _model(target, response.status, await response.read())
    except aiohttp.InvalidURL as error:
        raise UsageError(f"{target.url!r} is no address; expected http://HOST:PORT") from error
    except aiohttp.ClientSSLError as error:
        raise UsageError(f"{target.url}: no secure connection ({reason(error)})") from error
    except aiohttp.ClientConnectorError as error:
        raise UsageError(
            f"nothing listens at {target.url} ({reason(error)}); start it with trt-var serve, or correct the address"
        ) from error
    except asyncio.TimeoutError as error:
        raise UsageError(f"{target.url} does not answer within {PROBE:g} s; is it a trt-var service?") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UsageError(f"{target.url} is not a trt-var service: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why a connection failed, on one line, as the system says it."""
    cause = getattr(error, "os_error", None) or error
    number = getattr(cause, "errno", None)
    told = os.strerror(number) if isinstance(number, int) and number > 0 else getattr(cause, "strerror", None) or cause
    return printable(str(told) or type(cause).__name__)[:SHOWN]


def _model(target: Target, status: int, body: bytes) -> Model:
    if status == UNAUTHORISED:
        told = (
            "wants a key; give it with --api-key-file" if target.key is None else "does not know the key of --api-key-file"
        )
        raise UsageError(f"{target.url} {told}")
    if status == FORBIDDEN:
        raise UsageError(f"{target.url} refuses the request: {printable(body.decode('utf-8', 'replace'))[:SHOWN]}")
    if status == UNAVAILABLE:
        raise UsageError(f"{target.url} is not ready ({status}); wait until GET {target.url}/readyz answers 200")
    if status != OK:
        raise UsageError(f"{target.url} is not a trt-var service: GET /v1/models answers {status}")
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except UNREADABLE as error:
        raise UsageError(f"{target.url} is not a trt-var service: GET /v1/models: {printable(str(error))}") from error
    if not models or models[0].owned_by != OWNER or models[0].classes < 1:
        raise UsageError(f"{target.url} is not a trt-var service: GET /v1/models names no model of {OWNER}'s")
    return models[0]
