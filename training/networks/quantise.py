"""Real numbers in, integers out: rounding, its two stand-ins for training, the grid, and the gains."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.networks.layers import QualityEmbedding

GRID = 2.0**-8  # means live on this dyadic grid, so that y_hat = symbol + mu is exact in any float


def straight_through(x: Tensor) -> Tensor:
    """The nearest integer in the value, the identity in the gradient (Theis et al. 2017)."""
    return x + (torch.round(x) - x).detach()


def noise(x: Tensor) -> Tensor:
    """x + U(-1/2, 1/2): what rounding is to the rate while training (Balle et al. 2017, section 3)."""
    return x + torch.rand_like(x) - 0.5


def quantize_mean(x: Tensor) -> Tensor:
    """The nearest multiple of `GRID`, so that differences far below it cannot reach the next step."""
    return torch.round(x / GRID) * GRID


class Gain(nn.Module):
    """The step of the quantiser for each channel of y, at every quality (gain units, Cui et al. 2021).

    y is multiplied by gain(q) before it is rounded and divided by it after.  log gain(q) is linear in
    q at first, by `span` from q = 0 to q = 1, and learnt from there, channel by channel.
    """

    def __init__(self, channels: int, span: float) -> None:
        super().__init__()
        self.log_gain = QualityEmbedding(channels)
        knots = self.log_gain.embedding.shape[0]
        with torch.no_grad():
            self.log_gain.embedding.add_(torch.linspace(0, span, knots)[:, None])

    def forward(self, q: Float[Tensor, " b"]) -> Float[Tensor, "b c 1 1"]:
        return self.log_gain(q).exp()


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        inwards = ((x > ctx.low) | (grad < 0)) & ((x < ctx.high) | (grad > 0))
        return grad * inwards, None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp whose gradient still passes where it leads back inside the bounds (Balle 2018, lower bound)."""
    return _Bounded.apply(x, low, high)


def gaussian_bits(v: Tensor, sigma: Tensor) -> Tensor:
    """-log2 of the mass that N(0, sigma^2) gives to [v - 1/2, v + 1/2], elementwise, at least 1e-9."""
    scale = 1 / (sigma * math.sqrt(2))
    distance = v.abs()  # the mass on the side of the tail keeps its precision
    mass = 0.5 * (torch.erfc((distance - 0.5) * scale) - torch.erfc((distance + 0.5) * scale))
    return -bounded(mass, 1e-9, 1.0).log2()
