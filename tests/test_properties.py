"""Whatever bytes or values come, the answer is a result or one of the project's errors.

10 000 cases in a test run; more with ``TRT_VAR_CASES=1000000 pytest tests/test_properties.py``, shared out over the tests.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trt_var import Pipeline, Sampling, TrtVarError, UsageError
from trt_var.backends.tensorrt import record as records
from trt_var.bulk import Bulk, sample
from trt_var.bundle import manifest as manifests
from trt_var.bundle.opening import PACKAGED
from trt_var.files.arrays import UNREADABLE, check_npz
from trt_var.requests.checking import MAX_IMAGES, prepare
from trt_var.requests.seeds import MAX_SEED

CASES = int(os.environ.get("TRT_VAR_CASES", 10_000))
DIGITS = (PACKAGED / "digits" / manifests.FILE_NAME).read_bytes()
MANIFEST = manifests.decode(DIGITS, "the digits")
NAMES = [f"digit {i}" for i in range(10)]


def share(tenths: int) -> Callable[[Any], Any]:
    """So many tenths of all cases."""
    quiet = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ]
    return settings(
        max_examples=CASES * tenths // 10, deadline=None, derandomize=True, suppress_health_check=quiet, database=None
    )


numbers = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.integers(-3, 12).map(np.int32),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=32).map(np.float32),
    st.booleans(),
    st.sampled_from(
        [Decimal(3), Fraction(1, 3), 1j, np.nan, np.bool_(True), np.array(2), np.array([1]), np.datetime64("2020-01-01")]
    ),
)


def of_objects(values: list[Any]) -> np.ndarray[Any, Any]:
    """An array of whatever they are; NumPy itself would look into them."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=9), st.binary(max_size=9), st.sampled_from([object(), Path(), int, max])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.lists(inner, max_size=4).map(of_objects),
    ),
    max_leaves=8,
)
labels = st.one_of(numbers, st.sampled_from(["7", "digit 7", "digit", "", "−1"]), st.lists(numbers, max_size=6), anything)
temperatures = st.one_of(
    numbers, st.lists(numbers, max_size=7), st.lists(st.floats(0.1, 2), min_size=6, max_size=6), anything
)


def drawn(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


samplings = drawn(
    cfg=st.one_of(numbers, st.floats(0, 9), anything),
    top_k=st.one_of(numbers, st.integers(0, 300)),
    top_p=st.one_of(numbers, st.floats(0, 1)),
    temperature=temperatures,
    more_smooth=st.one_of(st.booleans(), numbers),
)


@share(3)
@given(
    wanted=labels,
    seeds=st.one_of(numbers, st.lists(numbers, max_size=6), anything),
    n_draft=st.one_of(st.none(), numbers),
    settings=samplings,
    size=numbers,
)
def test_requests(wanted: Any, seeds: Any, n_draft: Any, settings: dict[str, Any], size: Any) -> None:
    try:
        sampling = Sampling(**settings)
        run = prepare(MANIFEST, NAMES, wanted, seeds, n_draft, sampling, size)
    except UsageError as error:
        assert len(str(error)) < 500
        return
    count = len(run.labels)
    assert 1 <= count <= MAX_IMAGES and len(run.seeds) == count
    assert all(type(label) is int and 0 <= label <= MANIFEST.classes for label in run.labels)
    assert all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in run.seeds)
    assert run.n_draft in MANIFEST.serves
    assert math.isfinite(run.sampling.cfg) and 0 <= run.sampling.top_p <= 1
    assert 1 <= run.sampling.top_k <= MANIFEST.max_top_k
    assert len(run.sampling.temperatures(len(MANIFEST.schedule))) == len(MANIFEST.schedule)


leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20))
trees = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3))
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every key and element of a tree, with what holds it."""
    found, pending = [], [tree]
    while pending:
        holder = pending.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            found.append((holder, key))
            if isinstance(value, dict | list):
                pending.append(value)
    return found


@st.composite
def damaged_json(draw: st.DrawFn, whole: bytes) -> bytes:
    """JSON with some values replaced or removed, or bytes cut, inserted or changed."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        at = draw(st.integers(0, len(whole)))
        return whole[:at] + draw(st.binary(max_size=4)) + whole[at + draw(st.integers(0, 9)) :]
    tree = msgspec.json.decode(whole)
    for _ in range(draw(st.integers(1, 3))):
        known = places(tree)
        if not known:
            break
        holder, key = known[draw(st.integers(0, len(known) - 1))]
        if draw(st.booleans()):
            holder[key] = draw(trees)
        else:
            del holder[key]
    return msgspec.json.encode(tree)


@share(2)
@given(data=damaged_json(DIGITS))
def test_manifests(data: bytes) -> None:
    try:
        manifest = manifests.decode(data, "manifest.json")
    except TrtVarError as error:
        assert "manifest.json" in str(error) and len(str(error)) < 2000
        return
    assert manifests.decode(manifests.encode(manifest), "again") == manifest


def a_record() -> bytes:
    profiles = tuple(records.Profile(f"scale {k}", {"features": ((k, 1, 32), (k, 4, 32), (k, 8, 32))}) for k in (1, 4, 9))
    engine = records.Engine("drafter.plan", 99, "0" * 64, {"drafter.onnx": "0" * 64}, 1.5, profiles)
    batch = records.Batch(1, 4, 8)
    return msgspec.json.encode(
        records.Record(records.SCHEMA, "tensorrt", "11.0", "sm89", batch, (8, 10), {"drafter": engine})
    )


@share(2)
@given(data=damaged_json(a_record()))
def test_records(tmp_path: Path, data: bytes) -> None:
    (tmp_path / records.RECORD).write_bytes(data)
    try:
        record = records.read_record(tmp_path)
    except TrtVarError as error:
        assert records.RECORD in str(error)
        return
    assert 1 <= record.batch.smallest <= record.batch.usual <= record.batch.largest


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path, bytes]:
    """A pipeline, a folder of one finished shard, and the bytes of its recipe."""
    folder = tmp_path_factory.mktemp("shards")
    pipeline = Pipeline.load("digits", "onnxruntime")
    sample(pipeline, Bulk(num=1), folder)
    return pipeline, folder, (folder / "recipe.json").read_bytes()


@share(1)
@given(data=st.data())
def test_recipes(shards: tuple[Pipeline, Path, bytes], data: st.DataObject) -> None:
    pipeline, folder, whole = shards
    (folder / "recipe.json").write_bytes(data.draw(damaged_json(whole)))
    try:
        assert len(sample(pipeline, Bulk(num=1), folder)) == 1
    except TrtVarError as error:
        assert str(folder) in str(error)


def an_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.zeros((2, 4, 4, 3), np.uint8), seeds=np.arange(2, dtype=np.uint64))
    return file.getvalue()


EXPECTED = {"images": ((2, 4, 4, 3), ("uint8",)), "seeds": ((2,), ("uint64",))}


@share(2)
@given(
    at=st.integers(0, len(an_npz())),
    inserted=st.binary(max_size=8),
    skipped=st.integers(0, 40),
    kept=st.one_of(st.none(), st.integers(0, len(an_npz()))),
)
def test_archives(tmp_path: Path, at: int, inserted: bytes, skipped: int, kept: int | None) -> None:
    whole, path = an_npz(), tmp_path / "shard.npz"
    path.write_bytes((whole[:at] + inserted + whole[at + skipped :])[:kept])
    try:
        check_npz(path, EXPECTED)
        with np.load(path, allow_pickle=False) as found:
            for name, (shape, _) in EXPECTED.items():
                assert found[name].shape == shape
    except UNREADABLE:
        pass
