"""How likely given token maps are: log-likelihoods by teacher forcing, through the graphs that draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_var.decoding.chain import Chain
from trt_var.decoding.feeds import Request, upload
from trt_var.decoding.loop import decode
from trt_var.decoding.sampling import Sampling

FORCED = Sampling(cfg=0.0, top_k=1)


def log_likelihoods(chain: Chain, n_draft: int, tokens: NDArray[np.integer], labels: tuple[int, ...]) -> NDArray[np.float64]:
    """Natural logarithms of the probability of every scale's tokens, given those before and the label: [K, B].

    Without guidance, temperature or truncation: what the models were trained to maximise (the VAR paper, section 3.2).

    Args:
        chain: with step graphs that return logits.
        n_draft: how many scales the drafter judges; the refiner judges the rest.
        tokens: [L, B].
        labels: class of each picture.
    """
    request = Request(labels, np.zeros(tokens.shape, np.float32), n_draft, FORCED, tokens)
    found = []
    for scale in decode(chain, n_draft, upload(chain, request), logits=True):
        if scale.logits is None:
            raise RuntimeError("these step graphs return no logits")
        logits = chain.backend.download(scale.logits).astype(np.float64)  # [n, B, V]
        logits -= logits.max(-1, keepdims=True)
        start = sum(side**2 for side in chain.manifest.schedule[: scale.index])
        taken = np.take_along_axis(logits, tokens[start : start + len(logits), :, None].astype(np.int64), -1)[..., 0]
        found.append((taken - np.log(np.exp(logits).sum(-1))).sum(0))
    return np.stack(found)
