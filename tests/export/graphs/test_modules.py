from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from conftest import TOY_DRAFTER, TOY_SCHEDULE, TOY_VAE
from helpers import assert_close, random_weights
from trt_var.bundle.manifest import HEAD_WIDTH
from trt_var_export.graphs.conditions import condition_columns
from trt_var_export.graphs.modules import Smooth, interpolation
from trt_var_export.graphs.verify import fill_transformer
from trt_var_export.models.vqvae import Vqvae, nearest_tick
from trt_var_export.weights.architecture import unfilled


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13, 16])
@pytest.mark.parametrize("mode", ["bicubic", "area"])
def test_interpolation_equals_torch(side: int, mode: str) -> None:
    source, target = (side, 16) if mode == "bicubic" else (16, side)
    image = torch.randn(2, 3, source, source)
    matrix = interpolation(source, target, mode)
    assert_close(matrix @ image @ matrix.T, F.interpolate(image, size=(target, target), mode=mode), absolute=2e-6)


def test_ticks_of_the_released_schedule() -> None:
    assert [nearest_tick(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]  # two ties


def test_prefix_in_one_pass_equals_scale_by_scale() -> None:
    """The hand-over: several scales in one pass give the keys, values and logits of single passes."""
    model = fill_transformer(TOY_DRAFTER, random_weights(TOY_DRAFTER, 1).load)
    schedule, batch = TOY_DRAFTER.schedule, 3
    words = torch.randn(schedule.length, 2 * batch, TOY_DRAFTER.width)
    labels = [0, 5, 9, 10, 10, 10]
    conditions = torch.cat(
        [columns for _, columns in condition_columns(TOY_DRAFTER, random_weights(TOY_DRAFTER, 1).load, labels)], 1
    )
    past = [torch.empty(0, 2 * batch, TOY_DRAFTER.heads, HEAD_WIDTH) for _ in range(2 * TOY_DRAFTER.depth)]
    whole_logits, whole = model(words, conditions, past, schedule.tokens(3))
    for scale in range(schedule.scales):
        logits, new = model(words[schedule.span(scale)], conditions, past, schedule.tokens(scale))
        past = [torch.cat(pair) for pair in zip(past, new, strict=True)]
    assert_close(logits.detach(), whole_logits.detach(), absolute=1e-4)
    for found, expected in zip(past, whole, strict=True):
        assert_close(found.detach(), expected.detach(), absolute=1e-5)


def test_later_scales_do_not_change_earlier_ones() -> None:
    model = fill_transformer(TOY_DRAFTER, random_weights(TOY_DRAFTER, 1).load)
    schedule = TOY_DRAFTER.schedule
    conditions = torch.randn(2, TOY_DRAFTER.conditions, TOY_DRAFTER.width)
    past = [torch.empty(0, 2, TOY_DRAFTER.heads, HEAD_WIDTH) for _ in range(2 * TOY_DRAFTER.depth)]
    words = torch.randn(schedule.length, 2, TOY_DRAFTER.width)
    changed = words.clone()
    changed[schedule.begin(3) :] += 1
    logits, _ = model(words, conditions, past, schedule.length)
    other, _ = model(changed, conditions, past, schedule.length)
    assert_close(other[: schedule.begin(3)].detach(), logits[: schedule.begin(3)].detach())
    assert (other[schedule.begin(3) :] != logits[schedule.begin(3) :]).any()


@pytest.mark.parametrize("scale", range(4))
def test_smoothing_over_all_tokens(scale: int) -> None:
    """The published form: what top-k and top-p drop is minus infinity, then a Gumbel softmax over the whole vocabulary."""
    weights = random_weights(TOY_VAE, 9)
    vqvae = unfilled(TOY_VAE)
    assert isinstance(vqvae, Vqvae)
    vqvae.load_state_dict({key: weights.load(key) for key in vqvae.state_dict()}, assign=True)
    module = Smooth(vqvae, TOY_SCHEDULE, scale, max_top_k=64)
    n, side = TOY_SCHEDULE.tokens(scale), TOY_SCHEDULE.side
    logits, noise = (torch.randn(n, 2, TOY_VAE.vocabulary) * 3 for _ in range(2))
    f_hat, kept = (torch.randn(2, TOY_VAE.code_width, side, side) for _ in range(2))
    mask = torch.randint(0, 2, (2, 1, side, side)).float()
    top_p, top_k = torch.tensor([[0.7, 1.0]]), torch.tensor([[40, 5]])
    with torch.no_grad():
        found = module(logits, noise, top_p, top_k, f_hat, kept, mask)
        vectors = torch.empty(n, 2, TOY_VAE.code_width)
        for i in range(2):
            one = logits[:, i]
            one = one.masked_fill(one < one.topk(int(top_k[0, i])).values[:, -1:], -torch.inf)
            ordered, index = one.sort(-1)
            drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p[0, i]
            drop[:, -1] = False
            one = one.masked_fill(drop.scatter(-1, index, drop), -torch.inf)
            ratio = scale / 3
            score = (one * (1 + ratio) + noise[:, i]) / max(0.27 * (1 - ratio * 0.95), 0.005)
            vectors[:, i] = score.softmax(-1) @ vqvae.quantize.embedding.weight
        expected = (1 - mask) * (f_hat + module.spread(vectors)) + mask * kept
    assert_close(found[0], expected, absolute=1e-5)
