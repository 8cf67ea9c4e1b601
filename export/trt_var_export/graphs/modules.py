"""What is exported: one step graph per transformer, one quantiser graph per scale, decoder and encoder.

The torch modules here are at once what is traced and the reference that the traced graphs are compared with.
Shape letters: transformer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_var.bundle.manifest import HEAD_WIDTH
from trt_var.schedule import Schedule
from trt_var_export.models import sampler
from trt_var_export.models.sampler import draw, guide
from trt_var_export.models.transformer import Transformer
from trt_var_export.models.vqvae import Vqvae


@dataclass(frozen=True)
class Traceable:
    """A module with what the tracer needs: example inputs in order, their free axes, the outputs' names."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    parameters: dict[str, str] = field(default_factory=dict)
    """Names of the module's parameters that stay in the graph → their keys in the checkpoint."""


class Step(nn.Module):
    """One scale of one transformer, sampling inside."""

    def __init__(self, transformer: Transformer, max_top_k: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.width = min(max_top_k, transformer.shape.vocabulary)

    def forward(
        self,
        features: Tensor,
        conditions: Tensor,
        uniforms: Tensor,
        guidance: Tensor,
        temperature: Tensor,
        top_p: Tensor,
        top_k: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Features [n, B, Z], conditions [R, M, C], uniforms [m, B], settings [1, B], past [T, R, H, D] k and v a block.

        R is 2B, the labels' rows and then the null class's; or B, the labels' alone, where nothing is guided.
        Returns tokens [m, B] and guided logits [m, B, V] of the last m positions, new keys and values [n, R, H, D].
        """
        guided, new = self.logits(features, conditions, guidance, past, uniforms.shape[0])
        return draw(guided, uniforms, top_k, top_p, temperature, self.width), guided, *new

    def logits(
        self, features: Tensor, conditions: Tensor, guidance: Tensor, past: Sequence[Tensor], drawn: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Guided logits [m, B, V] of the last ``drawn`` positions, new keys and values."""
        words = self.transformer.word_embed(features)
        words = torch.cat((words, words), 1).narrow(1, 0, conditions.shape[0])  # both branches see the same tokens
        logits, new = self.transformer(words, conditions, list(past), drawn)
        return guide(logits, guidance), new


def cache_names(prefix: str, depth: int) -> list[str]:
    """Names of a step graph's cache tensors, k and v of each block: ``past_k_0``, ``past_v_0``, ``past_k_1``, …"""
    return [f"{prefix}_{which}_{i}" for i in range(depth) for which in "kv"]


def step_parameters(transformer: Transformer) -> list[str]:
    """Keys of the parameters that a step graph keeps; the others' work is a row of the condition table."""
    folded = ("ada_lin", "ada_gss", "class_emb")
    return [key for key, _ in transformer.named_parameters() if not any(part in key for part in folded)]


def step(name: str, transformer: Transformer, max_top_k: int) -> Traceable:
    shape = transformer.shape
    batch, rows, n, past, drawn = 3, 6, 9, 5, 4  # any sizes ≥ 2 that differ: 0 and 1 would be taken as fixed
    cache = (past, rows, shape.heads, HEAD_WIDTH)
    dtype = transformer.head.weight.dtype
    inputs = {
        "features": torch.zeros(n, batch, shape.code_width),
        "conditions": torch.zeros(rows, shape.conditions, shape.width),
        "uniforms": torch.zeros(drawn, batch),
        "guidance": torch.zeros(1, batch),
        "temperature": torch.ones(1, batch),
        "top_p": torch.ones(1, batch),
        "top_k": torch.ones(1, batch, dtype=torch.int32),
        **{key: torch.zeros(cache, dtype=dtype) for key in cache_names("past", shape.depth)},
    }
    axes = {"features": {0: "tokens", 1: "batch"}, "conditions": {0: "rows"}, "uniforms": {0: "drawn", 1: "batch"}}
    axes |= {key: {1: "batch"} for key in ("guidance", "temperature", "top_p", "top_k")}
    axes |= {key: {0: "past", 1: "rows"} for key in cache_names("past", shape.depth)}
    return Traceable(
        name,
        Step(transformer, max_top_k),
        inputs,
        axes,
        ("tokens", "guided_logits", *cache_names("new", shape.depth)),
        {f"transformer.{key}": key for key in step_parameters(transformer)},
    )


def interpolation(source: int, target: int, mode: str) -> Tensor:
    """The matrix [target, source] of a one-dimensional resize: ``bicubic`` (a = −0.75) or ``area``.

    Both resizes of the quantiser are separable and linear, so two matrix products do them exactly; TensorRT does not
    list a cubic Resize.
    """
    eye = torch.eye(source, dtype=torch.float64).reshape(1, source, source, 1)
    resized = F.interpolate(eye, size=(target, 1), mode=mode)
    return resized.reshape(source, target).T.float().contiguous()


class Quantise(nn.Module):
    """One scale of the quantiser: tokens → codebook → upsample → φ → f_hat → features of the next scale."""

    up: Tensor | None
    down: Tensor | None

    def __init__(self, vqvae: Vqvae, schedule: Schedule, scale: int) -> None:
        super().__init__()
        self.quantize, self.schedule, self.scale = vqvae.quantize, schedule, scale
        side, last = schedule.sides[scale], scale == schedule.scales - 1
        self.register_buffer("up", None if side == schedule.side else interpolation(side, schedule.side, "bicubic"))
        self.register_buffer("down", None if last else interpolation(schedule.side, schedule.sides[scale + 1], "area"))

    def contribution(self, tokens: Tensor) -> Tensor:
        """Tokens [n, B] → φ_k of their upsampled codebook rows [B, Z, P, P]."""
        return self.spread(self.quantize.embedding(tokens))

    def spread(self, vectors: Tensor) -> Tensor:
        """Vectors [n, B, Z] → upsampled, through φ_k: [B, Z, P, P]."""
        side = self.schedule.sides[self.scale]
        h = vectors.permute(1, 2, 0).unflatten(2, (side, side))
        if self.up is not None:
            h = self.up @ h @ self.up.T
        return self.quantize.phi(h, self.scale, self.schedule.scales)

    def forward(self, tokens: Tensor, f_hat: Tensor, kept: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        """Tokens int32 [n, B], f_hat [B, Z, P, P] → f_hat, and the next scale's features [n', B, Z] if there is one.

        Where ``keep`` [B, 1, P, P] is 1, f_hat becomes ``kept`` [B, Z, P, P]; at 0, f_hat is what it would be without.
        """
        return self.advance(self.contribution(tokens), f_hat, kept, keep)

    def advance(self, contribution: Tensor, f_hat: Tensor, kept: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        """What a scale adds [B, Z, P, P] → f_hat and features, see ``forward``."""
        f_hat = (1 - keep) * (f_hat + contribution) + keep * kept
        return (f_hat,) if self.down is None else (f_hat, self.next_features(f_hat))

    def next_features(self, f_hat: Tensor) -> Tensor:
        """f_hat [B, Z, P, P] → what the next scale's positions see [n', B, Z]; the last scale has no next."""
        if self.down is None:
            raise ValueError("the last scale has no next one")
        return (self.down @ f_hat @ self.down.T).flatten(2).permute(2, 0, 1)


class Smooth(Quantise):
    """As Quantise, of an average of codebook rows in place of the drawn one: smoother pictures, for the eye alone.

    The weights are a Gumbel softmax over what top-k and top-p leave, sharper from scale to scale. Source: the published VAR
    sampling code, ``more_smooth``.
    """

    def __init__(self, vqvae: Vqvae, schedule: Schedule, scale: int, max_top_k: int) -> None:
        super().__init__(vqvae, schedule, scale)
        ratio = scale / max(schedule.scales - 1, 1)
        self.sharpness, self.softness = 1 + ratio, max(0.27 * (1 - 0.95 * ratio), 0.005)
        self.width = min(max_top_k, vqvae.shape.vocabulary)

    def forward(  # type: ignore[override]  # one scale, other inputs
        self,
        guided_logits: Tensor,
        noise: Tensor,
        top_p: Tensor,
        top_k: Tensor,
        f_hat: Tensor,
        kept: Tensor,
        keep: Tensor,
    ) -> tuple[Tensor, ...]:
        """Logits and Gumbel noise [n, B, V], settings [1, B], the rest as for Quantise."""
        candidates, tokens, chosen = sampler.keep(guided_logits, top_k, top_p, self.width)
        score = (candidates * self.sharpness + noise.gather(-1, tokens)) / self.softness  # untempered, as published
        weights = torch.where(chosen, score, sampler.FLOOR).softmax(-1).unsqueeze(-2)
        vectors = (weights @ self.quantize.embedding(tokens)).squeeze(-2)
        return self.advance(self.spread(vectors), f_hat, kept, keep)


def smooth(vqvae: Vqvae, schedule: Schedule, scale: int, max_top_k: int) -> Traceable:
    module, plain = Smooth(vqvae, schedule, scale, max_top_k), quantise(vqvae, schedule, scale)
    logits = (schedule.tokens(scale), 2, vqvae.shape.vocabulary)
    inputs = {"guided_logits": torch.zeros(logits), "noise": torch.zeros(logits)}
    inputs |= {"top_p": torch.full((1, 2), 0.9), "top_k": torch.full((1, 2), 9, dtype=torch.int32)}
    inputs |= {name: plain.inputs[name] for name in ("f_hat", "kept", "keep")}
    axes = {name: {1: "batch"} for name in ("guided_logits", "noise", "top_p", "top_k")}
    axes |= {name: {0: "batch"} for name in ("f_hat", "kept", "keep")}
    return Traceable(f"smooth_{scale:02d}", module, inputs, axes, plain.outputs, plain.parameters)


def quantise(vqvae: Vqvae, schedule: Schedule, scale: int) -> Traceable:
    module = Quantise(vqvae, schedule, scale)
    sides = (schedule.side, schedule.side)
    inputs = {
        "tokens": torch.zeros(schedule.tokens(scale), 2, dtype=torch.int32),
        "f_hat": torch.zeros(2, vqvae.shape.code_width, *sides),
        "kept": torch.zeros(2, vqvae.shape.code_width, *sides),
        "keep": torch.zeros(2, 1, *sides),
    }
    return Traceable(
        f"quantise_{scale:02d}",
        module,
        inputs,
        {"tokens": {1: "batch"}, **{name: {0: "batch"} for name in ("f_hat", "kept", "keep")}},
        ("new_f_hat",) if module.down is None else ("new_f_hat", "features"),
        {key: key for key, _ in module.named_parameters()},
    )


class Decode(nn.Module):
    """f_hat [B, Z, P, P] → images uint8 [B, H, W, 3], rounded down as the published sampling script does."""

    def __init__(self, vqvae: Vqvae) -> None:
        super().__init__()
        self.vqvae = vqvae

    def forward(self, f_hat: Tensor) -> Tensor:
        return (self.vqvae.decode(f_hat) * 255).permute(0, 2, 3, 1).to(torch.uint8)


def decode(vqvae: Vqvae, schedule: Schedule) -> Traceable:
    f_hat = torch.zeros(2, vqvae.shape.code_width, schedule.side, schedule.side)
    return Traceable(
        "decoder", Decode(vqvae), {"f_hat": f_hat}, {"f_hat": {0: "batch"}}, ("images",), _vqvae_part(vqvae, "decoder")
    )


class Encode(nn.Module):
    """Image [B, 3, H, W] in [−1, 1] → tokens int32 [L, B] and f_hat after every scale [K, B, Z, P, P]."""

    def __init__(self, vqvae: Vqvae, schedule: Schedule) -> None:
        super().__init__()
        self.vqvae, self.schedule = vqvae, schedule
        self.scales = nn.ModuleList(Quantise(vqvae, schedule, k) for k in range(schedule.scales))
        for k, side in enumerate(schedule.sides):
            self.register_buffer(f"area_{k}", interpolation(schedule.side, side, "area"))

    def scale(self, index: int) -> Quantise:
        """The quantiser of one scale."""
        return self.scales[index]  # type: ignore[return-value]  # the list holds nothing else

    def quantise(self, f: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features [B, Z, P, P] → of every scale the vectors [n, B, Z], the nearest codes [n, B] and f_hat after it."""
        residual, f_hat = f, torch.zeros_like(f)
        codebook = self.vqvae.quantize.embedding.weight
        for k in range(self.schedule.scales):
            area = getattr(self, f"area_{k}")
            pooled = residual if k == self.schedule.scales - 1 else area @ residual @ area.T
            vectors = pooled.flatten(2).permute(2, 0, 1)
            distance = codebook.square().sum(1) - 2 * vectors @ codebook.T  # |vector|² is the same for all rows
            nearest = distance.argmin(-1).to(torch.int32)
            h = self.scale(k).contribution(nearest)
            f_hat, residual = f_hat + h, residual - h
            yield vectors, nearest, f_hat

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        _, tokens, f_hats = zip(*self.quantise(self.vqvae.quant_conv(self.vqvae.encoder(image))), strict=True)
        return torch.cat(tokens), torch.stack(f_hats)


def encode(vqvae: Vqvae, schedule: Schedule) -> Traceable:
    side = schedule.side * vqvae.shape.downsampling
    return Traceable(
        "encoder",
        Encode(vqvae, schedule),
        {"image": torch.zeros(2, 3, side, side)},
        {"image": {0: "batch"}},
        ("tokens", "f_hats"),
        _vqvae_part(vqvae, "encoder") | _vqvae_part(vqvae, "quantize"),
    )


def _vqvae_part(vqvae: Vqvae, part: str) -> dict[str, str]:
    """Parameters of one side of the VQVAE, with the convolution next to the code."""
    prefixes = {"encoder": ("encoder.", "quant_conv."), "decoder": ("decoder.", "post_quant_conv.")}
    return {f"vqvae.{key}": key for key, _ in vqvae.named_parameters() if key.startswith(prefixes.get(part, (f"{part}.",)))}
