"""Numbers that a seed stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_var.decoding import sampling


def test_noise_is_finite_where_the_exponential_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def standard_exponential(self, shape: tuple[int, int], dtype: type) -> Any:
            return np.zeros(shape, dtype)

    monkeypatch.setattr(sampling.np.random, "Generator", lambda bits: Zero())
    assert np.isfinite(sampling.gumbel([1], 2, 3)).all()
