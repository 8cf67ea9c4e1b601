"""What is not guided takes one row an image, fewer scales may be drawn, and nothing need be cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers import assert_close, assert_tokens
from trt_var import Pipeline, Sampling, UsageError
from trt_var.bundle.memory import need
from trt_var.bundle.passes import last_scales, unguided
from trt_var.decoding.feeds import Request, arrays, one_row
from trt_var.decoding.sampling import preset, uniforms


@pytest.fixture(params=["onnxruntime", "openvino"])
def pipeline(request: pytest.FixtureRequest, toy_bundle: Path) -> Pipeline:
    return Pipeline.load(toy_bundle, request.param)


def two_rows(bundle: Path, backend: str) -> Pipeline:
    """As a bundle that was built before there were graphs for one row."""
    pipeline = Pipeline.load(bundle, backend)
    opened = pipeline._models.open()
    opened.manifest = msgspec.structs.replace(opened.manifest, one_row=False)
    return pipeline


LABELS, SEEDS = [1, 5, 9], [3, 4, 5]


@pytest.mark.parametrize(
    ("sampling", "n_draft", "expected"),
    [
        (Sampling(), 2, set()),
        (Sampling(cfg=0), 2, {"drafter", "refiner"}),
        (Sampling(cfg=0), 4, {"drafter"}),
        (Sampling(cfg=0), 0, {"refiner"}),
        (Sampling(guided_scales=2), 2, {"refiner"}),
        (Sampling(guided_scales=3), 2, set()),
        (Sampling(guided_scales=0), 2, {"drafter", "refiner"}),
        (Sampling(), 1, {"drafter"}),  # guidance begins at 0
        (Sampling(guided_scales=2, scales=2), 3, set()),
        (Sampling(cfg=0, scales=2), 3, {"drafter"}),
    ],
)
def test_who_takes_one_row(pipeline: Pipeline, sampling: Sampling, n_draft: int, expected: set[str]) -> None:
    chain = pipeline.chain(n_draft)
    assert one_row(chain, n_draft, sampling) == expected
    request = Request((1, 5, 9), uniforms(SEEDS, 30), n_draft, sampling)
    found = {name: array.shape[0] for name, array in arrays(chain, request).items() if name.startswith("conditions")}
    roles = last_scales(sampling.scales or 4, n_draft)
    assert found == {f"conditions.{role}": 3 if role in expected else 6 for role in roles}


@pytest.mark.parametrize("n_draft", [0, 2, 3])
@pytest.mark.parametrize("sampling", [Sampling(cfg=0), Sampling(cfg=2, guided_scales=1), Sampling(cfg=0, top_k=0, top_p=1)])
def test_one_row_draws_what_two_draw(toy_bundle: Path, n_draft: int, sampling: Sampling) -> None:
    with Pipeline.load(toy_bundle, "exact") as one, two_rows(toy_bundle, "exact") as two:
        assert one_row(one.chain(n_draft), n_draft, sampling)
        assert not one_row(two.chain(n_draft), n_draft, sampling)
        asked = {"seeds": SEEDS, "n_draft": n_draft, "sampling": sampling}
        found, expected = one.generate(LABELS, **asked), two.generate(LABELS, **asked)
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images, absolute=1)


@pytest.mark.parametrize("n_draft", [0, 2, 4])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_fewer_scales_are_the_first_ones(pipeline: Pipeline, scales: int, n_draft: int) -> None:
    sampling = Sampling(scales=scales, temperature=0.9)
    found = pipeline.generate(LABELS, seeds=SEEDS, n_draft=n_draft, sampling=sampling)
    whole = list(pipeline.stream(LABELS, seeds=SEEDS, n_draft=n_draft, sampling=replace(sampling, scales=None)))
    assert_tokens(found.tokens, whole[scales - 1].tokens)
    assert_close(found.images, whole[scales - 1].images, absolute=1)
    previews = list(pipeline.stream(LABELS, seeds=SEEDS, n_draft=n_draft, sampling=sampling))
    assert [preview.scales for preview in previews] == [scales] * scales
    assert_tokens(previews[-1].tokens, found.tokens)
    assert found.provenance is not None
    assert found.provenance.sampling.scales == scales


def test_the_refiner_is_not_loaded_for_scales_it_does_not_draw(toy_bundle: Path) -> None:
    with Pipeline.load(toy_bundle, "exact") as pipeline:
        pipeline.generate([1], n_draft=3, sampling=Sampling(scales=3))
        assert not any(name.startswith("refiner") for name in pipeline._models._graphs)


def test_nothing_cut_off_draws_from_all_codes(pipeline: Pipeline) -> None:
    """By the cumulative distribution over the codes in their own order, computed here from the logits."""
    manifest = pipeline.manifest
    sampling = Sampling(cfg=0, top_k=0, top_p=1, temperature=1.3)
    assert sampling.resolved(manifest.vocabulary, manifest.max_top_k, True).top_k == manifest.vocabulary
    found = pipeline.generate(LABELS, seeds=SEEDS, n_draft=4, sampling=sampling)
    logits = _logits(pipeline, found.tokens, sampling)
    probabilities = np.exp((logits - logits.max(-1, keepdims=True)) / 1.3)
    cumulative = (probabilities / probabilities.sum(-1, keepdims=True)).cumsum(-1)
    expected = (cumulative <= uniforms(SEEDS, 30)[..., None]).sum(-1).T
    assert (found.tokens == expected).mean() > (0.98 if "float32" in pipeline.engine else 0.8)
    assert found.tokens.max() < manifest.vocabulary


def _logits(pipeline: Pipeline, tokens: np.ndarray, sampling: Sampling) -> np.ndarray:
    from trt_var.decoding.feeds import upload
    from trt_var.decoding.loop import decode

    chain = pipeline._models.chain(4, logits=True)
    request = Request((1, 5, 9), uniforms(SEEDS, 30), 4, sampling, tokens.T.astype(np.int64))
    scales = decode(chain, 4, upload(chain, request), logits=True)
    return np.concatenate([np.asarray(scale.logits, np.float64) for scale in scales])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"guided_scales": 5}, "guided_scales is 5; expected a whole number from 0 to 4"),
        ({"guided_scales": -1}, "guided_scales is -1"),
        ({"guided_scales": 1.5}, "guided_scales is 1.5"),
        ({"guided_scales": True}, "guided_scales is True"),
        ({"scales": 0}, "scales is 0; expected a whole number from 1 to 4"),
        ({"scales": 5}, "scales is 5"),
        ({"scales": "3"}, "scales is '3'"),
    ],
)
def test_values_out_of_range(pipeline: Pipeline, change: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        pipeline.generate([1], sampling=replace(Sampling(), **change))  # type: ignore[arg-type]


def test_presets_without_guidance() -> None:
    assert preset("cca", 10, 4096) == Sampling(cfg=0, top_k=900)
    assert preset("ddo", 10, 4096).resolved(4096, 1024, True) == Sampling(cfg=0, top_k=4096, top_p=1)
    for name in ("cca", "ddo"):
        assert unguided(preset(name, 10, 4096).guidance(10).tolist(), 10, 8) == {"drafter", "refiner"}


def test_the_cache_of_one_row_is_half_as_large(toy_bundle: Path) -> None:
    with Pipeline.load(toy_bundle, "exact") as pipeline:
        manifest = pipeline.manifest
    two, one = (need(manifest, 2, 4, one_row=roles) for roles in ((), ("drafter", "refiner")))
    assert two.cache == 2 * one.cache
    assert one.total < two.total
    assert need(manifest, 2, 4, drawn=2).cache < two.cache
