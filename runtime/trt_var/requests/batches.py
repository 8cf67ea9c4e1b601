"""A request cut into batches, and what comes of each put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Backend
from trt_var.backends.failures import starving
from trt_var.decoding.chain import Chain
from trt_var.decoding.feeds import one_row, upload
from trt_var.decoding.loop import DecodedScale, decode, draw, render
from trt_var.decoding.scoring import log_likelihoods
from trt_var.errors import UsageError
from trt_var.requests.checking import Run

Progress = Callable[[int], object]
Drawn = tuple[DecodedScale, NDArray[np.uint8], NDArray[np.uint16]]


def pieces(backend: Backend, run: Run, batch_size: int, alone: bool) -> Iterator[tuple[Run, int]]:
    """The batches of a request, and the size in which each is drawn: there may be more places than images.

    With ``alone``, every image has the smallest batch that the backend draws to itself, in which copies of it fill the other
    places: what it becomes cannot depend on any other image, whatever the arithmetic.
    """
    while run.labels:
        batch = backend.padded(1 if alone else min(batch_size, len(run.labels)))
        size = 1 if alone else min(batch, batch_size)
        yield run[:size], batch
        run = run[size:]


@starving("drawing failed")
def draw_all(
    chain: Chain, run: Run, batch_size: int, alone: bool, progress: Progress | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Images [n, H, W, 3] and tokens [n, L], of the scales that are drawn.

    Raises:
        BackendError: the engine failed, or there is too little memory.
    """
    images, tokens = [], []
    for piece, batch in pieces(chain.backend, run, batch_size, alone):
        drawn, pictures = draw(chain, piece.request(chain.manifest, batch), shadowing=not alone)
        count = len(piece.labels)
        tokens.append(drawn.T[:count])
        images.append(pictures[:count])
        if progress:
            progress(count)
    return np.concatenate(images), np.concatenate(tokens).astype(np.uint16)


def draw_scales(chain: Chain, run: Run, alone: bool) -> Iterator[Drawn]:
    """After every scale: it, what is known of all images [n, H, W, 3], and its tokens [n, tokens of the scale].

    Raises:
        UsageError: more images than the backend draws together.
        BackendError: the engine failed, or there is too little memory.
    """
    with starving("drawing failed"):
        yield from _draw_scales(chain, run, alone)


def _draw_scales(chain: Chain, run: Run, alone: bool) -> Iterator[Drawn]:
    backend, count = chain.backend, len(run.labels)
    parts = list(pieces(backend, run, count, alone))
    if len(parts) > 1 and not alone:
        raise UsageError(f"{count} labels; these engines take {parts[0][1]} at once, and stream draws one batch")
    backend.check_room(run.n_draft, sum(batch for _, batch in parts), one_row(chain, run.n_draft, run.sampling))
    decodings = [decode(chain, run.n_draft, upload(chain, part.request(chain.manifest, batch))) for part, batch in parts]
    for scales in zip(*decodings, strict=True):
        images, tokens = [], []
        for (part, _), scale in zip(parts, scales, strict=True):
            tokens.append(_rows(backend.download(scale.tokens).T, part))
            images.append(_rows(backend.download(render(chain, scale.f_hat)), part))
        yield scales[0], np.concatenate(images), np.concatenate(tokens).astype(np.uint16)


def score_all(
    chain: Chain, run: Run, tokens: NDArray[np.integer], batch_size: int, progress: Progress | None
) -> NDArray[np.float64]:
    """Log-likelihoods [n, c] of pictures' tokens [L, n] under the classes of a request.

    Raises:
        BackendError: the engine failed, or there is too little memory.
    """
    pairs = [(picture, label) for picture in range(tokens.shape[1]) for label in run.labels]
    found: list[float] = []
    while len(found) < len(pairs):
        rest = pairs[len(found) :]
        batch = chain.backend.padded(min(batch_size, len(rest)))
        part = [rest[min(i, len(rest) - 1)] for i in range(batch)]
        pictures, labels = zip(*part, strict=True)
        nats = log_likelihoods(chain, run.n_draft, tokens[:, list(pictures)], labels).sum(0)
        found += nats[: len(rest)].tolist()
        if progress:
            progress(min(batch, len(rest)))
    return np.array(found).reshape(tokens.shape[1], len(run.labels))


def _rows(array: NDArray[Any], part: Run) -> NDArray[Any]:
    return array[: len(part.labels)]
