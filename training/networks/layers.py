"""The few blocks that all networks share: feature maps in, feature maps out, [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BORDER: Final = "replicate"
"""Padding of the transforms and the denoiser, which are outside exact arithmetic.  Zeros would be a colour,
mid grey: flat saturated fields came back with a rim of up to 70 levels."""


def pad_with_zeros(network: nn.Module) -> None:
    """Zeros beyond the border in every convolution, as the transforms of version 0.1 had; in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "zeros"


def padding_of(network: nn.Module) -> str:
    """What the convolutions take for what lies beyond the border: all the same, else ValueError."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    modes = sorted({str(m.padding_mode) for m in convolutions})
    if len(modes) != 1:
        raise ValueError(f"a network pads in several ways: {', '.join(modes)}")
    return modes[0]


def full_precision(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`layer(x)` in float32 or wider, whatever autocast says: 8 bits of mantissa do not hold y or mu."""
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        return layer(x)


class DepthBlock(nn.Module):
    """Depthwise 3x3 mixing, then a pointwise expansion; both residual.

        x -> 1x1 -> leaky ReLU -> depthwise 3x3 -> 1x1 -> + -> 1x1 (expand) -> GELU -> 1x1 -> + ->

    Cost: C^2 (2 + 2 expand) + 9 C multiply-accumulates a position.  The last layer of each branch
    starts at zero, so that a new block is the identity.
    """

    def __init__(self, channels: int, expand: int = 2) -> None:
        super().__init__()
        self.mix_in = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, padding_mode=BORDER)
        self.mix_out = nn.Conv2d(channels, channels, 1)
        self.expand = nn.Conv2d(channels, channels * expand, 1)
        self.reduce = nn.Conv2d(channels * expand, channels, 1)
        for last in (self.mix_out, self.reduce):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.mix_out(self.mix(F.leaky_relu(self.mix_in(x), 0.1)))
        return x + self.reduce(F.gelu(self.expand(x)))


class QualityEmbedding(nn.Module):
    """A learnt vector that varies with the quality q: linear interpolation between `knots` rows.

    The knots lie evenly on q in [0, 1].  Used for the gains, the prior of z and for conditioning.
    """

    def __init__(self, channels: int, knots: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(knots, channels))

    def forward(self, q: Float[Tensor, " b"]) -> Float[Tensor, "b c 1 1"]:
        knots = torch.arange(self.embedding.shape[0], device=q.device)
        distance = (q.clamp(0, 1)[:, None] * (len(knots) - 1) - knots).abs()
        share = (1 - distance).clamp(min=0)  # of the knots on both sides of q; of one, where q is on it
        return (share[:, :, None] * self.embedding).sum(1)[:, :, None, None]


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position (Ba et al. 2016), as the CDC U-Net uses it."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias


class ResnetBlock(nn.Module):
    """[conv 3x3 -> ChannelNorm -> ReLU] twice with a 1x1 shortcut; the block of Yang & Mandt's CDC.

    `time` is the width of a time embedding that is added, after a linear layer, between the two halves;
    0 for none.  `first` is the size of the first kernel (7 at the image, 3 elsewhere).
    """

    def __init__(self, c_in: int, c_out: int, time: int = 0, first: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, first, padding=first // 2)
        self.norm1 = ChannelNorm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm2 = ChannelNorm(c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.time = nn.Linear(time, c_out) if time else None

    def forward(
        self, x: Float[Tensor, "b c_in h w"], t: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b c_out h w"]:
        h = F.relu(self.norm1(self.conv1(x)))
        if self.time is not None:
            if t is None:
                raise ValueError("this block needs a time embedding, got None")
            h = h + self.time(F.leaky_relu(t, 0.2))[:, :, None, None]
        return F.relu(self.norm2(self.conv2(h))) + self.shortcut(x)
