"""Labels by number and name."""

from __future__ import annotations

import pytest

from trt_var import UsageError
from trt_var.requests.labels import resolve


def test_null_class_by_number() -> None:
    assert resolve(["10", 10, "+9"], (), 10) == [10, 10, 9]
    with pytest.raises(UsageError, match="classes 0 to 9, and 10 for no class"):
        resolve([11], (), 10)
