"""The digits and what their layers saw."""

from __future__ import annotations

import pytest

from calibrating import open_digits, seen
from trt_var.bundle.opening import Bundle
from trt_var_calibration.observe import Observed


@pytest.fixture(scope="module")
def digits() -> Bundle:
    """The shipped bundle."""
    return open_digits()


@pytest.fixture(scope="module")
def observed() -> Observed:
    """What its layers saw, taken once for all tests."""
    return seen()
