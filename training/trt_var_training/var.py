"""Training VAR by teacher forcing, from scratch or specialised for collaborative decoding.

Source: the VAR paper, section 3.3 (all scales in one pass under the block-causal mask, labels dropped for guidance), and
the CoDe paper, section 3.3: the drafter is tuned on the scales below N with the data's tokens; the refiner on the others
with the data's tokens and the large model's distribution. Its authors train the refiner in two stages, over all scales
and then over its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_var.bundle.manifest import HEAD_WIDTH
from trt_var_export.graphs.modules import Encode
from trt_var_export.models.transformer import Transformer, TransformerShape
from trt_var_export.models.vqvae import Vqvae
from trt_var_export.weights.architecture import hollow
from trt_var_training.data import Batches

CLASS_DROPOUT = 0.1  # share of labels replaced by the null class, as VAR is trained
OPENING = 0.5  # γ at the beginning: how much of a residual branch is added


def fresh_transformer(shape: TransformerShape, seed: int) -> Transformer:
    """A transformer with initial weights, float32: small normal ones, residual branches that begin nearly closed.

    Args:
        seed: the same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    model = hollow(shape)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, math.log(4.0) if name.endswith("scale_mul_1H11") else 0.0)
        else:
            initial_matrix(parameter, shape.width, generator)
        if name.endswith(("attn.proj.weight", "ffn.fc2.weight")):
            parameter.data /= math.sqrt(2 * shape.depth)
        if name.startswith("head.") or "ada_lin" in name:
            parameter.data *= 0.1
        if name.endswith("ada_gss"):
            parameter.data[:, :, :2] += OPENING
        if name.startswith("blocks.") and name.endswith("ada_lin.1.bias"):
            parameter.data[: 2 * shape.width] += OPENING
    return model


def initial_matrix(values: Tensor, width: int, generator: torch.Generator) -> None:
    """Fill a matrix or an embedding of a transformer of this width, as VAR's are initialised."""
    nn.init.trunc_normal_(values, std=math.sqrt(1 / width / 3), generator=generator)


