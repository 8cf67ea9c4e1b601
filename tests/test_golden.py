"""The golden vectors: what the published models compute, through the torch modules and through the exported graphs.

On a machine with an NVIDIA GPU and onnxruntime-gpu, through ONNX Runtime's CUDA provider too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from helpers import GOLDEN, assert_close, assert_tokens, golden_weights
from trt_var import Pipeline, Sampling
from trt_var.backends.base import Backend
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.backends.onnxruntime.cuda import OnnxRuntimeCuda
from trt_var.backends.onnxruntime.runtime import create
from trt_var.bundle.opening import Bundle
from trt_var.bundle.passes import last_scales
from trt_var.decoding.chain import Chain
from trt_var.decoding.editing import region
from trt_var.decoding.feeds import Request, one_row, upload
from trt_var.decoding.loop import DecodedScale, decode, render
from trt_var.decoding.sampling import preset, uniforms
from trt_var_export.graphs.reference import TorchBackend

GREEDY = Sampling(cfg=1.5, top_k=1)
golden = np.load(GOLDEN / "tiny.npz")
free = np.load(GOLDEN / "free.npz")  # CoDe's published code at cfg 0, for both models or for the refiner alone


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "cuda"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cuda":
        found = create()
        if not isinstance(found, OnnxRuntimeCuda):
            pytest.skip(f"no CUDA here: {found.description}")
        return found
    if request.param == "torch":
        weights = {role: golden_weights(role) for role in ("drafter", "refiner")}
        return TorchBackend(weights, golden_weights("vae"))
    return OnnxRuntime()


@pytest.fixture(scope="module")
def chain(backend: Backend, golden_logits_bundle: Path) -> Chain:
    return Pipeline(Bundle.open(golden_logits_bundle), backend).chain(5)


@pytest.fixture(scope="module")
def walk(chain: Chain) -> Callable[..., list[DecodedScale]]:
    def run(n_draft: int, sampling: Sampling, teacher: NDArray[np.uint16] | None = None) -> list[DecodedScale]:
        forced = None if teacher is None else teacher.T
        numbers = np.ascontiguousarray(golden["uniforms"].T)
        request = Request(tuple(golden["labels"]), numbers, n_draft, sampling, forced)
        return [downloaded(chain, scale) for scale in decode(chain, n_draft, upload(chain, request), logits=True)]

    return run


def downloaded(chain: Chain, scale: DecodedScale) -> DecodedScale:
    buffers = {name: getattr(scale, name) for name in ("tokens", "f_hat", "logits")}
    return replace(scale, **{name: chain.backend.download(buffer) for name, buffer in buffers.items() if buffer is not None})


def images_of(chain: Chain, f_hat: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(chain.backend.download(render(chain, chain.backend.upload(f_hat)))).transpose(0, 3, 1, 2)


def joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.swapaxes(np.concatenate(parts), 0, 1)


def test_uniforms_are_the_stream_of_the_seed() -> None:
    assert_close(uniforms([100000, 100001], 680).T, golden["uniforms"])


@pytest.mark.parametrize("n_draft", range(1, 11))
def test_greedy_tokens(walk: Callable[..., list[DecodedScale]], n_draft: int) -> None:
    tokens = joined([scale.tokens for scale in walk(n_draft, GREEDY)])
    assert_tokens(tokens, golden[f"greedy_N{n_draft}_tokens"])


@pytest.mark.parametrize("n_draft", range(1, 11))
def test_greedy_tokens_without_guidance(chain: Chain, walk: Callable[..., list[DecodedScale]], n_draft: int) -> None:
    sampling = Sampling(cfg=0, top_k=1)
    assert one_row(chain, n_draft, sampling) == last_scales(10, n_draft).keys()
    tokens = joined([scale.tokens for scale in walk(n_draft, sampling)])
    assert_tokens(tokens, free[f"free_N{n_draft}_tokens"])


@pytest.mark.parametrize("n_draft", range(2, 10))
def test_greedy_tokens_of_an_unguided_refiner(chain: Chain, walk: Callable[..., list[DecodedScale]], n_draft: int) -> None:
    sampling = replace(GREEDY, guided_scales=n_draft)
    assert one_row(chain, n_draft, sampling) == {"refiner"}
    tokens = joined([scale.tokens for scale in walk(n_draft, sampling)])
    assert_tokens(tokens, free[f"refiner_free_N{n_draft}_tokens"])


@pytest.mark.parametrize("n_draft", [3, 8, 10])
def test_two_rows_without_guidance_draw_the_same(chain: Chain, n_draft: int) -> None:
    chain = replace(chain, manifest=msgspec.structs.replace(chain.manifest, one_row=False))
    numbers = np.ascontiguousarray(golden["uniforms"].T)
    request = Request(tuple(golden["labels"]), numbers, n_draft, Sampling(cfg=0, top_k=1))
    inputs = upload(chain, request)
    assert all(inputs[f"conditions.{role}"].shape[0] == 4 for role in last_scales(10, n_draft))
    tokens = joined([downloaded(chain, scale).tokens for scale in decode(chain, n_draft, inputs)])
    assert_tokens(tokens, free[f"free_N{n_draft}_tokens"])


@pytest.mark.parametrize("n_draft", [8, 10])
def test_greedy_path(chain: Chain, walk: Callable[..., list[DecodedScale]], n_draft: int) -> None:
    scales = walk(n_draft, GREEDY)
    assert_close(joined([scale.logits for scale in scales])[..., ::64], golden[f"greedy_N{n_draft}_logits64"], absolute=1e-3)
    for scale, expected in zip(scales, golden[f"greedy_N{n_draft}_f_hat"], strict=True):
        assert_close(scale.f_hat, expected, relative=1e-4)
    images = images_of(chain, scales[-1].f_hat)
    assert_close(images, golden[f"greedy_N{n_draft}_image"], absolute=2)


@pytest.mark.parametrize("n_draft", [6, 8])
def test_sampled_logits_teacher_forced(walk: Callable[..., list[DecodedScale]], n_draft: int) -> None:
    expected = golden[f"sample_N{n_draft}_tokens"]
    scales = walk(n_draft, preset("code", 10, 4096), teacher=expected)
    assert_close(joined([scale.logits for scale in scales])[..., ::64], golden[f"sample_N{n_draft}_logits64"], absolute=1e-3)
    tokens = joined([scale.tokens for scale in scales])
    assert (tokens == expected).mean() > 0.995, f"only {(tokens == expected).mean():.4f} of the draws agree"


@pytest.fixture(scope="module")
def encoded(backend: Backend, golden_bundle: Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    image = F.interpolate(torch.from_numpy(golden["encode_input_8x8"]), size=(256, 256), mode="bicubic").clamp(-1, 1)
    tokens, f_hats = backend.empty((680, 2), np.int32), backend.empty((10, 2, 32, 16, 16), np.float32)
    encoder = backend.load(golden_bundle / "encoder.onnx")
    encoder.run({"image": backend.upload(image.numpy())}, {"tokens": tokens, "f_hats": f_hats})
    return backend.download(tokens), backend.download(f_hats)


def test_encoder(chain: Chain, encoded: tuple[NDArray[np.int32], NDArray[np.float32]]) -> None:
    tokens, f_hats = encoded
    assert_tokens(tokens.T, golden["encode_tokens"])
    assert_close(f_hats[-1], golden["encode_f_hat_last"], relative=1e-4)
    assert_close(images_of(chain, np.ascontiguousarray(f_hats[-1])), golden["reconstruction"], absolute=2)


def test_inpainting(chain: Chain, encoded: tuple[NDArray[np.int32], NDArray[np.float32]]) -> None:
    mask = np.zeros((256, 256), np.bool_)
    mask[:, 128:] = True
    for i, label in enumerate(golden["labels"]):
        kept = region(mask, encoded[1][:, i], chain.manifest)
        request = Request((label,), golden["uniforms"][i, :, None], 10, GREEDY, region=kept)
        scales = [downloaded(chain, scale) for scale in decode(chain, 10, upload(chain, request))]
        assert_tokens(np.concatenate([scale.tokens for scale in scales])[:, 0], golden["inpaint_plain_tokens"][i])
        assert_close(images_of(chain, scales[-1].f_hat)[0], golden["inpaint_plain_image"][i], absolute=2)


def test_pipeline_from_seeds(golden_bundle: Path) -> None:
    with Pipeline.load(golden_bundle, "onnxruntime") as pipeline:
        result = pipeline.generate(golden["labels"].tolist(), seeds=100000, n_draft=8, sampling=GREEDY)
    assert_tokens(result.tokens, golden["greedy_N8_tokens"])
    assert_close(result.images.transpose(0, 3, 1, 2), golden["greedy_N8_image"], absolute=2)


@pytest.mark.parametrize("n_draft", [3, 8, 10])
def test_a_size_that_comes_again(backend: Backend, golden_bundle: Path, n_draft: int) -> None:
    pipeline = Pipeline(Bundle.open(golden_bundle), backend)
    for _ in range(3):  # a backend that replays draws the first of a size plainly, captures the second, replays the third
        result = pipeline.generate(golden["labels"].tolist(), seeds=100000, n_draft=n_draft, sampling=GREEDY)
        assert_tokens(result.tokens, golden[f"greedy_N{n_draft}_tokens"])
        if n_draft > 3:
            assert_close(result.images.transpose(0, 3, 1, 2), golden[f"greedy_N{n_draft}_image"], absolute=2)
