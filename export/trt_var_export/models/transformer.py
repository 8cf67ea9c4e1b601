"""The VAR transformer, with explicit key/value caches.

Parameter names and shapes are those of the released state dicts, so a checkpoint loads without renaming.
Source: Tian et al., "Visual Autoregressive Modeling", NeurIPS 2024, section 3.

Shape letters, used in names and docstrings throughout the project:
    B images, R = 2·B rows (conditional rows first, then the unconditional ones), n tokens of the current scale,
    m of them to be drawn, T past positions, L all positions, C width, H heads, D = 64 head width, V codebook size,
    Z codebook width, M condition vectors a row.

Everything is sequence-first, [n, R, C]: keys and values leave the model in the layout of the cache, [positions, R, H, D],
whose front is the past of every later scale; features and tokens of several scales are one contiguous buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_var.bundle.manifest import HEAD_WIDTH
from trt_var.schedule import Schedule

MASKED = -1e4  # within float16; attention scores are at most 100
MAX_LOG_SCALE = 4.605170185988092  # log(100), the ceiling of the learned attention temperature


@dataclass(frozen=True)
class TransformerShape:
    """Everything that the shapes in a VAR state dict say about the model."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    vocabulary: int
    code_width: int
    classes: int
    shared_aln: bool
    schedule: Schedule

    @property
    def conditions(self) -> int:
        """Condition vectors a row: the class embedding, six for each block, two for the head."""
        return 1 + 6 * self.depth + 2


def layer_norm(x: Tensor) -> Tensor:
    """Layer normalisation without affine part, eps 1e-6, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


def unit(x: Tensor) -> Tensor:
    """L2 normalisation of the last axis; torch's own expands the norm to the full shape in the exported graph."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class Attention(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.scale_mul_1H11 = nn.Parameter(torch.zeros(1, shape.heads, 1, 1))
        self.q_bias = nn.Parameter(torch.zeros(shape.width))
        self.v_bias = nn.Parameter(torch.zeros(shape.width))
        self.mat_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X [n, R, C], past [T, R, H, D], bias [n, T + n] → attention [n, R, C], new keys and values [n, R, H, D].

        The 1e-12 of the L2 normalisation is zero in float16, so the norm is taken in float32.
        """
        n, rows, width = x.shape
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias)).to(x.dtype)
        qkv = (self.mat_qkv(x) + qkv_bias).reshape(n, rows, 3, self.heads, HEAD_WIDTH)
        q, k, v = qkv.unbind(2)
        scale = self.scale_mul_1H11.float().clamp(max=MAX_LOG_SCALE).exp().reshape(self.heads, 1)
        q = (unit(q.float()) * scale).to(x.dtype)
        k = unit(k.float()).to(x.dtype)
        keys, values = torch.cat((past_k, k)), torch.cat((past_v, v))
        out = self._attend(q.permute(1, 2, 0, 3), keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3), bias)
        return self.proj(out.permute(2, 0, 1, 3).reshape(n, rows, width)), k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        # one Attention layer of opset 23; TensorRT has kernels for it in half precision and for several heads alone
        if q.dtype == torch.float16 and self.heads > 1:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return (q @ k.transpose(-1, -2) + bias).float().softmax(-1).to(v.dtype) @ v


class FeedForward(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.mlp_width)
        self.fc2 = nn.Linear(shape.mlp_width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def adaptive_linear(width: int, vectors: int) -> nn.Sequential:
    """SiLU and a linear layer: the label's embedding [.., C] → ``vectors`` condition vectors [.., vectors·C]."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, vectors * width))


