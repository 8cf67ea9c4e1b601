"""Training the multi-scale VQVAE: reconstruction, commitment, and a codebook that is used.

Source: the VAR paper, section 3.2 and algorithm 1; the losses are those of van den Oord et al., 2017, taken after every
scale. Codes that nothing in a batch is near are moved, now and then, to vectors that the encoder does produce.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_var.schedule import Schedule
from trt_var_export.graphs.modules import Encode
from trt_var_export.models.vqvae import Vqvae, VqvaeShape
from trt_var_export.weights.architecture import hollow
from trt_var_training.data import Batches


def fresh_vqvae(shape: VqvaeShape, seed: int) -> Vqvae:
    """A VQVAE with the usual initial weights, float32; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    model = hollow(shape)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(module.bias) if module.bias is not None else None
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.quantize.embedding.weight, std=0.5, generator=generator)
    return model


@dataclass(frozen=True)
class Weights:
    """Of the terms beside the squared error."""

    commitment: float = 0.25
    codebook: float = 1.0
    absolute: float = 1.0


class VqvaeObjective:
    """Squared and absolute error of the pictures, commitment and codebook after every scale.

    Args:
        model: what is trained; float32.
        schedule: patch sides of the scales.
        batches: pictures of the schedule's size.
        weights: of the terms.
        revive_until: the step after which unused codes are left where they are.
        revive_every: steps between revivals.
    """

    def __init__(
        self,
        model: Vqvae,
        schedule: Schedule,
        batches: Batches,
        weights: Weights = Weights(),
        revive_until: int = 0,
        revive_every: int = 50,
    ) -> None:
        self.trained = model
        self._model, self._batches, self._weights = model, batches, weights
        self._device = model.quantize.embedding.weight.device
        self._encode = Encode(model, schedule).to(self._device)
        self._revive_until, self._revive_every = revive_until, revive_every

    def losses(self, step: int) -> dict[str, Tensor]:
        """Losses of the batch of a step, float32 scalars; may move unused codes.

        Returns:
            ``loss``, what is descended. ``squared``, the mean squared error of pictures in [−1, 1]. ``quantisation``,
            the mean squared distance of f_hat from the encoder's features, a mean over scales. ``codes``, the share of
            the codebook that the batch used.

        Raises:
            DataError: a picture that cannot be read.
        """
        images, _, generator = self._batches(step)
        images = images.to(self._device)
        f = self._model.quant_conv(self._model.encoder(images))
        commitment = codebook = torch.zeros((), device=self._device)
        vectors, tokens = [], []
        f_hat = torch.zeros_like(f)
        for pooled, nearest, f_hat in self._encode.quantise(f.detach()):
            vectors.append(pooled.flatten(0, 1))
            tokens.append(nearest.flatten())
            commitment = commitment + F.mse_loss(f, f_hat.detach())
            codebook = codebook + F.mse_loss(f_hat, f.detach())
        scales = len(vectors)
        through = f + (f_hat - f).detach()  # the decoder's gradient passes the quantiser as if it were not there
        found = self._model.decoder(self._model.post_quant_conv(through))
        squared, absolute = F.mse_loss(found, images), F.l1_loss(found, images)
        loss = squared + self._weights.absolute * absolute
        loss = loss + (self._weights.commitment * commitment + self._weights.codebook * codebook) / scales
        counts = torch.bincount(torch.cat(tokens), minlength=self._model.shape.vocabulary)
        if (step + 1) % self._revive_every == 0 and step < self._revive_until:
            self._revive(counts == 0, torch.cat(vectors), generator)
        codes = (counts > 0).float().mean()
        return {"loss": loss, "squared": squared, "quantisation": codebook / scales, "codes": codes}

    @torch.no_grad()
    def _revive(self, unused: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        places = unused.nonzero().flatten()
        chosen = torch.randint(0, len(vectors), (len(places),), generator=generator)
        codes = self._model.quantize.embedding.weight
        codes.index_copy_(0, places, vectors[chosen.to(vectors.device)].to(codes.dtype))
