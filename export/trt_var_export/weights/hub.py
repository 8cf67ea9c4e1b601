"""Fetching released weights from the Hugging Face hub; a failure is one line with the reason and the settings in force."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trt_var.backends.failures import reason
from trt_var.backends.installed import trouble
from trt_var.errors import CheckpointError

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
TIMEOUTS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
INSTALL = "pip install 'trt-var[export]'"
SHOWN = 5  # revisions


def fetch(repository: str, revision: str, name: str) -> Path:
    """A file of a repository, from the cache if it is there.

    Raises:
        CheckpointError: cannot be fetched, with the settings that were in force and the revisions that the cache holds.
    """
    # the hub's client raises families of its own, of HTTP libraries that have changed before, and plain ImportErrors and
    # ValueErrors for proxies and addresses that these do not take; even importing it reads settings
    try:
        from huggingface_hub import hf_hub_download  # see above

        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        raise CheckpointError(
            f"cannot fetch {name} of {repository} at revision {revision[:12]} ({_reason(error)}); {_advice()}, "
            f"give a file{_cached(repository, name)}, or random:d16 to try without weights"
        ) from error


def _reason(error: Exception) -> str:
    """The first line, without passwords; of what lies below where the hub only says that something did."""
    if isinstance(error, ImportError) and (error.name or "").startswith("huggingface_hub"):
        return f"huggingface_hub {trouble(error, ('huggingface_hub',), INSTALL)}"
    below = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" else None
    said = reason(below or error)
    for setting in (*PROXIES, "HF_ENDPOINT"):
        if value := os.environ.get(setting):
            said = said.replace(value, _without_password(value))
    return said


def _advice() -> str:
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


def _cached(repository: str, name: str) -> str:
    """Other revisions of a file that an earlier download left, each of which can be given as a file."""
    try:
        from huggingface_hub import constants  # reads settings, and may fail

        snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
        there = sorted(path for path in snapshots.glob(f"*/{name}") if path.is_file())
    except (ImportError, OSError, ValueError):
        return ""
    if not there:
        return ""
    revisions = ", ".join(path.parent.name[:12] for path in there[:SHOWN])
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return f" (the cache holds revision {revisions}{more} of this one: {there[0]})"
