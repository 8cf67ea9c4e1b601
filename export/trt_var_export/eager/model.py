"""Eager PyTorch doing what the published sampling code does, to measure against.

AdaLN is computed at every scale, the cache grows by concatenation, the refiner runs the drafted prefix together with its
first scale, sampling sorts all logits, the decoder follows. With ``dtype`` the transformers run under autocast.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_var.bundle.manifest import HEAD_WIDTH, Role
from trt_var_export.models.transformer import Attention, Block, Transformer, TransformerShape
from trt_var_export.models.vqvae import Vqvae, VqvaeShape
from trt_var_export.weights.architecture import unfilled
from trt_var_export.weights.checkpoint import Checkpoint


@dataclass
class Times:
    """Seconds of every scale, and of the decoder."""

    scales: list[float] = field(default_factory=list)
    decoder: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.scales) + self.decoder


def attend(attention: Attention, x: Tensor, cache: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    """Batch-first, through scaled_dot_product_attention, as published."""
    rows, n, width = x.shape
    bias = torch.cat((attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias))
    qkv = F.linear(x, attention.mat_qkv.weight, bias).view(rows, n, 3, attention.heads, HEAD_WIDTH)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q = F.normalize(q, dim=-1) * attention.scale_mul_1H11.clamp_max(4.605170186).exp()
    k = F.normalize(k, dim=-1)
    if cache:
        k, v = torch.cat((cache["k"], k), 2), torch.cat((cache["v"], v), 2)
    cache["k"], cache["v"] = k, v
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask, scale=1.0)
    return attention.proj(out.transpose(1, 2).reshape(rows, n, width))


def block_forward(block: Block, x: Tensor, condition: Tensor, cache: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    """One block with its AdaLN computed here and now."""
    six = block.ada_lin(condition).view(-1, 1, 6, x.shape[-1])
    gamma1, gamma2, scale1, scale2, shift1, shift2 = six.unbind(2)
    norm = x.shape[-1:]
    attended = attend(block.attn, F.layer_norm(x, norm, eps=1e-6) * (1 + scale1) + shift1, cache, mask)
    x = x + attended * gamma1
    return x + block.ffn(F.layer_norm(x, norm, eps=1e-6) * (1 + scale2) + shift2) * gamma2


def sample(logits: Tensor, top_k: int, top_p: float, generator: torch.Generator) -> Tensor:
    """Top-k by threshold, top-p by a full sort, multinomial."""
    smallest = logits.topk(top_k, dim=-1).values.amin(-1, keepdim=True)
    logits = logits.masked_fill(logits < smallest, -torch.inf)
    ordered, index = logits.sort(dim=-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[..., -1:] = False
    logits = logits.masked_fill(drop.scatter(-1, index, drop), -torch.inf)
    return torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(logits.shape[:2])


class Eager:
    """Drafter, refiner and VQVAE as eager modules on one device."""

    def __init__(
        self,
        shapes: dict[Role, TransformerShape],
        checkpoints: Mapping[Role, Checkpoint],
        vae: tuple[VqvaeShape, Checkpoint],
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.models: dict[Role, Transformer] = {
            role: fill(unfilled(shape), checkpoints[role], device) for role, shape in shapes.items()
        }
        self.vqvae: Vqvae = fill(unfilled(vae[0]), vae[1], device)
        self.schedule = next(iter(shapes.values())).schedule

    def round_weights(self, dtype: torch.dtype) -> None:
        """Keep the weights of products in a shorter type: autocast would convert them again at every use."""
        for model in self.models.values():
            for layer in model.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.to(dtype)

    @torch.inference_mode()
    def generate(self, labels: list[int], n_draft: int, cfg: float = 1.5, top_k: int = 600, top_p: float = 0.96) -> Times:
        """Draw one batch; the images are thrown away."""
        cast = torch.autocast(self.device, self.dtype) if self.dtype else nullcontext()
        times, schedule = Times(), self.schedule
        batch = len(labels)
        f_hat = torch.zeros(batch, self.vqvae.shape.code_width, schedule.side, schedule.side, device=self.device)
        features: list[Tensor] = []
        generator = torch.Generator(self.device).manual_seed(0)
        with cast:
            for scale in range(schedule.scales):
                started = self._now()
                role: Role = "drafter" if scale < n_draft else "refiner"
                if scale in (0, n_draft):
                    caches: list[dict[str, Tensor]] = [{} for _ in self.models[role].blocks]
                    first = 0
                logits = self._logits(self.models[role], labels, features, scale, first, caches)
                first = scale + 1
                t = cfg * scale / (schedule.scales - 1)
                tokens = sample((1 + t) * logits[:batch] - t * logits[batch:], top_k, top_p, generator)
                tokens = tokens[:, -schedule.tokens(scale) :]
                side = schedule.sides[scale]
                h = self.vqvae.quantize.embedding(tokens).transpose(1, 2).reshape(batch, -1, side, side)
                if side != schedule.side:
                    h = F.interpolate(h, size=(schedule.side, schedule.side), mode="bicubic")
                f_hat = f_hat + self.vqvae.quantize.phi(h, scale, schedule.scales).float()
                if scale + 1 < schedule.scales:
                    following = schedule.sides[scale + 1]
                    features.append(
                        F.interpolate(f_hat, size=(following, following), mode="area").flatten(2).transpose(1, 2)
                    )
                times.scales.append(self._now() - started)
            started = self._now()
            self.vqvae.decode(f_hat)
            times.decoder = self._now() - started
        return times

    def _logits(
        self,
        model: Transformer,
        labels: list[int],
        features: list[Tensor],
        scale: int,
        first: int,
        caches: list[dict[str, Tensor]],
    ) -> Tensor:
        """Logits of the scales ``first`` … ``scale``; the published refiner draws its prefix again too."""
        schedule = self.schedule
        rows = torch.tensor([*labels, *[model.shape.classes] * len(labels)], device=self.device)
        condition = model.class_emb(rows)
        span = slice(schedule.begin(first), schedule.begin(scale + 1))
        positions = (model.pos_1LC[0] + model.lvl_embed(model.levels))[span]
        parts = [condition[:, None] + model.pos_start] if first == 0 else []
        parts += [model.word_embed(map_).repeat(2, 1, 1) for map_ in features[max(first - 1, 0) : scale]]
        x = torch.cat(parts, 1) + positions
        mask = None
        if first != scale:
            levels = model.levels[span]
            mask = torch.where(levels <= levels[:, None], 0.0, -torch.inf).to(x.dtype)
        block: Any
        for block, cache in zip(model.blocks, caches, strict=True):
            x = block_forward(block, x, condition, cache, mask)
        shift_scale = model.head_nm.ada_lin(condition).view(-1, 1, 2, x.shape[-1])
        x = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1 + shift_scale[:, :, 0]) + shift_scale[:, :, 1]
        return model.head(x).float()

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def fill(model: Any, checkpoint: Checkpoint, device: str) -> Any:
    """A model with all of its weights, AdaLN included, on a device."""
    model.load_state_dict({key: checkpoint.load(key) for key in model.state_dict()}, assign=True)
    if isinstance(model, Transformer):
        model.set_levels()
    return model.to(device)
