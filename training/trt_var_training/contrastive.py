"""Training without need of guidance: condition contrastive alignment on the scales that a model draws.

Source: Chen et al., "Toward Guidance-Free AR Visual Generation via Condition Contrastive Alignment", arXiv 2410.09347.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_var.errors import UsageError
from trt_var_export.models.transformer import Transformer
from trt_var_export.models.vqvae import Vqvae
from trt_var_training.data import Batches
from trt_var_training.var import CLASS_DROPOUT, Forcing

PUBLISHED = {20: 50.0, 24: 100.0}  # λ of VAR up to a depth
DEEPEST = 1000.0  # λ of d30


def published_lambda(depth: int) -> float:
    """λ as the authors chose it for VAR of this depth or the next."""
    return next((value for most, value in PUBLISHED.items() if depth <= most), DEEPEST)


@dataclass(frozen=True)
class Contrast:
    """How strongly pictures are held to their own labels.

    Attributes:
        beta: β, of the log-likelihoods' distance from the reference, in 1/nat.
        negative_weight: λ, of pictures under the labels of others beside pictures under their own.

    Raises:
        UsageError: β not above 0, λ below 0, or not finite.
    """

    beta: float = 0.02
    negative_weight: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise UsageError(f"--beta is {self.beta:g}; expected above 0, e.g. 0.02")
        if not 0 <= self.negative_weight < float("inf"):
            raise UsageError(f"--lambda is {self.negative_weight:g}; expected 0 or more, e.g. 50")

    def loss(self, own: Tensor, other: Tensor, alike: Tensor) -> Tensor:
        """−log σ(β·own) − λ·log σ(−β·other), a mean over B, by max(λ, 1), so that λ does not set the gradient's size.

        Args:
            own, other: log p − log p_ref of pictures under their own labels and under others, in nats [B].
            alike: bool [B], where both labels are the same or both dropped: nothing is to be told apart, and the second term
                counts as the first, with weight 1.
        """
        sign = torch.where(alike, 1.0, -1.0)
        weight = torch.where(alike, 1.0, self.negative_weight)
        loss = -F.logsigmoid(self.beta * own) - weight * F.logsigmoid(sign * self.beta * other)
        return loss.mean() / max(self.negative_weight, 1.0)


class ContrastObjective:
    """A model learns to draw without guidance what its frozen reference draws with it.

    Args:
        model: what is trained; float32.
        reference: the weights that training starts from, frozen, on the same device.
        vqvae, batches, span, class_dropout: as ``var.Forcing`` takes them; a dropped label is dropped from both of a pair.
        contrast: β and λ.
    """

    def __init__(
        self,
        model: Transformer,
        reference: Transformer,
        vqvae: Vqvae,
        batches: Batches,
        span: tuple[int, int] | None = None,
        contrast: Contrast = Contrast(),
        class_dropout: float = CLASS_DROPOUT,
    ) -> None:
        self.trained = model
        self._model, self._reference, self._contrast = model, reference, contrast
        self._forcing = Forcing(model, vqvae, batches, span, class_dropout)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Losses of the batch of a step, float32 scalars; the label of a picture's neighbour is its negative one.

        Returns:
            ``loss``, what is descended. ``own`` and ``other``, mean log p − log p_ref in nats of pictures under their own
            labels and under others, dropped labels and pairs of one class left out. ``entropy``, the cross-entropy in nats
            a token under own labels.

        Raises:
            DataError: a picture that cannot be read.
        """
        batch = self._forcing(step)
        labels = torch.stack((batch.labels, batch.labels.roll(-1)))
        labels = torch.where(batch.dropped, self._model.shape.classes, labels)
        features, tokens = batch.features.repeat(1, 2, 1), batch.tokens.repeat(1, 2)
        found = log_likelihoods(self._forcing.logits(self._model, features, labels.flatten()), tokens)
        with torch.no_grad():
            known = log_likelihoods(self._forcing.logits(self._reference, features, labels.flatten()), tokens)
        own, other = (found - known).chunk(2)
        alike = labels[0] == labels[1]
        told_apart = ~alike
        count = told_apart.sum().clamp_min(1)
        return {
            "loss": self._contrast.loss(own, other, alike),
            "own": (own * told_apart).sum() / count,
            "other": (other * told_apart).sum() / count,
            "entropy": -found[: len(own)].mean() / len(tokens),
        }


def log_likelihoods(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log p of whole rows in nats, [R]: logits [m, R, V], tokens [m, R]."""
    return -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).sum(0)
