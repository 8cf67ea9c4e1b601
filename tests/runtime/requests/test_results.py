"""Kind: values as people pass them. Results are compared, kept in sets, sent as JSON, and say where they come from."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from helpers import assert_close, assert_tokens
from trt_var import Generation, Pipeline, Reconstruction, Sampling, UsageError
from trt_var.requests.provenance import Provenance


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime")


@pytest.fixture(scope="module")
def drawn(pipeline: Pipeline) -> Generation:
    return pipeline.generate([3, 7], seeds=[2**64 - 1, 5], n_draft=2, sampling=Sampling(temperature=(1.1,) * 6))


def test_equality_and_hash(pipeline: Pipeline, drawn: Generation) -> None:
    again = pipeline.generate([3, 7], seeds=[2**64 - 1, 5], n_draft=2, sampling=Sampling(temperature=(1.1,) * 6))
    for same in (again, copy.deepcopy(drawn), pickle.loads(pickle.dumps(drawn)), replace(drawn, provenance=None)):
        assert same == drawn
        assert hash(same) == hash(drawn)
        assert same in [drawn]
        assert len({same, drawn}) == 1
    others = [replace(drawn, **{name: getattr(drawn, name)[::-1]}) for name in ("images", "tokens", "labels", "seeds")]
    assert all(other != drawn for other in others)
    assert replace(drawn, images=drawn.images[:1]) != drawn
    assert drawn != "drawn"
    previews = list(pipeline.stream([3, 7], seeds=[2**64 - 1, 5], n_draft=2, sampling=Sampling(temperature=(1.1,) * 6)))
    assert previews[-1].generation == drawn
    assert len(set(previews)) == 6
    assert previews[0] != previews[1]


def test_json(drawn: Generation) -> None:
    text = drawn.as_json()
    assert json.loads(text)["seeds"] == [2**64 - 1, 5]
    for found in (Generation.from_json(text), Generation.from_json(json.dumps(json.loads(text)).encode())):
        assert found == drawn
        assert found.provenance == drawn.provenance
        arrays = [(getattr(found, name), getattr(drawn, name)) for name in ("images", "tokens", "labels", "seeds")]
        assert [one.dtype for one, _ in arrays] == [other.dtype for _, other in arrays]


def test_json_of_reconstructions(pipeline: Pipeline, drawn: Generation) -> None:
    found = pipeline.reconstruct(drawn.images)
    found = replace(found, psnr=np.array([np.inf, found.psnr[1]]))
    assert Reconstruction.from_json(found.as_json()) == found
    assert found in {found}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", []),
        ("images", ["no PNG"]),
        ("images", ["AAAA", "AAAA"]),
        ("labels", [1]),
        ("labels", ["x", "y"]),
        ("tokens", [[1, 2], [3]]),
        ("tokens", [[1], [70000]]),
        ("seeds", [-1, 2]),
        ("provenance", {"bundle": 1}),
    ],
)
def test_damaged_json(drawn: Generation, name: str, value: object) -> None:
    with pytest.raises(UsageError):
        Generation.from_json(json.dumps({**json.loads(drawn.as_json()), name: value}))
    with pytest.raises(UsageError, match="no Generation as JSON"):
        Generation.from_json("{")


def test_provenance_draws_again(pipeline: Pipeline, drawn: Generation) -> None:
    record = json.loads(drawn.record(1))
    assert (record["labels"], record["seeds"]) == ([7], [5])
    assert (record["backend"], record["arithmetic"], record["batch_size"]) == ("onnxruntime", "float32", 2)
    assert json.loads(drawn.record())["labels"] == [3, 7]
    made = Provenance.from_json(drawn.record(1))
    assert made == drawn.provenance
    again = pipeline.generate(record["labels"], seeds=record["seeds"], n_draft=made.n_draft, sampling=made.sampling)
    assert_tokens(again.tokens, drawn.tokens[1:])
    assert_close(again.images, drawn.images[1:])


def test_provenance_says_what_else_went_in(pipeline: Pipeline, drawn: Generation) -> None:
    forced = pipeline.generate([3, 7], teacher=drawn.tokens).provenance
    mask = np.ones((32, 32), np.bool_)
    redrawn = pipeline.inpaint(drawn.images[0], mask, 3).provenance
    assert forced is not None and redrawn is not None and drawn.provenance is not None
    assert (forced.given, redrawn.given, drawn.provenance.given) == ("tokens", "an image and a mask", None)
