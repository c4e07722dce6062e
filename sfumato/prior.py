"""Entropy model p(y_hat, z_hat | q): hyper-latent and latent in, quantised latents and their cost out.

                 z_hat -> h_s -> psi_h --------------+--------------------+
    y_hat of chunks < j -> g_ch_j -> phi_ch ---------+--------------------+
                                                   g_ep_j               g_ep_j -> (mu, s) of non-anchors
                                                     |                    |
                                          (mu, s) of anchors              +-- phi_ls = g_ls_j(anchors)
                                                                          +-- phi_gs = g_gs_j(phi_ls)

Five uneven channel chunks, each in two checkerboard passes: anchors are the cells whose row + column is
even (Khoshkhahtinat et al. 2024, entropy model figure; chunks after He et al. 2022, ELIC; checkerboard
after He et al. 2021).  For anchors the local and global context are zeros, and are not computed.

There is one walk, `Prior.walk`.  Training, rate meter, encoder and decoder differ only in the function
`code` that it calls at each step.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sfumato import quantise, scales
from sfumato.attention import GlobalContext, LaplacianBias
from sfumato.layers import Curve, full_precision
from sfumato.transform import HyperSynthesis

ANCHOR, NON_ANCHOR = 0, 1  # parity of row + column
LEVEL_UNIT = 8.0  # scale levels per unit of a net's output: a little under one e-fold of sigma


class Code(Protocol):
    """One step of the walk.  `section` is 0 for z and j for chunk j; `ends` tells the last step of a section.

    `mu` is the mean and `level` the real scale level of some symbols, `value` what they are (None when that
    is to be found out); the result, of the same shape, is what they are after quantisation.
    """

    def __call__(
        self, section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None
    ) -> Tensor: ...


class Estimate(NamedTuple):
    """Quantised latents with straight-through gradients, and the bits they are estimated to take."""

    y_hat: Float[Tensor, "b m h w"]
    z_hat: Float[Tensor, "b n h/4 w/4"]
    bits: Float[Tensor, "b 6"]  # z, chunk 1 .. chunk 5


def pack(x: Float[Tensor, "b c h w"], parity: int) -> Float[Tensor, "b c h w/2"]:
    """The cells whose row + column has this parity, row by row; h and w even."""
    even, odd = x[:, :, 0::2, parity::2], x[:, :, 1::2, 1 - parity :: 2]
    return rearrange([even, odd], "two b c h w -> b c (h two) w")


def unpack(
    anchors: Float[Tensor, "b c h w"], non_anchors: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h 2*w"]:
    """The map whose anchors and non-anchors are these; inverse of `pack`."""
    a_even, a_odd = anchors[:, :, 0::2], anchors[:, :, 1::2]
    n_even, n_odd = non_anchors[:, :, 0::2], non_anchors[:, :, 1::2]
    even = rearrange([a_even, n_even], "two b c h w -> b c h (w two)")
    odd = rearrange([n_odd, a_odd], "two b c h w -> b c h (w two)")
    return rearrange([even, odd], "two b c h w -> b c (h two) w")


class LocalContext(nn.Module):
    """g_ls: checkerboard-masked 5x5 convolution, anchors in, features at the non-anchors out.

    Of the 25 taps the 12 with odd offset meet anchors; the others are not computed.
    """

    RADIUS = 2

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        span = range(2 * self.RADIUS + 1)
        self.taps = [(dy, dx) for dy in span for dx in span if (dy + dx) % 2]
        self.weight = nn.Conv2d(len(self.taps) * channels, features, 1)

    def forward(self, anchors: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h w"]:
        full = F.pad(unpack(anchors, torch.zeros_like(anchors)), [self.RADIUS] * 4)
        height, width = anchors.shape[2], anchors.shape[3] * 2
        seen = [pack(full[:, :, dy : dy + height, dx : dx + width], NON_ANCHOR) for dy, dx in self.taps]
        return self.weight(torch.cat(seen, 1))


class Chunk(nn.Module):
    """Contexts and parameter net of one chunk: g_ch, g_ls, g_gs, g_ep."""

    def __init__(
        self, channels: int, before: int, psi: int, channel_width: int, width: int, pairs: int, mlp_ratio: int
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
        self.globe = GlobalContext(features, pairs, mlp_ratio)
        # g_ep on [phi_ls, phi_gs, phi_ch, psi_h]; its first layer is split, as anchors lack the former two
        self.enter = nn.Conv2d(psi + (features if before else 0), width, 1)
        self.enter_spatial = nn.Conv2d(2 * features, width, 1, bias=False)
        self.middle = nn.Conv2d(width, width, 1)
        self.leave = nn.Conv2d(width, 2 * channels, 1)
        with torch.no_grad():
            self.leave.weight *= 0.1
            # a sigma near 1 to start from, where every symbol still has a gradient
            nn.init.constant_(self.leave.bias[channels:], level_of(1.0) / LEVEL_UNIT)  # type: ignore[index]

    def shared(self, psi_h: Tensor, known: list[Tensor]) -> Tensor:
        """[phi_ch, psi_h], which both passes use."""
        if self.channel is None:
            return psi_h
        return torch.cat([self.channel(torch.cat(known, 1)), psi_h], 1)

    def spatial(self, anchors: Tensor) -> Tensor:
        """[phi_ls, phi_gs] at the non-anchors; the local features are the input of the global branch."""
        phi_ls = self.local(anchors)
        return torch.cat([phi_ls, self.globe(phi_ls)], 1)

    def parameters_of(self, shared: Tensor, spatial: Tensor | None) -> tuple[Tensor, Tensor]:
        """g_ep: mean and scale level (real, in units of `scales.LOG_STEP`) of the symbols of one pass."""
        h = self.enter(shared)
        if spatial is not None:
            h = h + self.enter_spatial(spatial)
        h = F.leaky_relu(self.middle(F.leaky_relu(h, 0.1)), 0.1)
        mu, level = full_precision(self.leave, h).chunk(2, 1)
        return mu, level * LEVEL_UNIT


class Prior(nn.Module):
    """The whole entropy model; `chunks` are the channels of each chunk, in coding order."""

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
    ) -> None:
        super().__init__()
        self.sizes = chunks
        self.h_s = HyperSynthesis(z_channels, hyper_width, psi, hyper_kernel)
        # factorised prior of z: a Gaussian per channel whose parameters follow q
        self.z_mu = Curve(z_channels)
        self.z_level = Curve(z_channels)
        with torch.no_grad():
            self.z_level.rows.add_(level_of(2.0) / LEVEL_UNIT)
        self.chunks = nn.ModuleList(
            Chunk(c, sum(chunks[:j]), psi, channel_width, width, pairs, mlp_ratio)
            for j, c in enumerate(chunks)
        )

    def biases(self) -> list[LaplacianBias]:
        """The position bias of each chunk, in coding order."""
        return [module for module in self.modules() if isinstance(module, LaplacianBias)]

    def walk(
        self,
        code: Code,
        q: Float[Tensor, " b"],
        z_shape: tuple[int, int],
        z: Tensor | None = None,
        y: Tensor | None = None,
        chunks: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Visit z, then every chunk's anchors and non-anchors; (y_hat, z_hat) in the domain of the gains.

        `z_shape` is the height and width of z; y is four times as large each way.  Without z and y, `code`
        has to know the values: that is decoding.  Of a preview only the first `chunks` are visited; the
        means of the others follow from hyper and channel context alone, which costs less than half.
        """
        parameter = self.z_mu.rows
        size = (q.shape[0], parameter.shape[1], *z_shape)
        mu = self.z_mu(q).expand(size)
        z_hat = code(0, True, mu, self.z_level(q).expand(size) * LEVEL_UNIT, z)
        psi_h = self.h_s(z_hat.to(parameter.dtype), q)
        known: list[Tensor] = []
        values = y.split(self.sizes, 1) if y is not None else [None] * len(self.sizes)
        for section, (chunk, value) in enumerate(zip(self.chunks, values, strict=True), start=1):
            assert isinstance(chunk, Chunk)
            shared = chunk.shared(psi_h, known)
            if chunks is not None and section > chunks:
                known.append(chunk.parameters_of(shared, None)[0])
                continue
            spatial = None
            passes = []
            for parity in (ANCHOR, NON_ANCHOR):
                mu, level = chunk.parameters_of(pack(shared, parity), spatial)
                packed = None if value is None else pack(value, parity)
                passes.append(code(section, parity == NON_ANCHOR, mu, level, packed))
                if parity == ANCHOR:
                    spatial = chunk.spatial(passes[ANCHOR])
            known.append(unpack(*passes))
        return torch.cat(known, 1), z_hat

    def forward(self, y: Float[Tensor, "b m h w"], z: Float[Tensor, "b n h w"], q: Tensor) -> Estimate:
        """Training: straight-through values, and the rate of noisy ones (Minnen & Singh 2020)."""
        bits = [y.new_zeros(y.shape[0], dtype=torch.float32) for _ in range(len(self.sizes) + 1)]

        def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
            assert value is not None
            noisy = quantise.gaussian_bits(quantise.noise(value - mu), sigma_of(level))
            bits[section] = bits[section] + noisy.flatten(1).sum(1)
            centre = mu.detach()  # the decoder's path moves y, not the mean that it is coded with
            return quantise.straight_through(value - centre) + centre

        y_hat, z_hat = self.walk(code, q, (z.shape[2], z.shape[3]), z, y)
        return Estimate(y_hat, z_hat, torch.stack(bits, 1))


def level_of(sigma: float) -> float:
    """The real scale level of a standard deviation; inverse of `sigma_of` within the tables' range."""
    return math.log(sigma / scales.SIGMA_MIN) / scales.LOG_STEP


def sigma_of(level: Tensor) -> Tensor:
    """Standard deviation at a real scale level, bounded to the tables' range."""
    bounded = quantise.bounded(level, 0.0, scales.LEVELS - 1.0)
    return scales.SIGMA_MIN * torch.exp(bounded * scales.LOG_STEP)
