"""A bundle to be altered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(toy_bundle: Path, tmp_path: Path) -> Path:
    """The toy bundle, to be altered."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
