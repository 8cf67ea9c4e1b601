"""The decoding loop: drafter, refiner, plain VAR, previews and calibration all go through it.

Collaborative decoding (arXiv 2411.17787): the drafter draws scales 0..N−1, the refiner the rest. f_hat and features
carry over; the refiner's cache of the drafted prefix comes from running the refiner on the prefix features, in one pass
together with the first scale that it draws, or scale by scale beside the drafter (shadowing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Backend, Buffer, Graph, Work
from trt_var.bundle.manifest import HEAD_WIDTH, Manifest, Role
from trt_var.bundle.memory import kept_positions
from trt_var.bundle.passes import last_scales
from trt_var.decoding.sampling import Sampling
from trt_var.schedule import Schedule

SETTINGS = ("uniforms", "guidance", "temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Transformer:
    """A loaded transformer: its step graph and its class table [classes + 1, M, C]."""

    step: Graph
    conditions: NDArray[np.floating]
    depth: int
    heads: int


@dataclass(frozen=True)
class Chain:
    """Everything that one decoding needs, loaded on one backend; with ``smooth`` graphs, step graphs that return logits."""

    backend: Backend
    manifest: Manifest
    transformers: Mapping[Role, Transformer]
    quantiser: tuple[Graph, ...]
    decoder: Graph
    smooth: tuple[Graph, ...] = ()


@dataclass(frozen=True)
class Region:
    """What of a given image is kept while the rest is drawn, the same for a whole batch (the VAR paper, zero-shot editing).

    Attributes:
        keep: float32 [P, P], 1 where the image is kept and 0 where it is drawn.
        f_hats: float32 [K, Z, P, P], the given image's f_hat after every scale, from the encoder.
    """

    keep: NDArray[np.float32]
    f_hats: NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """What to draw for a batch of B images.

    Attributes:
        labels: class of each image.
        uniforms: float32 [L, B], the numbers that decide each position.
        n_draft: how many scales the drafter draws.
        sampling: checked settings.
        teacher: tokens [L, B] that replace the drawn ones in what later scales see, to compare models on equal input.
        region: what of a given image is kept; nothing without it.
        noise: float32 [L, B, V], Gumbel noise for a chain with smooth graphs.
    """

    labels: tuple[int, ...]
    uniforms: NDArray[np.float32]
    n_draft: int
    sampling: Sampling
    teacher: NDArray[np.integer] | None = None
    region: Region | None = None
    noise: NDArray[np.float32] | None = None

    def scales(self, schedule: Schedule) -> int:
        """How many scales are drawn."""
        return self.sampling.scales or schedule.scales


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


def arrays(chain: Chain, request: Request) -> dict[str, NDArray[Any]]:
    """Everything that a decoding reads from the host, by name.

    float32 ``conditions.ROLE`` [R, M, C] of the roles that draw, R = 2B or, for one that guides nothing, B; ``f_hat``
    [B, Z, P, P] and ``features`` [L, B, Z] as the first scale sees them; for every scale k that is drawn ``uniforms.k``
    [n, B], ``guidance.k``, ``temperature.k``, ``top_p.k``, ``top_k.k`` [1, B] and perhaps ``teacher.k`` [n, B] and
    ``noise.k`` [n, B, V]; ``keep`` [B, 1, P, P] of what ``kept.k`` [B, Z, P, P], there only if something may be kept. One
    array a scale, for engines that want aligned addresses.
    """
    manifest, batch = chain.manifest, len(request.labels)
    schedule = Schedule(manifest.schedule)
    found: dict[str, NDArray[Any]] = {
        "f_hat": np.zeros((batch, manifest.code_width, schedule.side, schedule.side), np.float32),
        "features": np.zeros((schedule.length, batch, manifest.code_width), np.float32),
        "keep": np.zeros((batch, 1, schedule.side, schedule.side), np.float32),
    }
    if request.region is not None:
        found["keep"] = np.broadcast_to(request.region.keep, found["keep"].shape)
        kept = np.broadcast_to(request.region.f_hats[:, None], (schedule.scales, *found["f_hat"].shape))
        found |= {f"kept.{scale}": f_hat for scale, f_hat in enumerate(kept)}
    halved = one_row(chain, request.n_draft, request.sampling)
    for role in last_scales(request.scales(schedule), request.n_draft):
        found[f"conditions.{role}"] = _conditions(chain.transformers[role].conditions, request.labels, role in halved)
    settings = _settings(request, manifest)
    for scale in range(request.scales(schedule)):
        span = schedule.span(scale)
        found[f"uniforms.{scale}"] = request.uniforms[span]
        found |= {f"{name}.{scale}": rows[scale : scale + 1] for name, rows in settings.items()}
        if request.teacher is not None:
            found[f"teacher.{scale}"] = request.teacher[span].astype(np.int32)
        if request.noise is not None:
            found[f"noise.{scale}"] = request.noise[span]
    return found


def one_row(chain: Chain, n_draft: int, sampling: Sampling) -> frozenset[Role]:
    """The roles that take one row an image: nothing that they draw is guided, and graphs and backend bear it."""
    free = sampling.unguided(len(chain.manifest.schedule), n_draft)
    return frozenset(role for role in free if chain.manifest.one_row and chain.backend.takes_one_row(role))


def upload(chain: Chain, request: Request) -> dict[str, Buffer]:
    """``arrays`` on the chain's backend."""
    return {name: chain.backend.upload(array) for name, array in arrays(chain, request).items()}


