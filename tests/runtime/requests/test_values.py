"""Kind: values as people pass them. Numbers of any library, and those that stand for something elsewhere: -1, 0."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from trt_var import Pipeline, Sampling, UsageError
from trt_var.bulk.shards import Bulk, sample
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.numbers import whole
from trt_var.quality.samples import Series
from trt_var.requests.checking import Run, check_series, prepare


class Animal(IntEnum):
    OTTER = 3


class Index:
    def __index__(self) -> int:
        return 3


def ask(manifest: Manifest, **change: Any) -> Run:
    asked: dict[str, Any] = {"wanted": 1, "seeds": 0, "n_draft": None, "sampling": "default", "batch_size": 8, **change}
    return prepare(manifest, (), **asked)


@pytest.mark.parametrize(
    "three",
    [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8), Animal.OTTER, Index()],
)
def test_whole_numbers_of_every_library(manifest: Manifest, three: Any) -> None:
    found = ask(manifest, wanted=three, seeds=three, n_draft=three, batch_size=three)
    assert (found.labels, found.seeds, found.n_draft) == ((3,), (3,), 3)
    assert all(type(number) is int for number in (*found.labels, *found.seeds, found.n_draft))
    assert ask(manifest, wanted=[three, 1], seeds=(three, 9)).seeds == (3, 9)


@pytest.mark.parametrize(
    "several", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), {1: 0, 2: 0}.keys(), iter([1, 2])]
)
def test_sequences_of_every_kind(manifest: Manifest, several: Any) -> None:
    assert ask(manifest, wanted=several).labels == (1, 2)


def test_settings_of_every_library(manifest: Manifest) -> None:
    expected = Sampling(2.0, 9, 0.5, (1.0,) * 6, True)
    for array in (np.array, torch.tensor):
        scalars = [array(value) for value in (2.0, 9, 0.5)]
        found = Sampling(*scalars, temperature=array([1.0] * 6), more_smooth=array(True))  # type: ignore[arg-type]
        assert found == expected
        assert ask(manifest, sampling=found).sampling == expected
    assert Sampling(temperature=[1, 1.0, np.float32(1), *[torch.tensor(1.0)] * 3]).temperature == (1.0,) * 6  # type: ignore[arg-type]
    assert hash(Sampling(temperature=[1.0, 2.0])) == hash(Sampling(temperature=(1.0, 2.0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "True, a truth value; expected a whole number"),
        (np.True_, "True, a truth value"),
        (torch.tensor(True), "True, a truth value"),
        (1.0, "1.0, a float; expected a whole number such as 1"),
        (np.float32(2), "2.0, a float; expected a whole number such as 2"),
        (torch.tensor(0.5), "0.5; expected a whole number"),
        (float("nan"), "nan; expected"),
        (1e300, r"1e\+300; expected"),
        ("seven", "'seven'; expected"),
    ],
)
def test_numbers_that_are_none_are_named(manifest: Manifest, value: Any, message: str) -> None:
    for asked in ({"seeds": value}, {"seeds": [value]}, {"n_draft": value}, {"batch_size": value}):
        with pytest.raises(UsageError, match=message):
            ask(manifest, **asked)


def test_none_says_what_stands_for_none(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="-1 for no class"):
        ask(manifest, wanted=None)
    with pytest.raises(UsageError, match="-1 for random ones"):
        ask(manifest, seeds=None)


def test_arrays_are_no_numbers() -> None:
    for value in (np.array([3]), torch.tensor([3]), [3]):
        with pytest.raises(UsageError, match="expected a whole number"):
            whole(value, "n_draft")


def test_no_class(manifest: Manifest) -> None:
    assert ask(manifest, wanted=[-1, "-1", np.int64(-1), 10, torch.tensor(-1)]).labels == (10,) * 5
    with pytest.raises(UsageError, match="label -2 is out of range.*10 for no class, or -1"):
        ask(manifest, wanted=-2)


def test_random_seeds_are_recorded(manifest: Manifest) -> None:
    first, second = (ask(manifest, wanted=[1, 2, 3], seeds=-1).seeds for _ in range(2))
    assert first != second
    assert first == tuple(range(first[0], first[0] + 3))
    mixed = ask(manifest, wanted=[1, 2, 3], seeds=[-1, 5, -1]).seeds
    assert mixed[1] == 5
    assert len(set(mixed)) == 3
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        drawn = pipeline.generate([1, 2], seeds=-1)
        assert drawn == pipeline.generate([1, 2], seeds=drawn.seeds)


def test_seeds_of_64_bits(manifest: Manifest) -> None:
    largest = 2**64 - 1
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        drawn = pipeline.generate([1, 1, 1], seeds=[2**63, largest, 2**63 - 1])
    assert drawn.seeds.tolist() == [2**63, largest, 2**63 - 1]
    assert len({tokens.tobytes() for tokens in drawn.tokens}) == 3
    assert ask(manifest, wanted=[1, 2], seeds=np.array([largest, 2**63], np.uint64)).seeds == (largest, 2**63)
    for seeds in ([largest + 1, 0], largest, -2):  # of two images, the second's seed is one more
        with pytest.raises(UsageError, match="64"):
            ask(manifest, wanted=[1, 2], seeds=seeds)


def test_a_series_has_no_random_seed(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="able to go on"):
        check_series(manifest, (-1, 8), None, "default", 8)
    with Pipeline.load("digits", "onnxruntime") as pipeline, pytest.raises(UsageError, match="-1 does not"):
        Series(4, 1, seed=-1).check(pipeline)


def test_zero_is_off(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    off = ask(manifest, sampling=Sampling(top_k=0, top_p=0)).sampling
    assert (off.top_k, off.top_p) == (manifest.max_top_k, 1.0)
    assert ask(manifest, sampling=Sampling(top_k=np.int64(0), top_p=0.0)).sampling == off  # type: ignore[arg-type]
    assert not caplog.text  # all of the vocabulary is kept
    ask(msgspec.structs.replace(manifest, max_top_k=100), sampling=Sampling(top_k=0))
    assert "keep 100 of 256 tokens" in caplog.text
    with pytest.raises(UsageError, match="0 for all of these"):
        ask(manifest, sampling=Sampling(top_k=-1))
    with pytest.raises(UsageError, match="top_k=1"):
        ask(manifest, sampling=Sampling(temperature=0))


def test_the_default_top_k_gives_way(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    warm = Sampling(temperature=(1.2,) * 6)
    through_json = Sampling(**json.loads(json.dumps(asdict(warm))))
    for settings in (warm, Sampling(), Sampling(top_k=600), replace(warm, cfg=3.0), through_json, "default"):
        assert ask(manifest, sampling=settings).sampling.top_k == 256
    assert not caplog.text  # 600 of 256 are all of them
    assert ask(msgspec.structs.replace(manifest, max_top_k=100), sampling=warm).sampling.top_k == 100
    assert "top_k 600: the graphs of this bundle keep 100 of 256 tokens" in caplog.text
    for asked in (257, 599, 601):
        with pytest.raises(UsageError, match=f"top_k is {asked}; this bundle takes 1 to 256"):
            ask(manifest, sampling=Sampling(top_k=asked))


def test_the_settings_of_the_readme_go_with_the_digits() -> None:
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        result = pipeline.generate([2, "7"], seeds=[1, 2], n_draft=4, sampling=Sampling(top_p=0.96, temperature=1.1))
    assert result.provenance is not None
    assert result.provenance.sampling == Sampling(1.5, 256, 0.96, 1.1)


@pytest.mark.parametrize(
    "settings", [Sampling(), Sampling(3, 9, 0.5, (1.0, 0.5), True), Sampling(temperature=1.1, top_k=600)]
)
def test_settings_through_json(settings: Sampling) -> None:
    assert Sampling.from_json(settings.as_json()) == settings
    assert Sampling.from_json(settings.as_json().encode()) == settings
    assert Sampling.from_json(json.loads(json.dumps(asdict(settings)))) == settings
    assert Sampling(**json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize(
    "data", ["", "[]", "1", '{"cfg": "x"}', '{"warmth": 1}', b"\xff", '{"cfg":' + "[" * 99999, {"top_k": 1.5}]
)
def test_what_is_no_settings(data: Any) -> None:
    with pytest.raises(UsageError, match="sampling"):
        Sampling.from_json(data)


def test_series_in_numbers_of_numpy(tmp_path: Path) -> None:
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        (shard,) = sample(pipeline, Bulk(np.int64(2), seed=np.uint64(2**64 - 2), shard=np.int8(5)), tmp_path)  # type: ignore[arg-type]
        with np.load(shard) as arrays:
            assert sorted(arrays["seeds"].tolist()) == [2**64 - 2, 2**64 - 1]
        for seed, message in ((-1, "able to go on"), (2**64 - 1, "18446744073709551616 does not$")):
            with pytest.raises(UsageError, match=message):
                sample(pipeline, Bulk(2, seed=seed), tmp_path / "other")
        Series(4, np.int64(1), seed=np.uint64(2**63)).check(pipeline)  # type: ignore[arg-type]


def test_endless_temperatures_end(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="65 values; expected 1 or 6"):
        ask(manifest, sampling=Sampling(temperature=iter(float, 1)))  # type: ignore[arg-type]
