"""The decoding loop: drafter, refiner, plain VAR, previews and calibration all go through it.

Collaborative decoding (arXiv 2411.17787): the drafter draws scales 0..N−1, the refiner the rest. f_hat and features
carry over; the refiner's cache of the drafted prefix comes from running the refiner on the prefix features, in one pass
together with the first scale that it draws, or scale by scale beside the drafter (shadowing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Buffer, Work
from trt_var.bundle.manifest import HEAD_WIDTH, Role
from trt_var.bundle.memory import kept_positions
from trt_var.bundle.passes import last_scales
from trt_var.decoding.chain import Chain
from trt_var.decoding.feeds import SETTINGS, Request, arrays
from trt_var.schedule import Schedule


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
