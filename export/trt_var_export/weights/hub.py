"""Fetching released weights from the Hugging Face hub; a failure is one line with the reason and the settings in force."""

from __future__ import annotations

from pathlib import Path

from trt_var.backends.installed import trouble
from trt_var.bundle.hub.client import advice, said
from trt_var.errors import CheckpointError

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
            f"cannot fetch {name} of {repository} at revision {revision[:12]} ({_reason(error)}); {advice()}, "
            f"give a file{_cached(repository, name)}, or random:d16 to try without weights"
        ) from error


def _reason(error: Exception) -> str:
    """In one line; of a client that cannot be imported also how to install it."""
    if isinstance(error, ImportError) and (error.name or "").startswith("huggingface_hub"):
        return f"huggingface_hub {trouble(error, ('huggingface_hub',), INSTALL)}"
    return said(error)


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
