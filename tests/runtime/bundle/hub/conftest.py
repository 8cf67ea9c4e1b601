"""A hub of the test's own; every warning is given anew."""

from __future__ import annotations

import pytest

from hubs import hub  # noqa: F401  # a fixture
from trt_var.bundle.hub import fetching


@pytest.fixture(autouse=True)
def _warned_of_nothing() -> None:
    fetching._warn.cache_clear()
