"""The hub's client, which may not be installed, and what it raises, in the project's words: one line with the settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from trt_var.bundle.hub.address import Address
from trt_var.errors import BundleError, TrtVarError

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
TIMEOUTS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
INSTALL = 'pip install "trt-var[hub]"'


def library() -> ModuleType:
    """The hub's client.

    Raises:
        BundleError: not installed, or broken.
    """
    try:
        import huggingface_hub  # optional, and half a second: only for those who name an address
        import huggingface_hub.errors
        import huggingface_hub.utils

        return huggingface_hub
    except Exception as error:  # importing it reads settings, too
        missing = isinstance(error, ModuleNotFoundError) and error.name == "huggingface_hub"
        state = "is not installed" if missing else f"cannot be imported ({first_line(error)})"
        raise BundleError(f"an address on the hub needs huggingface_hub, which {state}: {INSTALL}") from error


@contextmanager
def told(what: str, address: Address) -> Iterator[None]:
    """Around calls of the client; ``what`` begins the message.

    It raises families of its own, those of HTTP libraries that have changed before, and plain ValueErrors for settings.

    Raises:
        BundleError: for whatever it raised.
    """
    try:
        with _quiet():
            yield
    except TrtVarError:
        raise
    except Exception as error:
        raise BundleError(f"cannot {what} {address}: {_trouble(error, address)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The client's progress bars are for terminals; it draws them anywhere."""
    bars = library().utils
    switched = not bars.are_progress_bars_disabled() and not (sys.stderr and sys.stderr.isatty())
    if switched:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if switched:
            bars.enable_progress_bars()


def is_final(error: Exception) -> bool:
    """Whether the hub has answered: what it said will not change when the network is better."""
    errors = library().errors
    return isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.EntryNotFoundError)


def _trouble(error: Exception, address: Address) -> str:
    errors, place = library().errors, f"{library().constants.ENDPOINT}/{address.repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated; accept its conditions at {place}, then log in with hf auth login or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no {place}, or it is private; check the name, log in with hf auth login or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{address.repository} has no revision {address.revision!r}; give a branch, a tag or a whole commit"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        where = f"the folder {address.folder}" if address.folder else "its root"
        return f"there is no manifest.json in {where}; expected what trt-var push uploads"
    return f"{said(error)}; {advice()}"


def said(error: Exception) -> str:
    """The first line, without passwords; of what lies below where the client only says that something did."""
    below = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" else None
    text = first_line(below or error)
    for setting in (*PROXIES, "HF_ENDPOINT"):
        if value := os.environ.get(setting):
            text = text.replace(value, _without_password(value))
    return text


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def advice() -> str:
    """The settings in force, and what is wrong with those that look wrong."""
    found = [*_endpoint(), *(f"{name}={_without_password(value)}" for name in PROXIES if (value := os.environ.get(name)))]
    if offline := os.environ.get("HF_HUB_OFFLINE"):
        found.append(f"HF_HUB_OFFLINE={offline}")
    values = {name: os.environ[name] for name in (*TIMEOUTS, *CERTIFICATES) if os.environ.get(name)}
    found += [f"{name}={values[name]} (expected seconds)" for name in TIMEOUTS if not values.get(name, "0").isdecimal()]
    found += [
        f"{name}={path} (not there)" for name, path in values.items() if name in CERTIFICATES and not Path(path).exists()
    ]
    return f"check {', '.join(found)}" if found else "check the network and HF_HUB_OFFLINE"


def _endpoint() -> Iterator[str]:
    if (value := os.environ.get("HF_ENDPOINT")) is not None:
        wrong = "" if re.match(r"https?://[^/]", value) else " (expected an address that begins with https://)"
        yield f"HF_ENDPOINT={_without_password(value)}{wrong}"


def _without_password(value: str) -> str:
    return re.sub(r"^(\w+://)?.*@", r"\1…@", value, flags=re.DOTALL)
