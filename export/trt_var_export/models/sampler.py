"""Guidance and sampling inside the step graph: logits never leave the model, only tokens do.

The draw is the inverse of the cumulative distribution at one uniform number a position, so it is a pure function of
its inputs (docs/decoding.md states the contract).
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = -1e30  # finite: inf − inf is not a number


def guide(logits: Tensor, guidance: Tensor) -> Tensor:
    """Classifier-free guidance: logits [m, R, V], strengths t [1, B] → (1 + t)·conditional − t·unconditional [m, B, V].

    The conditional logits are the first B rows, the unconditional the last B: the same where R is B, and t must be 0 then.
    """
    batch, rows = guidance.shape[1], logits.shape[1]
    t = guidance.unsqueeze(-1)
    return (1 + t) * logits.narrow(1, 0, batch) - t * logits.narrow(1, rows - batch, batch)


def draw(logits: Tensor, uniforms: Tensor, top_k: Tensor, top_p: Tensor, temperature: Tensor, width: int) -> Tensor:
    """Draw one token a position.

    logits [m, B, V] and uniforms [m, B] in float32; top_k int32, top_p, temperature float32 [1, B]; ``width`` is the
    fixed number of candidates that TopK keeps, the ceiling of top_k. Returns int32 [m, B].

    With top_k of the whole vocabulary and top_p of 1 nothing is cut off, nothing is sorted, and the cumulative distribution
    goes through the codes in their own order; else through the kept ones, likeliest first.

    Top-p drops, in ascending order, what sums to at most 1 − p; over the kept candidates in descending order that is:
    a candidate stays while the probability before it is below p.
    """
    candidates, tokens, kept = keep(logits, top_k, top_p, width)
    tempered = torch.where(kept, candidates / temperature.unsqueeze(-1), FLOOR).softmax(-1)
    # counted in float32: OpenVINO 2026.4 fuses what follows an integer ReduceSum wrongly
    passed = (tempered.cumsum(-1) <= uniforms.unsqueeze(-1)).float().sum(-1)
    last = kept.float().sum(-1) - 1  # rounding can leave the sum below u
    chosen = torch.minimum(passed, last).to(torch.int64).unsqueeze(-1)
    cut = tokens.gather(-1, chosen).squeeze(-1).to(torch.int32)
    return torch.where((top_k >= logits.shape[-1]) & (top_p >= 1), _draw_of_all(logits, uniforms, temperature), cut)


def _draw_of_all(logits: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
    """One of all codes a position, int32 [m, B]."""
    cumulative = (logits / temperature.unsqueeze(-1)).softmax(-1).cumsum(-1)
    drawn = uniforms.unsqueeze(-1) * cumulative[..., -1:]  # the sum is not quite 1
    passed = (cumulative <= drawn).float().sum(-1)  # counted in float32, as above
    return passed.clamp(max=logits.shape[-1] - 1).to(torch.int32)


def keep(logits: Tensor, top_k: Tensor, top_p: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest candidates in descending order, their tokens, and which of them top-k and top-p leave: [m, B, width]."""
    candidates, tokens = torch.topk(logits, width, dim=-1, sorted=True)
    rank = torch.arange(width, device=logits.device)
    kept = rank < top_k.unsqueeze(-1)
    probability = torch.where(kept, candidates, FLOOR).softmax(-1)
    before = probability.cumsum(-1) - probability  # exactly 0 for the likeliest, which therefore always stays
    all_or_p = torch.where(top_p >= 1, 2.0, top_p)  # rounding can lift the sum above 1
    return candidates, tokens, kept & (before < all_or_p.unsqueeze(-1))