def decode(
    chain: Chain, n_draft: int, inputs: Mapping[str, Buffer], *, logits: bool = False, shadowed: bool = False
) -> Iterator[DecodedScale]:
    """Draw the scales, one after the other.

    Args:
        chain: what runs them.
        n_draft: how many scales the drafter draws.
        inputs: see ``upload``; features are written to. What there is of the scales says how many are drawn.
        logits: also keep the guided logits; the step graphs must have that output.
        shadowed: the refiner runs over every drafted scale while the drafter draws it, aside where the backend can, so that
            its first own scale finds the keys and values of the prefix; both caches are then held at once.
    """
    backend, schedule = chain.backend, Schedule(chain.manifest.schedule)
    features, f_hat = inputs["features"], inputs["f_hat"]
    nothing = f_hat  # zeros, for the quantisers to keep nothing of
    scales = sum(f"uniforms.{scale}" in inputs for scale in range(schedule.scales))
    sides = _sides(chain, scales, n_draft, inputs, shadowed)
    for scale in range(scales):
        role: Role = "drafter" if scale < n_draft else "refiner"
        if shadowed and scale < n_draft:
            with backend.aside():
                sides["refiner"].draw(scale, features, False)
        if shadowed and scale == n_draft:
            backend.join()
        tokens, values = sides[role].draw(scale, features, logits or bool(chain.smooth))
        known = {"f_hat": f_hat, "keep": inputs["keep"], "kept": inputs.get(f"kept.{scale}", nothing)}
        if values is not None and chain.smooth:
            known |= {"guided_logits": values, "noise": inputs[f"noise.{scale}"]}
            known |= {name: inputs[f"{name}.{scale}"] for name in ("top_p", "top_k")}
        else:
            known["tokens"] = inputs.get(f"teacher.{scale}", tokens)
        f_hat = backend.empty(f_hat.shape, np.float32)
        outputs = {"new_f_hat": f_hat}
        if scale + 1 < schedule.scales:  # after the last that is drawn, too: engines have a place for it
            outputs["features"] = features[schedule.span(scale + 1)]
        (chain.smooth or chain.quantiser)[scale].run(known, outputs)
        yield DecodedScale(scale, role, tokens, f_hat, values)


def render(chain: Chain, f_hat: Buffer) -> Buffer:
    """f_hat [B, Z, P, P] → images uint8 [B, H, W, 3], in pieces: maps of full resolution are what fills memory."""
    side, batch, size = chain.manifest.image_side, f_hat.shape[0], chain.backend.piece
    images = chain.backend.empty((batch, side, side, 3), np.uint8)
    for piece in (slice(start, min(start + size, batch)) for start in range(0, batch, size)):
        chain.decoder.run({"f_hat": f_hat[piece]}, {"images": images[piece]})
    return images


