from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import assert_close, assert_tokens, random_weights
from trt_var import Pipeline, Sampling, UsageError
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bundle.opening import Bundle
from trt_var.decoding.feeds import Request, upload
from trt_var.decoding.loop import decode
from trt_var.decoding.sampling import uniforms
from trt_var_export.graphs.reference import TorchBackend

GREEDY = Sampling(top_k=1)
SAMPLED = Sampling(cfg=3.0, top_k=40, top_p=0.9, temperature=(1.3, 1.2, 1.0, 0.8))


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Path) -> Pipeline:
    return Pipeline.load(toy_bundle, "onnxruntime")


@pytest.mark.parametrize("n_draft", range(5))
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_graphs_equal_torch_on_another_architecture(
    pipeline: Pipeline, toy_bundle: Path, n_draft: int, sampling: Sampling
) -> None:
    weights = {"drafter": random_weights(TOY_DRAFTER, 7), "refiner": random_weights(TOY_REFINER, 8)}
    torch_pipeline = Pipeline(Bundle.open(toy_bundle), TorchBackend(weights, random_weights(TOY_VAE, 9), 1024))
    labels = [3, 9, 0]
    found = pipeline.generate(labels, seeds=11, n_draft=n_draft, sampling=sampling)
    expected = torch_pipeline.generate(labels, seeds=11, n_draft=n_draft, sampling=sampling)
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images, absolute=2)


@pytest.mark.parametrize("n_draft", [1, 2, 3])
def test_a_refiner_that_shadows_the_drafter_draws_the_same(pipeline: Pipeline, n_draft: int) -> None:
    chain = pipeline.chain(n_draft)
    request = Request((3, 9), uniforms([7, 8], 30), n_draft, SAMPLED)
    plain, shadowed = (list(decode(chain, n_draft, upload(chain, request), shadowed=shadowed)) for shadowed in (False, True))
    for found, expected in zip(shadowed, plain, strict=True):
        assert found.role == expected.role
        assert_tokens(found.tokens, expected.tokens)
        assert_close(found.f_hat, expected.f_hat, absolute=1e-5)