class Block(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.attn = Attention(shape)
        self.ffn = FeedForward(shape)
        if shape.shared_aln:
            self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, shape.width))
        else:
            self.ada_lin = adaptive_linear(shape.width, 6)

    def forward(
        self, x: Tensor, conditions: Tensor, past_k: Tensor, past_v: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X [n, R, C] float32, conditions [R, 6, C], past [T, R, H, D], bias [n, T + n] → x, new keys, new values."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = conditions.unbind(1)
        dtype = self.attn.proj.weight.dtype
        attended, k, v = self.attn((layer_norm(x) * (1 + scale1) + shift1).to(dtype), past_k, past_v, bias)
        x = x + gamma1 * attended.float()
        fed = self.ffn((layer_norm(x) * (1 + scale2) + shift2).to(dtype))
        return x + gamma2 * fed.float(), k, v


class Head(nn.Module):
    """Holds ``head_nm.ada_lin``; the released name of the modulation before the classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = adaptive_linear(width, 2)


class Transformer(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        width, schedule = shape.width, shape.schedule
        self.pos_start = nn.Parameter(torch.zeros(1, schedule.tokens(0), width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, schedule.length, width))
        self.word_embed = nn.Linear(shape.code_width, width)
        self.class_emb = nn.Embedding(shape.classes + 1, width)
        self.lvl_embed = nn.Embedding(schedule.scales, width)
        if shape.shared_aln:
            self.shared_ada_lin = adaptive_linear(width, 6)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.head_nm = Head(width)
        self.head = nn.Linear(width, shape.vocabulary)
        self.set_levels()

    levels: Tensor

    def set_levels(self) -> None:
        """Compute the scale of every position; again after parameters were moved without their values."""
        self.register_buffer("levels", torch.tensor(self.shape.schedule.levels()), persistent=False)

    def embed(self, words: Tensor, first: Tensor, start: int) -> Tensor:
        """Embedded features [n, R, C] and class embeddings [R, C] → the transformer's input [n, R, C].

        The first scale's input is the class embedding; every later one is the embedded feature map.
        """
        n = words.shape[0]
        positions = self.pos_1LC[0] + self.lvl_embed(self.levels)
        begin = self.pos_start[0] - self.word_embed.bias  # the features of the first scale are zero
        pad = (0, 0, 0, self.shape.schedule.length - begin.shape[0])
        positions = (positions + F.pad(begin, pad))[start : start + n, None]
        is_first = F.pad(torch.ones_like(begin[:, :1]), pad)[start : start + n, None]
        return words + positions + is_first * first

    def conditions(self, labels: Tensor) -> Tensor:
        """Labels [R] → the condition vectors [R, M, C] that a bundle holds as a table, see conditions.py."""
        embedding = self.class_emb(labels)
        shared = self.shared_ada_lin(embedding).unflatten(1, (6, -1)) if self.shape.shared_aln else None
        pieces = [embedding.unsqueeze(1)]
        block: Any
        for block in self.blocks:
            pieces.append(block.ada_lin(embedding).unflatten(1, (6, -1)) if shared is None else shared + block.ada_gss[0])
        return torch.cat((*pieces, self.head_nm.ada_lin(embedding).unflatten(1, (2, -1))), 1)

    def causal_bias(self, start: int, n: int) -> Tensor:
        """What is added to the attention scores of positions start … start + n − 1: [n, start + n].

        Zero, but for keys of a later scale than the query's. Such pairs only exist when several scales go through in
        one pass, as at the hand-over.
        """
        # narrow tells the exporter its length; of a slice, PyTorch before 2.13 knows none
        keys, queries = self.levels.narrow(0, 0, start + n), self.levels.narrow(0, start, n)
        return torch.where(keys <= queries.unsqueeze(1), 0.0, MASKED)

    def forward(self, words: Tensor, conditions: Tensor, past: list[Tensor], drawn: int) -> tuple[Tensor, list[Tensor]]:
        """One pass: embedded features [n, R, C], conditions [R, M, C], past k and v of each block [T, R, H, D].

        A pass is one scale, or all scales up to the first that this model draws. Returns the logits of the last
        ``drawn`` positions [m, R, V] in float32, and the new keys and values [n, R, H, D] in the order of ``past``.
        """
        x = self.embed(words, conditions[:, 0], past[0].shape[0])
        bias = self.causal_bias(past[0].shape[0], words.shape[0]).to(past[0].dtype)
        new: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            six = conditions[:, 1 + 6 * i : 7 + 6 * i]
            x, k, v = block(x, six, past[2 * i], past[2 * i + 1], bias)
            new += [k, v]
        scale, shift = conditions[:, -2:].unbind(1)
        x = layer_norm(x[x.shape[0] - drawn :]) * (1 + scale) + shift
        return self.head(x.to(self.head.weight.dtype)).float(), new

    def to_half(self) -> Transformer:
        """Linear layers in float16; embeddings, conditions, norms and the residual stay in float32."""
        for block in self.blocks:
            block.attn.half()
            block.ffn.half()
        self.head.half()
        return self