def draw(chain: Chain, request: Request, shadowing: bool = True) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """A whole batch: tokens [L, B], of the scales that are drawn, and images [B, H, W, 3].

    Without ``shadowing`` in one way alone, with its rounding.
    """

    def way(shadowed: bool) -> Work:
        def work(inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
            scales = list(decode(chain, request.n_draft, inputs, shadowed=shadowed))
            drawn = {f"tokens.{scale.index}": scale.tokens for scale in scales}
            return {"images": render(chain, scales[-1].f_hat), **drawn}

        return work

    found = chain.backend.draw(request.n_draft, arrays(chain, request), way(False), way(shadowing))
    tokens = [found[f"tokens.{scale}"] for scale in range(request.scales(Schedule(chain.manifest.schedule)))]
    return np.concatenate(tokens), found["images"]


def _sides(chain: Chain, scales: int, n_draft: int, inputs: Mapping[str, Buffer], shadowed: bool) -> dict[Role, _Side]:
    """The models that draw. The refiner's cache takes the place of the drafter's, or lies behind it where it shadows it."""
    schedule, drops = Schedule(chain.manifest.schedule), chain.backend.drops_outputs
    rooms = {role: kept_positions(schedule, scales, n_draft, role, drops) for role in last_scales(scales, n_draft)}
    sizes = {
        role: 2 * model.depth * room * inputs[f"conditions.{role}"].shape[0] * model.heads * HEAD_WIDTH
        for role, room in rooms.items()
        for model in [chain.transformers[role]]
    }
    dtype = np.dtype(np.float16 if chain.manifest.precision == "fp16" else np.float32)
    total = sum(sizes.values()) if shadowed else max(sizes.values())
    cache = chain.backend.empty((total,), chain.backend.cache_dtype or dtype)
    begins = {role: total - size if shadowed and role == "refiner" else 0 for role, size in sizes.items()}
    return {role: _Side(chain, role, room, inputs, cache[begins[role] :]) for role, room in rooms.items()}


class _Side:
    """One transformer's side of a decoding: its conditions, its settings and its cache.

    The cache of a block is [positions, R, H, 64]: the past is its front, a pass's keys and values follow.
    A pass takes all scales that the cache does not hold: the refiner's first one the drafted prefix too, unless it shadowed.
    """

    def __init__(self, chain: Chain, role: Role, room: int, inputs: Mapping[str, Buffer], cache: Buffer) -> None:
        self._chain, self._inputs, self._role = chain, inputs, role
        self._model = model = chain.transformers[role]
        self._schedule = Schedule(chain.manifest.schedule)
        self._filled, self._room = 0, room
        shape = (room, inputs[f"conditions.{role}"].shape[0], model.heads, HEAD_WIDTH)
        size = math.prod(shape)
        names = [f"{which}_{block}" for block in range(model.depth) for which in "kv"]
        self._cache = {name: cache[i * size : (i + 1) * size].reshape(shape) for i, name in enumerate(names)}

    def draw(self, scale: int, features: Buffer, logits: bool) -> tuple[Buffer, Buffer | None]:
        """Run the step graph up to the end of a scale; returns its tokens [n, B] and, if asked for, guided logits.

        features: [L, B, Z], known up to the end of the scale.
        """
        backend, span = self._chain.backend, self._schedule.span(scale)
        batch, drawn = features.shape[1], self._schedule.tokens(scale)
        new = slice(self._filled, span.stop)
        inputs = {"features": features[new], "conditions": self._inputs[f"conditions.{self._role}"]}
        inputs |= {name: self._inputs[f"{name}.{scale}"] for name in SETTINGS}
        inputs |= {f"past_{name}": cache[: self._filled] for name, cache in self._cache.items()}
        outputs: dict[str, Buffer] = {"tokens": backend.empty((drawn, batch), np.int32)}
        if logits:
            outputs["guided_logits"] = backend.empty((drawn, batch, self._chain.manifest.vocabulary), np.float32)
        if new.stop <= self._room:
            outputs |= {f"new_{name}": cache[new] for name, cache in self._cache.items()}
        self._model.step.run(inputs, outputs)
        self._filled = span.stop
        return outputs["tokens"], outputs.get("guided_logits")


def _conditions(table: NDArray[np.floating], labels: tuple[int, ...], alone: bool) -> NDArray[np.float32]:
    """Rows of the labels and, unless they are ``alone``, of the null class for each [R, M, C].

    Each row is widened once, which is what takes long.
    """
    rows = np.array([*labels, *[table.shape[0] - 1] * (0 if alone else len(labels))])
    found = np.empty((rows.size, *table.shape[1:]), np.float32)
    for row in np.unique(rows):
        found[rows == row] = table[row].astype(np.float32)
    return found


def _settings(request: Request, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Settings by scale [K, B]."""
    scales = len(manifest.schedule)
    sampling = request.sampling.resolved(manifest.vocabulary, manifest.max_top_k, manifest.untruncated)
    shape = (scales, len(request.labels))
    return {
        "guidance": np.broadcast_to(sampling.guidance(scales)[:, None], shape),
        "temperature": np.broadcast_to(np.array(sampling.temperatures(scales), np.float32)[:, None], shape),
        "top_p": np.full(shape, sampling.top_p, np.float32),
        "top_k": np.full(shape, sampling.top_k, np.int32),
    }
