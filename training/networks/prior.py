"""Entropy model p(y_hat, z_hat | q) as torch modules: hyper-latent and latent in, their estimated cost out.

The modules hold layers; what is computed with them is `autoregressive`, the same for training and coding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato import scales
from sfumato.autoregressive import INDEX_STEP, TAPS, autoregressive_pass
from training.networks import quantise
from training.networks.attention import GlobalContext
from training.networks.layers import QualityEmbedding, full_precision
from training.networks.positions import ENCODINGS, Position, PositionBias
from training.networks.transform import HyperSynthesis


class RateEstimate(NamedTuple):
    """Quantised latents with straight-through gradients, and the bits they are estimated to take."""

    y_hat: Float[Tensor, "b m h w"]
    z_hat: Float[Tensor, "b n h/4 w/4"]
    bits: Float[Tensor, "b sections"]  # z, chunk 1, chunk 2 ..


class LocalContext(nn.Module):
    """The layer of `autoregressive.local_context`, on the taps that meet anchors."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(len(TAPS) * channels, features, 1)


class FullPrecisionConv(nn.Conv2d):
    """A convolution that stays in float32 under autocast: eight bits of mantissa do not hold mu."""

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(super().forward, x)


class Chunk(nn.Module):
    """Contexts and parameter net of one chunk: g_ch, g_ls, g_gs, g_ep."""

    def __init__(
        self,
        channels: int,
        before: int,
        psi: int,
        channel_width: int,
        width: int,
        pairs: int,
        mlp_ratio: int,
        window: int,
        position: Position,
        bias: PositionBias | None,
    ) -> None:
        super().__init__()
        features = 2 * channels
        self.channel = (
            nn.Sequential(
                nn.Conv2d(before, channel_width, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(channel_width, features, 1),
            )
            if before
            else None
        )
        self.local = LocalContext(channels, features)
        self.global_context = GlobalContext(features, pairs, mlp_ratio, window, position, bias)
        # g_ep on [phi_ls, phi_gs, phi_ch, psi_h]; its first layer is split, as anchors lack the former two
        self.in_projection = nn.Conv2d(psi + (features if before else 0), width, 1)
        self.in_projection_spatial = nn.Conv2d(2 * features, width, 1, bias=False)
        self.hidden_projection = nn.Conv2d(width, width, 1)
        self.out_projection = FullPrecisionConv(width, 2 * channels, 1)
        with torch.no_grad():
            self.out_projection.weight *= 0.1
            # a sigma near 1 to start from, where every symbol still has a gradient
            nn.init.constant_(self.out_projection.bias[channels:], scale_to_index(1.0) / INDEX_STEP)  # type: ignore[index]


class Prior(nn.Module):
    """The whole entropy model; `chunks` are the channels of each chunk, in coding order.

    With one of the `passes` for each chunk there are no anchors, and the spatial contexts are not used.
    """

    def __init__(
        self,
        chunks: tuple[int, ...],
        z_channels: int,
        hyper_width: int,
        hyper_kernel: int,
        psi: int,
        channel_width: int,
        width: int,
        pairs: int,
        mlp_ratio: int,
        window: int = 8,
        position: Position = "laplacian",
        passes: int = 2,
    ) -> None:
        super().__init__()
        if passes not in (1, 2):
            raise ValueError(f"passes is {passes}; a chunk is coded in 1 or 2")
        self.sizes, self.passes = chunks, passes
        self.h_s = HyperSynthesis(z_channels, hyper_width, psi, hyper_kernel)
        # factorised prior of z: a Gaussian per channel whose parameters follow q
        self.z_mu = QualityEmbedding(z_channels)
        self.z_level = QualityEmbedding(z_channels)
        with torch.no_grad():
            self.z_level.embedding.add_(scale_to_index(2.0) / INDEX_STEP)
        self.chunks = nn.ModuleList()
        shared: PositionBias | None = None
        for j, c in enumerate(chunks):
            before = sum(chunks[:j])
            chunk = Chunk(c, before, psi, channel_width, width, pairs, mlp_ratio, window, position, shared)
            if ENCODINGS[position].is_shared:
                shared = chunk.global_context.bias
            self.chunks.append(chunk)

    def biases(self) -> list[PositionBias]:
        """The position bias of each chunk, in coding order; where they share one, the same for all."""
        return [chunk.global_context.bias for chunk in self.chunks]  # type: ignore[union-attr, misc]

    def forward(
        self, y: Float[Tensor, "b m h w"], z: Float[Tensor, "b n h/4 w/4"], q: Float[Tensor, " b"]
    ) -> RateEstimate:
        """Training: straight-through values, and the rate of noisy ones (Minnen & Singh 2020)."""
        bits = [y.new_zeros(y.shape[0], dtype=torch.float32) for _ in range(len(self.sizes) + 1)]

        def code(section: int, is_last: bool, mu: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
            assert value is not None
            noisy = quantise.gaussian_bits(quantise.noise(value - mu), index_to_scale(index))
            bits[section] = bits[section] + noisy.flatten(1).sum(1)
            centre = mu.detach()  # the decoder's path moves y, not the mean that it is coded with
            return quantise.straight_through(value - centre) + centre

        y_hat, z_hat = autoregressive_pass(self, code, q, (z.shape[2], z.shape[3]), z, y, passes=self.passes)
        return RateEstimate(y_hat, z_hat, torch.stack(bits, 1))


def scale_to_index(sigma: float) -> float:
    """The real scale index of a standard deviation; inverse of `index_to_scale` within the tables' range."""
    return math.log(sigma / scales.SIGMA_MIN) / scales.LOG_STEP


def index_to_scale(index: Tensor) -> Tensor:
    """Standard deviation at a real scale index, bounded to the tables' range."""
    bounded = quantise.bounded(index, 0.0, scales.NUM_SCALES - 1.0)
    return scales.SIGMA_MIN * torch.exp(bounded * scales.LOG_STEP)
