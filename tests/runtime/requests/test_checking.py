"""What a request may hold: numbers of every kind, and none that cannot be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_var import UsageError
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.sampling import Sampling
from trt_var.requests.checking import Run, prepare


def ask(manifest: Manifest, **change: Any) -> Run:
    asked: dict[str, Any] = {"wanted": 1, "seeds": 0, "n_draft": None, "sampling": "default", "batch_size": 8, **change}
    return prepare(manifest, (), **asked)


def test_numbers_of_numpy(manifest: Manifest) -> None:
    found = ask(manifest, wanted=np.arange(3), seeds=np.uint64(5), n_draft=np.int32(2), batch_size=np.int64(2))
    assert (found.labels, found.seeds, found.n_draft) == ((0, 1, 2), (5, 6, 7), 2)
    assert all(type(number) is int for number in (*found.labels, *found.seeds, found.n_draft))
    assert ask(manifest, wanted=[np.int64(1), "2"], seeds=np.array([7, 2**63 - 1], np.uint64)).seeds == (7, 2**63 - 1)
    settings = Sampling(cfg=np.float32(1), top_k=np.int64(9), top_p=np.float64(1))  # type: ignore[arg-type]
    assert ask(manifest, sampling=settings).sampling == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("wanted", "seeds")
        for value in (None, 0.9, [0.9], True, [True], [None], [[1]], b"1", {1: 2})
    ]
    + [(name, value) for name in ("n_draft", "batch_size") for value in (2.0, "2", True, [2])]
    + [("batch_size", None), ("seeds", "1"), ("seeds", ["1"]), ("seeds", [-2]), ("seeds", 2**64)]
    + [("wanted", np.zeros((1, 1), np.int64)), ("wanted", np.zeros(1)), ("wanted", -2), ("wanted", 11)]
    + [("sampling", value) for value in (None, 1, {"cfg": 1})]
    + [("sampling", Sampling(**{name: value})) for name in ("cfg", "top_p", "temperature") for value in ("1", None, True)]
    + [("sampling", Sampling(top_k=value)) for value in (9.0, True, None)]  # type: ignore[arg-type]
    + [("sampling", Sampling(temperature=[1.0] * 6, more_smooth=1))]  # type: ignore[arg-type]
    + [("sampling", Sampling(**change)) for change in ({"top_p": 1e-46}, {"temperature": 1e-320}, {"cfg": 10**400})]
    + [("teacher", [[1] * 130]), ("teacher", "x")],
)
def test_what_cannot_be_meant(manifest: Manifest, name: str, value: object) -> None:
    with pytest.raises(UsageError):
        ask(manifest, **{name: value})


def test_huge_numbers(manifest: Manifest) -> None:
    for name in ("wanted", "seeds", "n_draft", "batch_size"):
        with pytest.raises(UsageError, match="64 bits"):
            ask(manifest, **{name: 10**5000})


def test_endless_labels_end(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="expected 1 to 4096"):
        ask(manifest, wanted=iter(int, 1))


def test_smooth_batches_are_bounded(manifest: Manifest) -> None:
    smooth = Sampling(top_k=9, more_smooth=True)
    assert ask(manifest, wanted=[1] * 16, sampling=smooth, batch_size=256).sampling.more_smooth
    with pytest.raises(UsageError, match="at most 16 images"):
        ask(manifest, wanted=[1] * 17, sampling=smooth, batch_size=17)
