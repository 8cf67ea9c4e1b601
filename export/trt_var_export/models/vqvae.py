"""The multi-scale VQVAE: encoder, decoder, codebook and the φ convolutions.

Parameter names and shapes are those of the released state dict. Source: the VAR paper, section 3.2, and the
convolutional autoencoder of latent diffusion that it builds on. Shape letters: transformer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


@dataclass(frozen=True)
class VqvaeShape:
    """Everything that the shapes in a VQVAE state dict say about the model."""

    channels: int
    multipliers: tuple[int, ...]
    encoder_blocks: int
    decoder_blocks: int
    code_width: int
    vocabulary: int
    phis: int

    @property
    def downsampling(self) -> int:
        """Image side over the side of f_hat."""
        return 1 << (len(self.multipliers) - 1)

    @property
    def levels(self) -> tuple[int, ...]:
        """Channels of every resolution, finest first."""
        return tuple(self.channels * m for m in self.multipliers)


class Norm(nn.GroupNorm):
    """Group normalisation in float32 whatever the convolutions' precision.

    Written with sizes that the trace knows: traced as one operator it reads the shape of its input, and ONNX Runtime then
    leaves half of the int8 convolutions in float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        groups = x.float().reshape(-1, GROUPS, channels // GROUPS * height * width)
        normed = F.layer_norm(groups, groups.shape[-1:], eps=self.eps).reshape(-1, channels, height, width)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class Conv(nn.Conv2d):
    """A convolution that takes its input in the precision of its weight and returns float32."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).float()


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), Conv(inputs, outputs)
        self.norm2, self.conv2 = Norm(outputs), Conv(outputs, outputs)
        self.nin_shortcut = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Single-head attention over the positions of a feature map, scale C^−½."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj_out = Norm(channels), Conv(channels, 3 * channels, 1), Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 3, channels, height * width).unbind(1)
        weights = (q.transpose(1, 2) @ k * channels**-0.5).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).reshape(-1, channels, height, width))


class Resample(nn.Module):
    """Nearest 2× and a convolution, or padding right and bottom and a convolution of stride 2."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = Conv(channels, channels, stride=1 if up else 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The blocks of one resolution, attention after each at the lowest, and the step ``up`` or down to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, up: bool | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks))
        self.attn = nn.ModuleList(AttentionBlock(outputs) for _ in range(blocks if attention else 0))
        if up is not None:
            self.add_module("upsample" if up else "downsample", Resample(outputs, up))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for child in self.children():
            if isinstance(child, Resample):
                x = child(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResidualBlock(channels, channels), AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, shape: VqvaeShape) -> None:
        super().__init__()
        levels = shape.levels
        self.conv_in = Conv(3, shape.channels)
        self.down = nn.ModuleList()
        for i, outputs in enumerate(levels):
            last = i == len(levels) - 1
            inputs = shape.channels if i == 0 else levels[i - 1]
            self.down.append(Level(inputs, outputs, shape.encoder_blocks, attention=last, up=None if last else False))
        self.mid = Middle(levels[-1])
        self.norm_out, self.conv_out = Norm(levels[-1]), Conv(levels[-1], shape.code_width)

    def forward(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [−1, 1] → features [B, Z, P, P]."""
        x = self.conv_in(image)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, shape: VqvaeShape) -> None:
        super().__init__()
        levels = shape.levels
        self.conv_in, self.mid = Conv(shape.code_width, levels[-1]), Middle(levels[-1])
        self.up = nn.ModuleList()
        for i, outputs in enumerate(levels):
            last = i == len(levels) - 1
            inputs = levels[i] if last else levels[i + 1]
            self.up.append(Level(inputs, outputs, shape.decoder_blocks, attention=last, up=True if i else None))
        self.norm_out, self.conv_out = Norm(levels[0]), Conv(levels[0], 3)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, Z, P, P] → image [B, 3, H, W], about [−1, 1]."""
        x = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Residuals(nn.Module):
    """Holds ``qresi_ls``, the φ convolutions."""

    def __init__(self, shape: VqvaeShape) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Conv(shape.code_width, shape.code_width) for _ in range(shape.phis))


class Quantizer(nn.Module):
    """Codebook and φ; the sums over scales are in graphs.py."""

    def __init__(self, shape: VqvaeShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.code_width)
        self.quant_resi = Residuals(shape)

    def phi(self, h: Tensor, scale: int, scales: int) -> Tensor:
        """φ_k(h) = ½h + ½conv(h), with the convolution whose tick is nearest to k/(K−1)."""
        phis = self.quant_resi.qresi_ls
        return 0.5 * h + 0.5 * phis[nearest_tick(scale, scales, len(phis))](h)


def nearest_tick(scale: int, scales: int, phis: int) -> int:
    """Which of the shared φ serves a scale. The released four lie at linspace(1/12, 11/12); others at bin centres."""
    edge = 1 / 3 / phis if phis == 4 else 1 / 2 / phis
    return int(np.argmin(np.abs(np.linspace(edge, 1 - edge, phis) - scale / max(scales - 1, 1))))


class Vqvae(nn.Module):
    def __init__(self, shape: VqvaeShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder, self.decoder, self.quantize = Encoder(shape), Decoder(shape), Quantizer(shape)
        self.quant_conv = Conv(shape.code_width, shape.code_width)
        self.post_quant_conv = Conv(shape.code_width, shape.code_width)

    def to_half(self) -> Vqvae:
        """Convolutions of the decoder in float16; norms, residuals, encoder, codebook and φ stay in float32."""
        for module in self.decoder.modules():
            if isinstance(module, Conv):
                module.half()
        return self

    def decode(self, f_hat: Tensor) -> Tensor:
        """f_hat [B, Z, P, P] → image [B, 3, H, W] in [0, 1]."""
        return self.decoder(self.post_quant_conv(f_hat)).clamp(-1, 1) * 0.5 + 0.5
