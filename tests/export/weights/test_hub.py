"""Kind: what is installed and set. Failures of the hub, its proxies and its mirrors are one line that names the setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_var.bundle.hub.client import CERTIFICATES, PROXIES, TIMEOUTS
from trt_var.errors import CheckpointError
from trt_var_export.weights import hub

NAMES = (*PROXIES, *TIMEOUTS, *CERTIFICATES, "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE")
SCRIPT = """
import sys
from trt_var.errors import CheckpointError
from trt_var_export.weights.hub import fetch
try:
    fetch("FoundationVision/var", "0123456789abcdef0123456789abcdef01234567", "var_d16.pth")
except CheckpointError as error:
    print(error)
"""


def fetched(tmp_path: Path, settings: dict[str, str]) -> str:
    """What a process with these settings says."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = {**kept, "HF_HOME": str(tmp_path), **settings}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(keepends=True)[-1]  # the hub may have its own line before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "check ALL_PROXY=socks5://127.0.0.1:9"),
        ({"HTTPS_PROXY": "socks5h://127.0.0.1:9"}, "check HTTPS_PROXY=socks5h://127.0.0.1:9"),
        ({"https_proxy": "ftp://me:secret@127.0.0.1:9"}, "check https_proxy=ftp://…@127.0.0.1:9"),
        (
            {"HF_ENDPOINT": "hf-mirror.com"},
            "check HF_ENDPOINT=hf-mirror.com (expected an address that begins with https://)",
        ),
        ({"HF_ENDPOINT": ""}, "check HF_ENDPOINT= (expected"),
        ({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, "check HF_HUB_DOWNLOAD_TIMEOUT=soon (expected seconds)"),
        ({"SSL_CERT_FILE": "/none"}, "check SSL_CERT_FILE=/none (not there)"),
        ({"HF_HUB_OFFLINE": "1"}, "check HF_HUB_OFFLINE=1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_are_named(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    said = fetched(tmp_path, settings)
    assert said.startswith("cannot fetch var_d16.pth of FoundationVision/var at revision 0123456789ab (")
    assert named in said
    assert "random:d16" in said
    assert said.endswith("\n")
    assert "secret" not in said


def test_another_revision_in_the_cache(tmp_path: Path) -> None:
    there = tmp_path / "hub" / "models--FoundationVision--var" / "snapshots" / ("fedcba9876543210" * 2) / "var_d16.pth"
    there.parent.mkdir(parents=True)
    there.touch()
    said = fetched(tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert f"give a file (the cache holds revision fedcba987654 of this one: {there})" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Unknown scheme"), "Unknown scheme"),
        (TypeError(), "TypeError"),
        (RuntimeError("first\nsecond"), r"\(first\)"),
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed"), "socksio"),
        (ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub"), "is not installed"),
        (ImportError("cannot import name 'x' from 'huggingface_hub'", name="huggingface_hub"), "broken .*--force-reinstall"),
    ],
)
def test_whatever_the_client_raises(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def download(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(CheckpointError, match=said):
        hub.fetch("a/b", "main", "c.pth")


@pytest.mark.parametrize("value", ["http://me:p@ss@host:1", "me:secret@host:1", "http://me:s/e@host:1"])
def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    def download(*arguments: object, **options: object) -> str:
        raise OSError(f"cannot connect to {value}")

    monkeypatch.setenv("HTTPS_PROXY", value)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(CheckpointError) as caught:
        hub.fetch("a/b", "main", "c.pth")
    assert "…@host:1" in str(caught.value)
    assert "me:" not in str(caught.value)