@pytest.mark.parametrize("n_draft", [0, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_image_does_not_depend_on_its_batch(pipeline: Pipeline, n_draft: int, batch_size: int) -> None:
    labels, seeds = [1, 2, 3, 4, 5, 1], [10, 20, 30, 40, 50, 10]
    together = pipeline.generate(labels, seeds=seeds, n_draft=n_draft, sampling=GREEDY, batch_size=batch_size)
    for i, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        alone = pipeline.generate(label, seeds=[seed], n_draft=n_draft, sampling=GREEDY)
        assert_tokens(together.tokens[i : i + 1], alone.tokens)
        assert_close(together.images[i : i + 1], alone.images, absolute=1)


def test_golden_models_do_not_depend_on_the_batch(golden_bundle: Path) -> None:
    with Pipeline.load(golden_bundle, "onnxruntime") as pipeline:
        together = pipeline.generate([5, 800, 42], seeds=3, n_draft=6, sampling=GREEDY, batch_size=3)
        alone = pipeline.generate([42, 5], seeds=[5, 3], n_draft=6, sampling=GREEDY, batch_size=1)
    assert_tokens(together.tokens[[2, 0]], alone.tokens)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_openvino_in_float32_draws_the_same(pipeline: Pipeline, toy_bundle: Path, batch_size: int) -> None:
    other = Pipeline(Bundle.open(toy_bundle), OpenVino(bfloat16=False))
    for n_draft in (0, 2, 4):
        request = {"seeds": 5, "n_draft": n_draft, "sampling": SAMPLED, "batch_size": batch_size}
        found, expected = (each.generate([1, 2, 3], **request) for each in (other, pipeline))
        assert_tokens(found.tokens, expected.tokens)
        assert_close(found.images, expected.images, absolute=2)


def test_same_seed_same_image_other_seed_other_image(pipeline: Pipeline) -> None:
    result = pipeline.generate([4, 4, 4], seeds=[1, 1, 2], n_draft=2, sampling=SAMPLED)
    assert_tokens(result.tokens[0], result.tokens[1])
    assert (result.tokens[0] != result.tokens[2]).any()


def test_guidance_zero_ignores_the_null_class(pipeline: Pipeline) -> None:
    low, high = (pipeline.generate(2, n_draft=4, sampling=Sampling(cfg=cfg, top_k=1)).tokens for cfg in (0.0, 8.0))
    assert (low != high).any()
    assert_tokens(low[:, 0], high[:, 0])  # the first scale is drawn without guidance


def test_result_types(pipeline: Pipeline) -> None:
    result = pipeline.generate(["3", 5], seeds=9, n_draft=1)
    assert (result.images.shape, result.images.dtype) == ((2, 8, 8, 3), np.uint8)
    assert (result.tokens.shape, result.tokens.dtype) == ((2, 30), np.uint16)
    assert result.labels.tolist() == [3, 5]
    assert result.seeds.tolist() == [9, 10]
    assert result.to_pil()[1].size == (8, 8)


def test_stream_ends_with_the_result(pipeline: Pipeline) -> None:
    previews = list(pipeline.stream([1, 2], seeds=4, n_draft=3, sampling=SAMPLED))
    result = pipeline.generate([1, 2], seeds=4, n_draft=3, sampling=SAMPLED)
    assert [preview.role for preview in previews] == ["drafter"] * 3 + ["refiner"]
    assert [preview.tokens.shape[1] for preview in previews] == [1, 5, 14, 30]
    assert_tokens(previews[-1].tokens, result.tokens)
    assert_close(previews[-1].images, result.images)


def test_threads_share_a_pipeline(pipeline: Pipeline) -> None:
    expected = [pipeline.generate(i, seeds=i, n_draft=2, sampling=SAMPLED).tokens for i in range(6)]
    found: list[NDArray[np.uint16] | None] = [None] * 6

    def work(i: int) -> None:
        found[i] = pipeline.generate(i, seeds=i, n_draft=2, sampling=SAMPLED).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(found, expected, strict=True):
        assert mine is not None
        assert_tokens(mine, theirs)


def test_only_needed_models_are_loaded(toy_bundle: Path) -> None:
    with Pipeline.load(toy_bundle, "onnxruntime") as pipeline:
        pipeline.generate(1, n_draft=4)
        assert pipeline._models._graphs.keys() & {"drafter.onnx", "refiner.onnx"} == {"drafter.onnx"}


def test_closed_pipeline_refuses(toy_bundle: Path) -> None:
    with Pipeline.load(toy_bundle, "onnxruntime") as pipeline:
        pass
    with pytest.raises(UsageError, match="closed"):
        pipeline.generate(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [11]}, "classes 0 to 9"),
        ({"labels": [-2]}, "out of range"),
        ({"labels": "retriever"}, "not a class"),
        ({"labels": []}, "0 labels"),
        ({"labels": [1] * 5000}, "5000 labels"),
        ({"seeds": [1, 2]}, "2 seeds for 1 labels"),
        ({"seeds": -2}, "seeds must lie"),
        ({"n_draft": 5}, "expected 0 to 4"),
        ({"n_draft": -1}, "expected 0 to 4"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 10**9}, "batch_size is"),
        ({"sampling": Sampling(top_k=-1)}, "top_k is -1"),
        ({"sampling": Sampling(top_k=97)}, "takes 1 to 96"),
        ({"sampling": Sampling(top_p=-0.1, top_k=9)}, "top_p is -0.1"),
        ({"sampling": Sampling(top_p=1.5, top_k=9)}, "top_p is 1.5"),
        ({"sampling": Sampling(cfg=float("nan"), top_k=9)}, "cfg is nan"),
        ({"sampling": Sampling(cfg=float("inf"), top_k=9)}, "cfg is inf"),
        ({"sampling": Sampling(temperature=0.0, top_k=9)}, "temperature"),
        ({"sampling": Sampling(temperature=(1.0, 1.0), top_k=9)}, "2 values; expected 1 or 4"),
        ({"sampling": "fast"}, "preset is 'fast'"),
    ],
)
def test_bad_requests(pipeline: Pipeline, change: dict[str, object], message: str) -> None:
    request = {"labels": 1, "n_draft": 2, "sampling": GREEDY, **change}
    with pytest.raises(UsageError, match=message):
        pipeline.generate(request.pop("labels"), **request)  # type: ignore[arg-type]


def test_more_smooth(pipeline: Pipeline, toy_bundle: Path) -> None:
    smooth = replace(SAMPLED, more_smooth=True)
    weights = {"drafter": random_weights(TOY_DRAFTER, 7), "refiner": random_weights(TOY_REFINER, 8)}
    torch_pipeline = Pipeline(Bundle.open(toy_bundle), TorchBackend(weights, random_weights(TOY_VAE, 9), 1024))
    openvino = Pipeline(Bundle.open(toy_bundle), OpenVino(bfloat16=False))
    for n_draft in (0, 2, 4):
        request = {"seeds": 5, "n_draft": n_draft, "sampling": smooth}
        found = pipeline.generate([1, 2, 3], **request)
        for other in (torch_pipeline, openvino):
            expected = other.generate([1, 2, 3], **request)
            assert_tokens(found.tokens, expected.tokens)
            assert_close(found.images, expected.images, absolute=2)
        alone = pipeline.generate(3, seeds=7, n_draft=n_draft, sampling=smooth)
        assert_close(found.images[2:], alone.images, absolute=1)
        plain = pipeline.generate([1, 2, 3], seeds=5, n_draft=n_draft, sampling=SAMPLED)
        assert_tokens(found.tokens[:, 0], plain.tokens[:, 0])
        assert (found.images != plain.images).any()


def test_greedy_smoothing_averages_one_row(pipeline: Pipeline) -> None:
    found, expected = (
        pipeline.generate([1, 2], n_draft=2, sampling=Sampling(top_k=1, more_smooth=smooth)) for smooth in (True, False)
    )
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images, absolute=1)


def test_smoothing_with_a_teacher_is_refused(pipeline: Pipeline) -> None:
    tokens = pipeline.generate(1, n_draft=2).tokens
    with pytest.raises(UsageError, match="more_smooth does not go with a teacher"):
        pipeline.generate(1, n_draft=2, sampling=Sampling(top_k=9, more_smooth=True), teacher=tokens)
