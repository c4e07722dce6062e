"""Global context g_gs: local context features at the non-anchors in, features of the same shape out.

Window attention among non-anchors, in Swin pairs (Liu et al. 2021), with the Laplacian position bias of
Khoshkhahtinat et al. 2024.  Only non-anchors are keys (the checkerboard mask of the paper's figure):
they alone hold local context, and that is computed from anchors only, so nothing undecoded is read.

The maps come packed (`prior.pack`): a row holds its non-anchors alone, half as many as columns.  Within
an 8x8 window the 32 non-anchors attend to one another, which equals attention over all 64 cells with
the logits of the 32 anchor keys at minus infinity, at a quarter of the cost.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

WINDOW = 8  # latents a side; 128 pixels
OUTSIDE = -1e4  # logit of keys beyond the border: finite, so that an empty window has no NaN


def window_distances(window: int = WINDOW) -> Float[Tensor, "n n"]:
    """|dx| + |dy| between the non-anchors of a window, in latents, in packed row-major order."""
    row = torch.arange(window).repeat_interleave(window // 2)
    # row + column is odd at a non-anchor: even rows begin with column 1, odd rows with column 0
    column = 2 * torch.arange(window // 2).repeat(window) + (row + 1) % 2
    return ((row[:, None] - row).abs() + (column[:, None] - column).abs()).double()


class LaplacianBias(nn.Module):
    """A^2 exp(-(|dx| + |dy|) / (2 sigma^2)), added to the logits; A and sigma are learnt for each chunk.

    Khoshkhahtinat et al. 2024, Laplacian-shaped positional encoding; A^2 keeps the bias non-negative.
    """

    distance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.ones(()))
        self.sigma = nn.Parameter(torch.full((), 1.5))
        self.register_buffer("distance", window_distances(), persistent=False)

    def forward(self) -> Float[Tensor, "n n"]:
        reach = 2 * self.sigma.square() + 1e-6
        return self.amplitude.square() * torch.exp(-self.distance.to(reach.dtype) / reach)


class DotProduct(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over the visible keys of each window; no parameters."""

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
    """x + attention(norm(x)), then x + MLP(norm(x)), in windows that begin at `offset`."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int, offset: int) -> None:
        super().__init__()
        self.heads, self.offset = heads, offset
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.dot_product = DotProduct()
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp_in = nn.Linear(channels, mlp_ratio * channels)
        self.mlp_out = nn.Linear(mlp_ratio * channels, channels)

    def forward(self, x: Float[Tensor, "b h w c"], bias: Float[Tensor, "n n"]) -> Float[Tensor, "b h w c"]:
        x = x + self._attend(self.norm1(x), bias)
        return x + self.mlp_out(F.leaky_relu(self.mlp_in(self.norm2(x)), 0.1))

    def _attend(self, x: Float[Tensor, "b h w c"], bias: Float[Tensor, "n n"]) -> Float[Tensor, "b h w c"]:
        _, height, width, channels = x.shape
        rows, columns = WINDOW, WINDOW // 2
        # the shifted grid is padded, not rolled: no window joins two opposite borders
        top, left = self.offset, self.offset // 2
        bottom, right = -(height + top) % rows, -(width + left) % columns
        grid = F.pad(x, (0, 0, left, right, top, bottom))
        inside = F.pad(x.new_ones(height, width), (left, right, top, bottom)) > 0
        n_rows, n_columns = grid.shape[1] // rows, grid.shape[2] // columns
        windows = rearrange(grid, "b (i r) (j s) c -> b (i j) (r s) c", r=rows, s=columns)
        visible = rearrange(inside, "(i r) (j s) -> (i j) (r s)", r=rows, s=columns)
        mixed = self._mix(windows, bias, visible)
        shape = {"i": n_rows, "j": n_columns, "r": rows, "s": columns}
        grid = rearrange(mixed, "b (i j) (r s) c -> b (i r) (j s) c", **shape)
        return grid[:, top : top + height, left : left + width]

    def _mix(
        self, x: Float[Tensor, "b k n c"], bias: Float[Tensor, "n n"], visible: Bool[Tensor, "k n"]
    ) -> Float[Tensor, "b k n c"]:
        q, k, v = rearrange(self.qkv(x), "b k n (three m d) -> three b k m n d", three=3, m=self.heads)
        mixed = self.dot_product(q, k, v, bias, visible)
        return self.out(rearrange(mixed, "b k m n d -> b k n (m d)"))


class GlobalContext(nn.Module):
    """g_gs of one chunk: `pairs` times [window attention, shifted window attention] over non-anchors."""

    def __init__(self, channels: int, pairs: int, mlp_ratio: int) -> None:
        super().__init__()
        heads = max(1, channels // 32)
        self.bias = LaplacianBias()
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, mlp_ratio, offset) for _ in range(pairs) for offset in (0, WINDOW // 2)
        )

    def forward(self, local: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = rearrange(local, "b c h w -> b h w c")
        bias = self.bias()
        for block in self.blocks:
            x = block(x, bias)
        return rearrange(x, "b h w c -> b c h w")
