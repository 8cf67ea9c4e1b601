"""The decoding loop: drafter, refiner, plain VAR, previews and calibration all go through it.

Collaborative decoding (arXiv 2411.17787): the drafter draws scales 0..N−1, the refiner the rest. f_hat and features
carry over; the refiner's cache of the drafted prefix comes from running the refiner on the prefix features, in one pass
together with the first scale that it draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trt_var.backends.base import Backend, Buffer, Graph
from trt_var.manifest import Manifest, Role
from trt_var.sampling import Sampling
from trt_var.schedule import Schedule

HEAD_WIDTH = 64
DECODER_BATCH = 8


@dataclass(frozen=True)
class Transformer:
    """A loaded transformer: its step graph and its class table [classes + 1, M, C]."""

    step: Graph
    conditions: NDArray[np.floating]
    depth: int
    heads: int


@dataclass(frozen=True)
class Chain:
    """Everything that one decoding needs, loaded on one backend."""

    backend: Backend
    manifest: Manifest
    transformers: Mapping[Role, Transformer]
    quantiser: tuple[Graph, ...]
    decoder: Graph


@dataclass(frozen=True)
class Request:
    """What to draw for a batch of B images.

    Attributes:
        labels: class of each image.
        uniforms: float32 [L, B], the numbers that decide each position.
        n_draft: how many scales the drafter draws.
        sampling: checked settings.
        teacher: tokens [L, B] that replace the drawn ones in what later scales see, to compare models on equal input.
        logits: also keep the guided logits; the step graphs must have that output.
    """

    labels: tuple[int, ...]
    uniforms: NDArray[np.float32]
    n_draft: int
    sampling: Sampling
    teacher: NDArray[np.integer] | None = None
    logits: bool = False


@dataclass(frozen=True)
class DecodedScale:
    """One finished scale, in the backend's buffers.

    Attributes:
        index: the scale.
        role: which model drew it.
        tokens: int32 [n, B].
        f_hat: float32 [B, Z, P, P], the sum over the scales so far.
        logits: float32 [n, B, V] if they were asked for.
    """

    index: int
    role: Role
    tokens: Buffer
    f_hat: Buffer
    logits: Buffer | None


def decode(chain: Chain, request: Request) -> Iterator[DecodedScale]:
    """Draw all scales, one after the other."""
    backend, schedule = chain.backend, Schedule(chain.manifest.schedule)
    batch, width = len(request.labels), chain.manifest.code_width
    f_hat = backend.upload(np.zeros((batch, width, schedule.side, schedule.side), np.float32))
    features = backend.upload(np.zeros((schedule.length, batch, width), np.float32))
    teacher = None if request.teacher is None else backend.upload(request.teacher.astype(np.int32))
    for scale in range(schedule.scales):
        role: Role = "drafter" if scale < request.n_draft else "refiner"
        if scale in (0, request.n_draft):
            decoder = _Decoder(chain, role, request)
        tokens, logits = decoder.draw(scale, features)
        inputs = {"tokens": tokens if teacher is None else teacher[schedule.span(scale)], "f_hat": f_hat}
        f_hat = backend.empty((batch, width, schedule.side, schedule.side), np.float32)
        outputs = {"new_f_hat": f_hat}
        if scale + 1 < schedule.scales:
            outputs["features"] = features[schedule.span(scale + 1)]
        chain.quantiser[scale].run(inputs, outputs)
        yield DecodedScale(scale, role, tokens, f_hat, logits)


def render(chain: Chain, f_hat: Buffer) -> NDArray[np.uint8]:
    """f_hat [B, Z, P, P] → images [B, H, W, 3], on the host, in pieces: maps of full resolution are what fills memory."""
    side, batch = chain.manifest.image_side, f_hat.shape[0]
    images = chain.backend.empty((batch, side, side, 3), np.uint8)
    for piece in (slice(start, min(start + DECODER_BATCH, batch)) for start in range(0, batch, DECODER_BATCH)):
        chain.decoder.run({"f_hat": f_hat[piece]}, {"images": images[piece]})
    return chain.backend.download(images)


class _Decoder:
    """One transformer's side of a decoding: its conditions, its settings and its cache.

    The cache of a block is one buffer [positions, 2B, H, 64]: the past is its front, a pass's keys and values follow.
    The first pass of the refiner takes the drafted prefix and its first own scale together.
    """

    def __init__(self, chain: Chain, role: Role, request: Request) -> None:
        self._chain, self._request = chain, request
        self._model = model = chain.transformers[role]
        self._schedule = schedule = Schedule(chain.manifest.schedule)
        backend, batch = chain.backend, len(request.labels)
        null = model.conditions.shape[0] - 1
        self._conditions = backend.upload(model.conditions[[*request.labels, *[null] * batch]].astype(np.float32))
        self._settings = {name: backend.upload(value) for name, value in _settings(request, schedule.scales).items()}
        self._uniforms = backend.upload(request.uniforms)
        self._last = (request.n_draft if role == "drafter" else schedule.scales) - 1
        self._filled = 0
        positions = schedule.begin(self._last)  # nothing reads the last scale's keys and values
        dtype = np.float16 if chain.manifest.precision == "fp16" else np.float32
        self._cache = {
            f"{which}_{block}": backend.empty((positions, 2 * batch, model.heads, HEAD_WIDTH), dtype)
            for block in range(model.depth)
            for which in "kv"
        }

    def draw(self, scale: int, features: Buffer) -> tuple[Buffer, Buffer | None]:
        """Run the step graph up to the end of a scale; returns its tokens [n, B] and, if asked for, guided logits.

        features: [L, B, Z], known up to the end of the scale.
        """
        backend, span = self._chain.backend, self._schedule.span(scale)
        batch, drawn = len(self._request.labels), self._schedule.tokens(scale)
        new = slice(self._filled, span.stop)
        inputs = {"features": features[new], "conditions": self._conditions, "uniforms": self._uniforms[span]}
        inputs |= {name: rows[scale : scale + 1] for name, rows in self._settings.items()}
        inputs |= {f"past_{name}": cache[: self._filled] for name, cache in self._cache.items()}
        outputs: dict[str, Buffer] = {"tokens": backend.empty((drawn, batch), np.int32)}
        if self._request.logits:
            outputs["guided_logits"] = backend.empty((drawn, batch, self._chain.manifest.vocabulary), np.float32)
        if scale != self._last:
            outputs |= {f"new_{name}": cache[new] for name, cache in self._cache.items()}
        self._model.step.run(inputs, outputs)
        self._filled = span.stop
        return outputs["tokens"], outputs.get("guided_logits")


def _settings(request: Request, scales: int) -> dict[str, NDArray[Any]]:
    """Settings by scale [K, B]; guidance ramps up from 0 at the first scale to cfg at the last."""
    sampling, shape = request.sampling, (scales, len(request.labels))
    guidance = np.float32(sampling.cfg) * np.arange(scales, dtype=np.float32) / max(scales - 1, 1)
    return {
        "guidance": np.broadcast_to(guidance[:, None], shape),
        "temperature": np.broadcast_to(np.array(sampling.temperatures(scales), np.float32)[:, None], shape),
        "top_p": np.full(shape, sampling.top_p, np.float32),
        "top_k": np.full(shape, sampling.top_k, np.int32),
    }
