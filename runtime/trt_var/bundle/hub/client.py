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
PASSING = (408, 429)  # took too long, asked too often
LOGIN = "log in with hf auth login or set HF_TOKEN"
INSTALL = 'pip install "trt-var[hub]"'


def library() -> ModuleType:
    """The hub's client.

    Raises:
        BundleError: not installed, or broken.
    """
    try:
        import huggingface_hub  # optional, and half a second: only for those who name an address
        import huggingface_hub.constants
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
    """The client's progress bars are for terminals; it draws them anywhere, unless HF_HUB_DISABLE_PROGRESS_BARS says."""
    bars, settled = library().utils, library().constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    switched = not (settled or bars.are_progress_bars_disabled() or (sys.stderr and sys.stderr.isatty()))
    if switched:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if switched:
            bars.enable_progress_bars()


def is_final(error: Exception) -> bool:
    """Whether the hub has answered: what it refused, it will not give when the network is better."""
    return 400 <= _status(error) < 500 and _status(error) not in PASSING


def _status(error: Exception) -> int:
    """Of the answer; 0 if there was none."""
    found: int = getattr(getattr(error, "response", None), "status_code", 0)
    return found


def _trouble(error: Exception, address: Address) -> str:
    errors, place = library().errors, f"{cleaned(library().constants.ENDPOINT)}/{address.repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated; accept its conditions at {place}, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no {place}, or it is private; check the name, {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{address.repository} has no revision {address.revision!r}; give a branch, a tag or a whole commit"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        where = f"the folder {address.folder}" if address.folder else "its root"
        return f"there is no manifest.json in {where}; expected what trt-var push uploads"
    if isinstance(error, errors.DisabledRepoError):
        return f"{place} is disabled on the hub"
    if _status(error) == 401:
        return f"the hub does not know who asks ({said(error)}); {LOGIN}"
    if _status(error) == 403:
        return f"{said(error)}; whoever logged in may not do this: check the owner's name and the rights of the token"
    return f"{said(error)}; {advice()}"


def said(error: Exception) -> str:
    """The first line; of what lies below where the client only says that something did."""
    below = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" else None
    return first_line(below or error)


def first_line(error: BaseException) -> str:
    """What an error says first, without passwords; its type where it says nothing."""
    return next((line.strip() for line in cleaned(str(error)).splitlines() if line.strip()), type(error).__name__)


def cleaned(text: str) -> str:
    """Without passwords in addresses, which clients write in more than one way, and without tokens."""
    for setting in (*PROXIES, "HF_ENDPOINT"):
        if value := os.environ.get(setting):
            text = text.replace(value, _without_password(value))
    text = re.sub(r"://[^\s/?#]*@", "://…@", text)
    return re.sub(r"(Bearer ).*|\bhf_[A-Za-z0-9]{20,}", lambda found: f"{found[1] or ''}…", text)


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