def features_of(encode: Encode, images: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of images, and what teacher forcing feeds.

    Args:
        encode: the VQVAE's encoder with a schedule of L positions.
        images: float32 [B, 3, H, W] in [−1, 1], of the schedule's size.

    Returns:
        Tokens, int64 [L, B]; features, float32 [L, B, Z], zero at the first scale. Without gradients.
    """
    with torch.no_grad():
        f = encode.vqvae.quant_conv(encode.vqvae.encoder(images))
        first = encode.schedule.tokens(0)
        tokens, features = [], [f.new_zeros(first, f.shape[0], f.shape[1])]
        for k, (_, found, f_hat) in enumerate(encode.quantise(f)):
            tokens.append(found)
            if k + 1 < encode.schedule.scales:
                features.append(encode.scale(k).next_features(f_hat))
    return torch.cat(tokens).long(), torch.cat(features)


def forced_logits(model: Transformer, features: Tensor, labels: Tensor) -> Tensor:
    """One pass over the first n positions, block-causal.

    Args:
        model: on the device of the features.
        features: float32 [n, B, Z], of whole scales, as ``features_of`` returns them.
        labels: int64 [B], 0 to ``classes``, which is the null class.

    Returns:
        Logits, [n, B, V], float32 on a CPU.

    On CUDA the products are taken in bfloat16.
    """
    shape, device = model.shape, features.device.type
    past = [features.new_zeros(0, features.shape[1], shape.heads, HEAD_WIDTH)] * (2 * shape.depth)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits, _ = model(model.word_embed(features), model.conditions(labels), past, features.shape[0])
    return logits


@dataclass(frozen=True)
class Teacher:
    """The model whose distribution the trained one follows, beside the data.

    Attributes:
        model: with the same codebook and schedule, on the same device.
        weight: of the divergence KL(teacher ‖ student), beside the cross-entropy's 1.
        knows_classes: whether the data's classes are its own. If not, it is asked for the distribution of its null class.
    """

    model: Transformer
    weight: float = 1.0
    knows_classes: bool = True

    def labels(self, labels: Tensor) -> Tensor:
        """What it is asked for, [B], where the student is asked for ``labels``."""
        return labels if self.knows_classes else torch.full_like(labels, self.model.shape.classes)


@dataclass(frozen=True)
class Forced:
    """A batch as teacher forcing takes it: n positions up to the last scale that counts, m of them in scales that count.

    Attributes:
        tokens: int64 [m, B].
        features: float32 [n, B, Z].
        labels: int64 [B], without dropout.
        dropped: bool [B], whose label the null class replaces.
    """

    tokens: Tensor
    features: Tensor
    labels: Tensor
    dropped: Tensor


class Forcing:
    """Makes the batches of steps into tokens and features, and knows which scales count.

    Args:
        model: what is trained; its device is that of everything.
        vqvae: makes the tokens; its weights stay as they are. Moved to the model's device.
        batches: pictures of the schedule's size, with labels that the model knows.
        span: the scales that count, (first, end); scales after them are not even computed. None for all.
        class_dropout: share of labels replaced by the null class.
    """

    def __init__(
        self, model: Transformer, vqvae: Vqvae, batches: Batches, span: tuple[int, int] | None, class_dropout: float
    ) -> None:
        schedule = model.shape.schedule
        first, end = span or (0, schedule.scales)
        self._batches, self._dropout = batches, class_dropout
        self._device = model.head.weight.device
        self._encode = Encode(vqvae, schedule).to(self._device).eval().requires_grad_(False)
        self._begin, self._end = schedule.begin(first), schedule.begin(end)

    def __call__(self, step: int) -> Forced:
        """The batch of a step.

        Raises:
            DataError: a picture that cannot be read.
        """
        images, labels, generator = self._batches(step)
        dropped = torch.rand(len(labels), generator=generator) < self._dropout
        tokens, features = features_of(self._encode, images.to(self._device))
        counted = tokens[self._begin : self._end]
        return Forced(counted, features[: self._end], labels.to(self._device), dropped.to(self._device))

    def logits(self, model: Transformer, features: Tensor, labels: Tensor) -> Tensor:
        """Of the positions that count, [m, R, V]; features [n, R, Z], labels [R]."""
        return forced_logits(model, features, labels)[self._begin :]


class VarObjective:
    """Cross-entropy on the tokens of some scales, and the divergence from a teacher.

    Args:
        model: what is trained; float32.
        vqvae, batches, span, class_dropout: as ``Forcing`` takes them.
        teacher: whose distribution is followed; without one, the data alone.
    """

    def __init__(
        self,
        model: Transformer,
        vqvae: Vqvae,
        batches: Batches,
        span: tuple[int, int] | None = None,
        teacher: Teacher | None = None,
        class_dropout: float = CLASS_DROPOUT,
    ) -> None:
        self.trained = model
        self._model, self._teacher = model, teacher
        self._forcing = Forcing(model, vqvae, batches, span, class_dropout)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Losses of the batch of a step, float32 scalars, means over its tokens of the scales in ``span``.

        Returns:
            ``loss``, what is descended: ``entropy``, and the teacher's weight times ``divergence``. ``entropy``, the
            cross-entropy in nats. ``correct``, the share of tokens that are the likeliest. With a teacher,
            ``divergence``, KL(teacher ‖ student) in nats.

        Raises:
            DataError: a picture that cannot be read.
        """
        batch = self._forcing(step)
        labels = torch.where(batch.dropped, self._model.shape.classes, batch.labels)
        expected = batch.tokens.flatten()
        logits = self._forcing.logits(self._model, batch.features, labels).flatten(0, 1)
        entropy = F.cross_entropy(logits, expected)
        correct = (logits.argmax(1) == expected).float().mean()
        found = {"loss": entropy, "entropy": entropy, "correct": correct}
        if self._teacher:
            asked = self._teacher.labels(labels)
            with torch.no_grad():
                taught = self._forcing.logits(self._teacher.model, batch.features, asked).flatten(0, 1)
            divergence = F.kl_div(logits.log_softmax(1), taught.log_softmax(1), log_target=True, reduction="batchmean")
            found |= {"loss": entropy + self._teacher.weight * divergence, "divergence": divergence}
        return found


def drafter_objective(
    model: Transformer, vqvae: Vqvae, batches: Batches, n_draft: int, class_dropout: float = CLASS_DROPOUT
) -> VarObjective:
    """CoDe's tuning of the drafter: the data's tokens of the scales 0 to ``n_draft`` − 1, which it will draw."""
    return VarObjective(model, vqvae, batches, (0, n_draft), class_dropout=class_dropout)


def refiner_objective(
    model: Transformer,
    vqvae: Vqvae,
    batches: Batches,
    n_draft: int,
    teacher: Teacher,
    class_dropout: float = CLASS_DROPOUT,
) -> VarObjective:
    """CoDe's tuning of the refiner: tokens and the large model's distribution on the scales from ``n_draft`` on.

    ``n_draft`` 0 is the first of its two stages, distillation over all scales.
    """
    return VarObjective(model, vqvae, batches, (n_draft, model.shape.schedule.scales), teacher, class_dropout)
