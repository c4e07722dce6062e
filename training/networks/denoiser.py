"""A noisy image, its time and what the file says in; a clean image (or the noise) out: the networks.

Both networks are called alike, so that a model can hold either:

    forward(z_t [B, 3, H, W], t [B], q [B], x_base [B, 3, H, W], features) -> [B, 3, H, W]

t in [0, 1] is the time of the diffusion, q in [0, 1] the quality, x_base the certain image in [-1, 1], and
features the main decoder's maps, coarse to fine.  `predicts` names what comes back: "x" or "epsilon".
`halo` is how many pixels away from a place the inputs still matter to it; None: all of them do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.networks.layers import ChannelNorm, DepthBlock, QualityEmbedding, ResnetBlock, full_precision


class LightDenoiser(nn.Module):
    """A denoiser without convolutions at full resolution; it predicts x as x_base plus a correction.

        z_t, x_base - space-to-depth 4 - 1x1 - + - blocks ------------------- + - blocks - 3x3 -.
                          features 1/4 - 1x1 - '     |                        |                 |   at 1/4
                                             2x2, stride 2 - + - blocks - .. -'                 |   at 1/8
                                        features 1/8 - 1x1 - '   (and once more, at 1/16)       |
        x_hat = x_base + depth-to-space 4 ------------------------------------------------------'

    Every block is steered by the time and the quality: a scale and a shift of each channel (Perez et al.
    2018, FiLM).  The last layer starts at zero, so an untrained network returns x_base.

    widths: channels at 1/4, 1/8 and 1/16; 0 for the last leaves that scale out.
    depths: blocks in all at 1/4, 1/8 and 1/16: half of them on the way down, the odd one on the way up.
    features: channels of the feature maps at 1/8 and at 1/4.

    Sides are multiples of `multiple`: 16, or 8 where there is no 1/16; else ValueError.
    """

    predicts: ClassVar[Literal["x", "epsilon"]] = "x"

    def __init__(
        self,
        widths: tuple[int, int, int],
        depths: tuple[int, int, int],
        features: Sequence[int],
        condition: int = 64,
    ) -> None:
        super().__init__()
        scales = [(c, n) for c, n in zip(widths, depths, strict=True) if c]
        if len(scales) < 2 or 0 in widths[:2]:
            raise ValueError(f"only the width at 1/16 may be 0, got {widths}")
        channels = [c for c, _ in scales]
        self.multiple = 4 * 2 ** (len(scales) - 1)
        self.halo = 4 + sum(4 * 2**scale * n for scale, (_, n) in enumerate(scales)) + self.multiple
        self.time = nn.Sequential(nn.Linear(2, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.quality = QualityEmbedding(condition)
        self.in_projection = nn.Conv2d(2 * 3 * 16, channels[0], 1)
        self.features = nn.ModuleList(  # fine to coarse, as the way down meets them
            nn.Conv2d(c_in, c_out, 1) for c_in, c_out in zip(reversed(features), channels, strict=False)
        )
        coarsest = len(scales) - 1
        self.down = nn.ModuleList(
            _Stage(c, n if scale == coarsest else n // 2, condition) for scale, (c, n) in enumerate(scales)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.grow = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.up = nn.ModuleList(_Stage(c, n - n // 2, condition) for c, n in scales[:-1])
        self.head = nn.Conv2d(channels[0], 3 * 16, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(
        self,
        z_t: Float[Tensor, "b 3 h w"],
        t: Float[Tensor, " b"],
        q: Float[Tensor, " b"],
        x_base: Float[Tensor, "b 3 h w"],
        features: Sequence[Tensor],
    ) -> Float[Tensor, "b 3 h w"]:
        _check(z_t, self.multiple, features, 2)
        # log t spreads the small times, where sigma_t is nearly proportional to t and the sampler mostly is
        level = torch.stack((2 * t - 1, 1 + torch.log(t + 0.005) / 2.65), -1)  # both in [-1, 1]
        c = F.silu(self.time(level) + self.quality(q).flatten(1))

        h = self.in_projection(F.pixel_unshuffle(torch.cat((z_t, x_base), 1), 4))
        fine_to_coarse = list(reversed(features))
        skips = []
        for scale, stage in enumerate(self.down):
            if scale:
                skips.append(h)
                h = self.shrink[scale - 1](h)
            if scale < len(self.features):
                h = h + self.features[scale](fine_to_coarse[scale])
            h = stage(h, c)
        for scale in reversed(range(len(self.up))):
            h = skips.pop() + F.pixel_shuffle(self.grow[scale](h), 2)
            h = self.up[scale](h, c)
        return x_base + F.pixel_shuffle(self.head(h), 4)


class _Stage(nn.Module):
    """The blocks of one scale, the input of each scaled and shifted by the condition."""

    def __init__(self, channels: int, depth: int, condition: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DepthBlock(channels) for _ in range(depth))
        self.films = nn.ModuleList(nn.Linear(condition, 2 * channels) for _ in range(depth))
        for film in self.films:
            nn.init.zeros_(film.weight)  # type: ignore[arg-type]
            nn.init.zeros_(film.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        for block, film in zip(self.blocks, self.films, strict=True):
            scale, shift = film(condition)[:, :, None, None].chunk(2, 1)
            x = block(x * (1 + scale) + shift)
        return x


class UNet(nn.Module):
    """The paper's network at the image's own resolution; it predicts the noise.

    Khoshkhahtinat et al. 2024; sizes as in Yang & Mandt 2023 (CDC, the epsilon variant):

        z_t - DB - DB - DB - DB - DB - DB - mid - UB - UB - UB - UB - UB - norm - 7x7 -> epsilon_hat
        DB: two ResnetBlocks, linear attention, 3x3 stride 2 (not after the last)
        UB: join the skip, two ResnetBlocks, linear attention, transposed 4x4 stride 2

    dim: channels at full resolution.  mults: channels of each level, in units of dim.
    contexts: channels of the feature maps, coarse to fine; they join the inputs of the first down blocks.

    q and x_base are not used.  Sides are multiples of `multiple`, 2^(levels - 1) = 32; else ValueError.
    """

    predicts: ClassVar[Literal["x", "epsilon"]] = "epsilon"
    halo: ClassVar[int | None] = None

    def __init__(
        self,
        dim: int = 64,
        mults: Sequence[int] = (1, 2, 3, 4, 5, 6),
        contexts: Sequence[int] = (192, 128, 64, 3),
    ) -> None:
        super().__init__()
        if not 0 < len(contexts) < len(mults):
            raise ValueError(f"need fewer contexts than levels, got {len(contexts)} and {len(mults)}")
        widths = [dim * m for m in mults]
        joined = [*reversed(contexts), *[0] * (len(mults) - len(contexts))]
        self.multiple = 2 ** (len(mults) - 1)
        self.contexts = len(contexts)
        self.time = nn.Sequential(nn.Linear(1, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.down = nn.ModuleList(
            _Level(c_in + c_joined, c_out, dim, first=3 if level else 7)
            for level, (c_in, c_joined, c_out) in enumerate(zip([3, *widths], joined, widths, strict=False))
        )
        self.shrink = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for c in widths[:-1])
        self.mid_in = ResnetBlock(widths[-1], widths[-1], dim)
        self.mid_attention = LinearAttention(widths[-1])
        self.mid_out = ResnetBlock(widths[-1], widths[-1], dim)
        # coarse to fine; the skip of the finest level is not used
        pairs = list(zip(widths, widths[1:], strict=False))[::-1]
        self.up = nn.ModuleList(_Level(2 * coarse, fine, dim) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(fine, fine, 4, stride=2, padding=1) for fine, _ in pairs)
        self.head = nn.Sequential(ChannelNorm(dim), nn.Conv2d(dim, 3, 7, padding=3))

    def forward(
        self,
        z_t: Float[Tensor, "b 3 h w"],
        t: Float[Tensor, " b"],
        q: Float[Tensor, " b"],
        x_base: Float[Tensor, "b 3 h w"],
        features: Sequence[Tensor],
    ) -> Float[Tensor, "b 3 h w"]:
        _check(z_t, self.multiple, features, self.contexts)
        e = self.time(t[:, None])
        fine_to_coarse = list(reversed(features))
        h, skips = z_t, []
        for level, block in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            if level < self.contexts:
                h = torch.cat((h, fine_to_coarse[level]), 1)
            h = block(h, e)
            skips.append(h)
        h = self.mid_out(self.mid_attention(self.mid_in(h, e)), e)
        for block, grow in zip(self.up, self.grow, strict=True):
            h = grow(block(torch.cat((h, skips.pop()), 1), e))
        return full_precision(self.head, h)


class _Level(nn.Module):
    """Two ResnetBlocks and linear attention at one resolution of the U-Net."""

    def __init__(self, c_in: int, c_out: int, time: int, first: int = 3) -> None:
        super().__init__()
        self.block1 = ResnetBlock(c_in, c_out, time, first)
        self.block2 = ResnetBlock(c_out, c_out, time)
        self.attention = LinearAttention(c_out)

    def forward(
        self, x: Float[Tensor, "b c_in h w"], e: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c_out h w"]:
        return self.attention(self.block2(self.block1(x, e), e))


class LinearAttention(nn.Module):
    """x + attention(norm(x)) at a cost linear in the positions (Shen et al. 2021), one head of all channels.

        out = q (softmax over positions (k)^T v),    q scaled by C^-1/2, without a softmax of its own

    The softmax runs over the whole image: its statistics change with the size, as in CDC.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).chunk(3, 1)  # [B, C, H W] each
        summary = k.softmax(-1) @ v.transpose(1, 2)  # [B, C, C]: what each key channel gathered
        out = summary.transpose(1, 2) @ (q * q.shape[1] ** -0.5)
        return x + self.to_out(out.unflatten(-1, x.shape[-2:]))


def _check(z_t: Tensor, multiple: int, features: Sequence[Tensor], count: int) -> None:
    if z_t.shape[-1] % multiple or z_t.shape[-2] % multiple:
        raise ValueError(f"sides must be multiples of {multiple}, got {tuple(z_t.shape[-2:])}")
    if len(features) != count:
        raise ValueError(f"expected {count} feature maps, coarse to fine, got {len(features)}")
