"""Inpainting, editing, reconstruction: what is kept, what is drawn, and pictures of every kind as input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers import assert_close, assert_tokens
from trt_var import Pipeline, Sampling, UsageError
from trt_var.backends.base import Backend
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bundle.opening import Bundle

GREEDY = Sampling(top_k=1)


SIDE = 8


EVERYTHING, NOTHING = np.ones((SIDE, SIDE), np.bool_), np.zeros((SIDE, SIDE), np.bool_)


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Path) -> Pipeline:
    return Pipeline.load(toy_bundle, "onnxruntime")


@pytest.mark.parametrize("n_draft", range(5))
def test_keeping_nothing_is_plain_generation(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    found = pipeline.inpaint(image, EVERYTHING, [3, 4], seeds=7, n_draft=n_draft)
    expected = pipeline.generate([3, 4], seeds=7, n_draft=n_draft)
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images)


@pytest.mark.parametrize("n_draft", range(5))
def test_keeping_everything_is_the_reconstruction(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    found = pipeline.inpaint(image, NOTHING, 3, n_draft=n_draft, raw=True)
    assert_close(found.images, pipeline.reconstruct(image[None]).images)
    assert_close(pipeline.inpaint(image, NOTHING, 3, n_draft=n_draft).images[0], image)


@pytest.mark.parametrize("n_draft", range(5))
def test_half(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    mask = NOTHING.copy()
    mask[:, SIDE // 2 :] = True
    found = pipeline.inpaint(image, mask, [1, 2], seeds=5, n_draft=n_draft, batch_size=2)
    assert_close(found.images[:, ~mask], np.stack([image[~mask]] * 2))
    assert (found.images[:, mask] != image[mask]).any()
    alone = pipeline.inpaint(image, mask, 2, seeds=6, n_draft=n_draft)
    assert_tokens(found.tokens[1], alone.tokens[0])
    raw = pipeline.inpaint(image, mask, 2, seeds=6, n_draft=n_draft, raw=True)
    assert_close(raw.images[:, mask], alone.images[:, mask])
    assert (raw.images[:, ~mask] != alone.images[:, ~mask]).any()


def test_backends_redraw_the_same(pipeline: Pipeline, toy_bundle: Path, image: NDArray[np.uint8]) -> None:
    mask = EVERYTHING.copy()
    mask[:2] = False
    backend: Backend = OpenVino(bfloat16=False)
    with Pipeline(Bundle.open(toy_bundle), backend) as other:
        for n_draft in (0, 2, 4):
            found, expected = (
                each.inpaint(image, mask, 5, n_draft=n_draft, sampling=GREEDY, raw=True) for each in (other, pipeline)
            )
            assert_tokens(found.tokens, expected.tokens)
            assert_close(found.images, expected.images, absolute=2)


def test_reconstruction_does_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    images = np.random.default_rng(1).integers(0, 256, (11, SIDE, SIDE, 3), np.uint8)
    together, alone = pipeline.reconstruct(images), pipeline.reconstruct(images[9:10])
    assert_tokens(together.tokens[9:10], alone.tokens)
    assert_close(together.images[9:10], alone.images, absolute=1)
    error = np.square(together.images[9].astype(float) - images[9]).mean()
    assert_close(together.psnr[9], 10 * np.log10(255**2 / error), absolute=1e-9)


def test_region_between_cells(pipeline: Pipeline, image: NDArray[np.uint8], caplog: pytest.LogCaptureFixture) -> None:
    mask = NOTHING.copy()
    mask[1, 1] = True
    with pytest.raises(UsageError, match="cells of 2 pixels"):
        pipeline.inpaint(image, mask, 1)
    mask[0, 0] = mask[3, 3] = True
    pipeline.inpaint(image, mask, 1)
    assert "33 % of the region" in caplog.text


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((SIDE, SIDE), np.uint8), EVERYTHING),
        (np.zeros((SIDE + 2, SIDE, 3), np.uint8), EVERYTHING),
        (np.zeros((SIDE, SIDE, 3), np.float32), EVERYTHING),
        (np.zeros((SIDE, SIDE, 3), np.uint8), EVERYTHING[:4]),
        (np.zeros((SIDE, SIDE, 3), np.uint8), EVERYTHING.astype(np.int16) * 256),
    ],
)
def test_wrong_arrays(pipeline: Pipeline, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    with pytest.raises(UsageError, match=r"expected (uint8|bool)"):
        pipeline.inpaint(image, mask, 1)
