"""The decoding loop: drafter, refiner, plain VAR, previews and calibration all go through it.

Collaborative decoding (arXiv 2411.17787): the drafter draws scales 0..N−1, the refiner the rest. f_hat and features
carry over; the refiner's cache of the drafted prefix comes from running the refiner on the prefix features, scale by
scale, without drawing.
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


@dataclass(frozen=True)
class Request:
    """What to draw for a batch of B images.

    Attributes:
        labels: class of each image.
        uniforms: float32 [B, L], the numbers that decide each position.
        n_draft: how many scales the drafter draws.
        sampling: checked settings.
        teacher: tokens [B, L] that replace the drawn ones in what later scales see, to compare models on equal input.
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
        tokens: int32 [B, n].
        f_hat: float32 [B, Z, P, P], the sum over the scales so far.
        logits: float32 [B, n, V] if they were asked for.
    """

    index: int
    role: Role
    tokens: Buffer
    f_hat: Buffer
    logits: Buffer | None


def decode(chain: Chain, request: Request) -> Iterator[DecodedScale]:
    """Draw all scales, one after the other."""
    schedule = Schedule(chain.manifest.schedule)
    batch = len(request.labels)
    backend = chain.backend
    decoders = {
        role: _Decoder(chain, role, request) for role in _roles(request.n_draft, schedule.scales)
    }
    side, width = schedule.side, chain.manifest.code_width
    f_hat = backend.upload(np.zeros((batch, width, side, side), np.float32))
    features = backend.upload(np.zeros((batch, schedule.tokens(0), width), np.float32))
    seen: list[Buffer] = []
    for scale in range(schedule.scales):
        role: Role = "drafter" if scale < request.n_draft else "refiner"
        decoder = decoders[role]
        for earlier in range(decoder.filled, scale):  # the hand-over
            decoder.run(earlier, seen[earlier], drawn=0)
        tokens, logits = decoder.run(scale, features, drawn=schedule.tokens(scale))
        if request.teacher is not None:
            tokens = backend.upload(request.teacher[:, schedule.span(scale)].astype(np.int32))
        seen.append(features)
        inputs, outputs = {"tokens": tokens, "f_hat": f_hat}, {}
        f_hat = outputs["new_f_hat"] = backend.empty((batch, width, side, side), np.float32)
        if scale + 1 < schedule.scales:
            features = outputs["features"] = backend.empty((batch, schedule.tokens(scale + 1), width), np.float32)
        chain.quantiser[scale].run(inputs, outputs)
        yield DecodedScale(scale, role, tokens, f_hat, logits)


def _roles(n_draft: int, scales: int) -> list[Role]:
    roles: list[tuple[Role, bool]] = [("drafter", n_draft > 0), ("refiner", n_draft < scales)]
    return [role for role, used in roles if used]


class _Decoder:
    """One transformer's side of a decoding: its conditions, its cache, and how many scales that holds.

    The cache of a block is one buffer [positions, 2B, H, 64]: the past is its front, a step's keys and values follow.
    """

    def __init__(self, chain: Chain, role: Role, request: Request) -> None:
        self._chain, self._request = chain, request
        self._model = model = chain.transformers[role]
        self._schedule = schedule = Schedule(chain.manifest.schedule)
        self.filled = 0
        backend, batch = chain.backend, len(request.labels)
        null = model.conditions.shape[0] - 1
        rows = [*request.labels, *[null] * batch]
        self._conditions = backend.upload(model.conditions[rows].astype(np.float32))
        last = schedule.scales if role == "refiner" else request.n_draft
        positions = schedule.begin(last - 1)  # nothing reads the last scale's keys and values
        dtype = np.float16 if chain.manifest.precision == "fp16" else np.float32
        self._last = last - 1
        self._cache = {
            f"{which}_{block}": backend.empty((positions, 2 * batch, model.heads, HEAD_WIDTH), dtype)
            for block in range(model.depth)
            for which in "kv"
        }

    def run(self, scale: int, features: Buffer, drawn: int) -> tuple[Buffer, Buffer | None]:
        """Run the step graph on one scale; returns tokens [B, drawn] and, if asked for, guided logits."""
        chain, request, span = self._chain, self._request, self._schedule.span(scale)
        backend, batch = chain.backend, len(request.labels)
        inputs = {"features": features, "conditions": self._conditions}
        inputs |= {name: backend.upload(value) for name, value in self._settings(scale, drawn).items()}
        inputs |= {f"past_{name}": cache[: span.start] for name, cache in self._cache.items()}
        outputs: dict[str, Buffer] = {"tokens": backend.empty((batch, drawn), np.int32)}
        if request.logits and drawn:
            outputs["guided_logits"] = backend.empty((batch, drawn, chain.manifest.vocabulary), np.float32)
        if scale != self._last:
            outputs |= {f"new_{name}": cache[span] for name, cache in self._cache.items()}
        self._model.step.run(inputs, outputs)
        self.filled = scale + 1
        return outputs["tokens"], outputs.get("guided_logits")

    def _settings(self, scale: int, drawn: int) -> dict[str, NDArray[Any]]:
        request, scales = self._request, self._schedule.scales
        batch, sampling, span = len(request.labels), request.sampling, self._schedule.span(scale)
        guidance = sampling.cfg * scale / max(scales - 1, 1)
        return {
            "uniforms": request.uniforms[:, span][:, :drawn],
            "guidance": np.full(batch, guidance, np.float32),
            "temperature": np.full(batch, sampling.temperatures(scales)[scale], np.float32),
            "top_p": np.full(batch, sampling.top_p, np.float32),
            "top_k": np.full(batch, sampling.top_k, np.int32),
        }
