"""The layers of the global context g_gs as torch modules: window attention with the Laplacian position bias.

Khoshkhahtinat et al. 2024, in Swin pairs (Liu et al. 2021).  What is computed with them: `autoregressive`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfumato.exact import OUTSIDE, window_distances


class LaplacianBias(nn.Module):
    """A^2 exp(-(|dx| + |dy|) / (2 sigma^2)), added to the logits; A and sigma are learnt for each chunk.

    Khoshkhahtinat et al. 2024, Laplacian-shaped positional encoding; A^2 keeps the bias non-negative.
    """

    distance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.ones(()))
        self.sigma = nn.Parameter(torch.full((), 1.5))
        distance = torch.tensor(window_distances(), dtype=torch.float64)
        self.register_buffer("distance", distance, persistent=False)

    def forward(self) -> Float[Tensor, "n n"]:
        reach = 2 * self.sigma.square() + 1e-6
        return self.amplitude.square() * torch.exp(-self.distance.to(reach.dtype) / reach)


class DotProduct(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over the visible keys of each window; no parameters."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n d"],
        bias: Float[Tensor, "n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n d"]:
        logits = q @ k.mT * (1 / math.sqrt(q.shape[-1])) + bias
        logits = logits.masked_fill(~visible[:, None, None, :], OUTSIDE)
        return logits.softmax(-1).to(v.dtype) @ v


class SwinBlock(nn.Module):
    """The layers of `autoregressive.swin_block`."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.dot_product = DotProduct(heads)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp_in = nn.Linear(channels, mlp_ratio * channels)
        self.mlp_out = nn.Linear(mlp_ratio * channels, channels)


class GlobalContext(nn.Module):
    """The layers of `autoregressive.global_context`: `pairs` of plain and shifted window attention."""

    def __init__(self, channels: int, pairs: int, mlp_ratio: int) -> None:
        super().__init__()
        heads = max(1, channels // 32)
        self.bias = LaplacianBias()
        self.blocks = nn.ModuleList(SwinBlock(channels, heads, mlp_ratio) for _ in range(2 * pairs))
