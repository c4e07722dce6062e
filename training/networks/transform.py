"""Image <-> latent y at 1/16, and y <-> hyper-latent z at 1/64: g_a, g_s (the main decoder), h_a, h_s.

Two families with one contract.  The light one never convolves at full resolution: space to depth
first, then `DepthBlock`s.  The paper's is CDC's (Yang & Mandt 2023), which the paper's figure shows.
`halo` says how many pixels away from a place its input still matters to its output.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.autoregressive import hyper_synthesis
from sfumato.transforms import BaseReconstruction
from training.networks.layers import BORDER, DepthBlock, QualityEmbedding, ResnetBlock, full_precision


def _blocks(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(DepthBlock(channels) for _ in range(depth)))


class LightAnalysis(nn.Module):
    """g_a: x -> [space to depth 8, blocks at 1/8] -> conv s2 -> [blocks at 1/16] -> y."""

    def __init__(self, latent: int, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        c16, c8, _ = widths
        n16, n8, _ = depths
        self.stem = nn.Conv2d(3 * 64, c8, 1)
        self.at_8 = _blocks(c8, n8)
        self.down = nn.Conv2d(c8, c16, 3, stride=2, padding=1, padding_mode=BORDER)
        self.at_16 = _blocks(c16, n16)
        self.head = nn.Conv2d(c16, latent, 1)
        self.halo = 8 * (n8 + 1) + 16 * n16

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m h/16 w/16"]:
        f = self.at_8(self.stem(F.pixel_unshuffle(x, 8)))
        return full_precision(self.head, self.at_16(self.down(f)))


class LightSynthesis(nn.Module):
    """g_s: y_hat -> [1/16] -> [1/8] -> [1/4] -> x_base; the last stage is 3x3, so that patches overlap."""

    def __init__(self, latent: int, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        c16, c8, c4 = widths
        n16, n8, n4 = depths
        self.stem = nn.Conv2d(latent, c16, 1)
        self.quality = QualityEmbedding(c16)
        self.at_16 = _blocks(c16, n16)
        self.up_8 = nn.Conv2d(c16, c8 * 4, 1)
        self.at_8 = _blocks(c8, n8)
        self.up_4 = nn.Conv2d(c8, c4 * 4, 1)
        self.at_4 = _blocks(c4, n4)
        self.head = nn.Conv2d(c4, 3 * 16, 3, padding=1, padding_mode=BORDER)
        self.feature_widths = (c8, c4)
        self.halo = 16 * n16 + 8 * n8 + 4 * (n4 + 1)

    def forward(self, y_hat: Float[Tensor, "b m h w"], q: Float[Tensor, " #b"]) -> BaseReconstruction:
        f = self.at_16(self.stem(y_hat) + self.quality(q))
        f8 = self.at_8(F.pixel_shuffle(self.up_8(f), 2))
        f4 = self.at_4(F.pixel_shuffle(self.up_4(f8), 2))
        return BaseReconstruction(F.pixel_shuffle(full_precision(self.head, f4), 4), (f8, f4))


class PaperAnalysis(nn.Module):
    """g_a of CDC: four times [ResnetBlock -> conv 3x3 s2], the first kernel 7x7."""

    def __init__(self, latent: int, widths: tuple[int, ...] = (64, 128, 192)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        c_in = 3
        for c_out in (*widths, latent):
            stages.append(ResnetBlock(c_in, c_out, first=7 if c_in == 3 else 3))
            stages.append(nn.Conv2d(c_out, c_out, 3, stride=2, padding=1))
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        # the kernels at each scale, first 7x7, then 3x3: two of the block and one that shrinks
        self.halo = 5 + sum(3 * 2**level for level in range(1, len(stages) // 2))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m h/16 w/16"]:
        return full_precision(self.stages[-1], self.stages[:-1](x))


class PaperSynthesis(nn.Module):
    """Main decoder of the paper's figure: four times [ResnetBlock -> transposed conv 4x4 s2].

    Its outputs at 1/8, 1/4, 1/2 and 1 go into the U-Net; the last has three channels and, being
    supervised, is x_base as well.
    """

    def __init__(self, latent: int, widths: tuple[int, ...] = (192, 128, 64, 3)) -> None:
        super().__init__()
        self.quality = QualityEmbedding(latent)
        self.blocks = nn.ModuleList()
        self.ups = nn.ModuleList()
        c_in = latent
        for c_out in widths:
            self.blocks.append(ResnetBlock(c_in, c_out))
            self.ups.append(nn.ConvTranspose2d(c_out, c_out, 4, stride=2, padding=1))
            c_in = c_out
        self.feature_widths = widths
        self.halo = sum(3 * 2**level for level in range(1, len(widths) + 1))

    def forward(self, y_hat: Float[Tensor, "b m h w"], q: Float[Tensor, " #b"]) -> BaseReconstruction:
        f = y_hat + self.quality(q)
        features = []
        for block, up in zip(self.blocks[:-1], self.ups[:-1], strict=True):
            f = up(block(f))
            features.append(f)
        x_base = full_precision(self.ups[-1], self.blocks[-1](f))
        return BaseReconstruction(x_base, (*features, x_base))


class HyperAnalysis(nn.Module):
    """h_a: y (times its gain) -> z at a quarter of the resolution (Balle et al. 2018)."""

    def __init__(self, latent: int, width: int, z_channels: int, kernel: int) -> None:
        super().__init__()
        half = kernel // 2
        self.stem = nn.Conv2d(latent, width, 3, padding=1, padding_mode=BORDER)
        self.down1 = nn.Conv2d(width, width, kernel, stride=2, padding=half, padding_mode=BORDER)
        self.down2 = nn.Conv2d(width, z_channels, kernel, stride=2, padding=half, padding_mode=BORDER)

    def forward(self, y: Float[Tensor, "b m h w"]) -> Float[Tensor, "b n h/4 w/4"]:
        f = F.leaky_relu(self.stem(y), 0.1)
        f = F.leaky_relu(self.down1(f), 0.1)
        return full_precision(self.down2, f)


class HyperSynthesis(nn.Module):
    """h_s: z_hat -> psi_h, the hyper context of every chunk, at the resolution of y.

    Upsampling by convolution and depth to space: matrix products only, as exact arithmetic needs.
    """

    def __init__(self, z_channels: int, width: int, psi: int, kernel: int) -> None:
        super().__init__()
        half = kernel // 2
        self.up1 = nn.Conv2d(z_channels, width * 4, kernel - 2, padding=half - 1)
        self.quality = QualityEmbedding(width)
        self.up2 = nn.Conv2d(width, width * 4, kernel, padding=half)
        self.head = nn.Conv2d(width, psi, 3, padding=1)

    def forward(
        self, z_hat: Float[Tensor, "b n h w"], q: Float[Tensor, " b"]
    ) -> Float[Tensor, "b psi 4*h 4*w"]:
        return hyper_synthesis(self, z_hat, q)
