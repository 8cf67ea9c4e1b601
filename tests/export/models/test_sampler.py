"""The draw inside the graph against the contract of docs/decoding.md, written out with NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import assert_close
from trt_var_export.models.sampler import draw, guide


def contract(logits: NDArray[np.float32], u: float, top_k: int, top_p: float, temperature: float) -> int:
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))  # ties: the lower index first
    kept = order[:top_k]
    ascending = kept[::-1]
    probability = np.exp(logits[ascending].astype(np.float64) - logits[kept[0]])
    drop = np.cumsum(probability / probability.sum()) <= 1 - top_p
    drop[-1] = False
    left = [token for token, dropped in zip(ascending, drop, strict=True) if not dropped][::-1]
    tempered = np.exp((logits[left].astype(np.float64) - logits[left[0]]) / temperature)
    exceeds = np.flatnonzero(np.cumsum(tempered / tempered.sum()) > u)
    return int(left[exceeds[0] if len(exceeds) else -1])


def drawn(
    logits: NDArray[np.float32], u: NDArray[np.float32], top_k: int, top_p: float, temperature: float, width: int
) -> NDArray[np.int32]:
    batch = logits.shape[1]
    settings = (
        torch.full((1, batch), top_k, dtype=torch.int32),
        torch.full((1, batch), top_p),
        torch.full((1, batch), temperature),
    )
    return draw(torch.from_numpy(logits), torch.from_numpy(u), *settings, width).numpy()


@pytest.mark.parametrize("top_k", [1, 5, 200, 256])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.96, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_contract(top_k: int, top_p: float, temperature: float) -> None:
    rng = np.random.default_rng(top_k)
    logits = (rng.standard_normal((100, 2, 300)) * 3).astype(np.float32)
    u = rng.random((100, 2), np.float32)
    found = drawn(logits, u, top_k, top_p, temperature, 256)
    expected = np.array([[contract(logits[i, j], u[i, j], top_k, top_p, temperature) for j in range(2)] for i in range(100)])
    share = (found == expected).mean()
    assert share >= 0.99, f"{share:.3f} of the draws follow the contract; rounding explains less than 0.01"


def test_extremes_of_u() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32)).reshape(1, 1, 3)
    largest = np.nextafter(np.float32(1), np.float32(0))
    assert drawn(logits, np.full((1, 1), 0, np.float32), 3, 1.0, 1.0, 3).item() == 0
    assert drawn(logits, np.full((1, 1), largest, np.float32), 3, 1.0, 1.0, 3).item() == 2
    assert drawn(logits, np.full((1, 1), largest, np.float32), 3, 0.6, 1.0, 3).item() == 1  # 0.5 < 0.6: the second stays


def test_draws_are_distributed_as_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32)).reshape(1, 1, 3).repeat(20000, 0)
    u = np.random.default_rng(0).random((20000, 1), np.float32)
    shares = np.bincount(drawn(logits, u, 3, 1.0, 1.0, 3)[:, 0], minlength=3) / 20000
    assert_close(shares, [0.5, 0.3, 0.2], absolute=0.015)


def test_guidance() -> None:
    logits = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [10.0, 20.0], [30.0, 40.0]]])
    guided = guide(logits, torch.tensor([[0.0, 0.5]]))
    assert_close(guided, [[[1.0, 2.0], [1.5 * 3 - 0.5 * 30, 1.5 * 4 - 0.5 * 40]]])
