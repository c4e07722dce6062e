"""Position encodings of the window attention as torch modules: what attention knows of where its tokens are.

A row of `ENCODINGS` says by what an encoding acts: a bias of the logits, the same for all images
(`PositionBias`); the dot product of queries and keys; or the tokens themselves.  Distances d are
|dv| + |dh|, in latents.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sfumato.exact import OUTSIDE, window_cells, window_distances

Position = Literal[
    "none", "laplacian", "laplacian_shared", "laplacian_per_head", "gaussian", "linear",
    "swin_table", "diamond", "diamond_scalar", "sinusoidal", "rope", "values_only",
]  # fmt: skip
"""Names of `ENCODINGS`."""
DIAMOND = 3  # h of Entroformer: offsets with |dv| + |dh| <= 3 have an entry of their own
ROPE_BASE = 100.0  # a window is 8 cells, not a text


class PositionBias(nn.Module, ABC):
    """Added to the logits of every window of a chunk, [cells, cells] or [heads, cells, cells]."""

    @abstractmethod
    def forward(self) -> Float[Tensor, "*heads n n"]: ...


class NoBias(PositionBias):
    """Zeros: attention that does not know where its tokens are."""

    zeros: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(window**2 // 2, window**2 // 2), persistent=False)

    def forward(self) -> Float[Tensor, "n n"]:
        return self.zeros


class LaplacianBias(PositionBias):
    """A^2 exp(-d / (2 sigma^2)); A and sigma are learnt, one of each or (`heads`) one for every head.

    Khoshkhahtinat et al. 2024, Laplacian-shaped positional encoding; A^2 keeps the bias non-negative.
    """

    distance: Tensor

    def __init__(self, window: int = 8, heads: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.ones(heads))
        self.sigma = nn.Parameter(torch.full(heads, 1.5))
        distance = torch.tensor(window_distances(window), dtype=torch.float64)
        self.register_buffer("distance", distance, persistent=False)

    def forward(self) -> Float[Tensor, "*heads n n"]:
        amplitude, reach = self.amplitude.square(), 2 * self.sigma.square() + 1e-6
        if amplitude.dim():
            amplitude, reach = amplitude[:, None, None], reach[:, None, None]
        return amplitude * torch.exp(-self.distance.to(reach.dtype) / reach)


class GaussianBias(PositionBias):
    """A^2 exp(-d^2 / (2 sigma^2)): the Laplacian's parameters and distance, another shape."""

    distance: Tensor

    def __init__(self, window: int = 8) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.ones(()))
        self.sigma = nn.Parameter(torch.full((), 3.0))
        distance = torch.tensor(window_distances(window), dtype=torch.float64)
        self.register_buffer("distance", distance, persistent=False)

    def forward(self) -> Float[Tensor, "n n"]:
        reach = 2 * self.sigma.square() + 1e-6
        return self.amplitude.square() * torch.exp(-self.distance.square().to(reach.dtype) / reach)


class LinearBias(PositionBias):
    """-slope d, a learnt slope for each head (Press et al. 2022, ALiBi, where slopes are fixed)."""

    distance: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((heads,), 0.1))
        distance = torch.tensor(window_distances(window), dtype=torch.float64)
        self.register_buffer("distance", distance, persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        return -self.slope[:, None, None] * self.distance.to(self.slope.dtype)


class TableBias(PositionBias):
    """A learnt number for each head and entry of an index [cells, cells].

    With the index of `offsets` the relative position bias of Swin (Liu et al. 2021), with that of `diamond`
    Entroformer's clipped one (Qian et al. 2022) without its dependence on the query.
    """

    index: Tensor

    def __init__(self, index: Int[Tensor, "n n"], heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, int(index.max()) + 1))
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        return self.table[:, self.index]


class DotProduct(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over the visible keys of each window; no parameters."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n width"],
        bias: Float[Tensor, "*heads n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n width"]:
        logits = q @ k.mT * (1 / math.sqrt(q.shape[-1])) + bias
        return attend(logits, v, visible)


class DiamondDotProduct(nn.Module):
    """Logits (q k^T + q . table[index]) / sqrt(d), the table shared by the heads (Qian et al. 2022)."""

    index: Tensor

    def __init__(self, index: Int[Tensor, "n n"], heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Parameter(torch.zeros((2 * DIAMOND + 1) ** 2, width))
        self.register_buffer("index", index, persistent=False)

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n d"],
        bias: Float[Tensor, "*heads n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n d"]:
        by_entry = q @ self.table.to(q.dtype).mT  # what each query thinks of each entry
        relative = by_entry.gather(-1, self.index.expand(*q.shape[:3], *self.index.shape))
        logits = (q @ k.mT + relative) * (1 / math.sqrt(q.shape[-1])) + bias
        return attend(logits, v, visible)


class RotaryDotProduct(nn.Module):
    """q and k rotated by angles of their row and column, half of the pairs each (RoPE, Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, window: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        pairs = width // 4  # of numbers, for each axis; what is left over is not rotated
        frequency = ROPE_BASE ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        row, column = (torch.tensor(part, dtype=torch.float64) for part in window_cells(window))
        angle = torch.cat([row[:, None] * frequency, column[:, None] * frequency], 1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n d"],
        bias: Float[Tensor, "*heads n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n d"]:
        logits = self._rotate(q) @ self._rotate(k).mT * (1 / math.sqrt(q.shape[-1])) + bias
        return attend(logits, v, visible)

    def _rotate(self, x: Float[Tensor, "b k m n d"]) -> Float[Tensor, "b k m n d"]:
        half = self.cos.shape[1]
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class UniformDotProduct(nn.Module):
    """The mean of the visible values: only the path of the values is left; q, k and the bias are not used."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n d"],
        bias: Float[Tensor, "*heads n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n d"]:
        seen = visible[:, None, :, None].to(v.dtype)
        return ((v * seen).sum(-2, keepdim=True) / seen.sum(-2, keepdim=True).clamp_min(1)).expand_as(v)


class SinusoidalLinear(nn.Module):
    """A linear layer of tokens to which sines and cosines of their row and column are added first.

    Vaswani et al. 2017, axis by axis; `amplitude` is learnt, from zero.
    """

    sinusoids: Tensor

    def __init__(self, window: int, inputs: int, outputs: int) -> None:
        super().__init__()
        layer = nn.Linear(inputs, outputs)
        self.weight, self.bias = layer.weight, layer.bias
        self.amplitude = nn.Parameter(torch.zeros(()))
        pairs = -(-inputs // 4)
        frequency = ROPE_BASE ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = [torch.tensor(part)[:, None] * frequency for part in window_cells(window)]
        waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
        self.register_buffer("sinusoids", waves[:, :inputs], persistent=False)

    def forward(self, x: Float[Tensor, "b k n c"]) -> Float[Tensor, "b k n o"]:
        return F.linear(x + self.amplitude * self.sinusoids.to(x.dtype), self.weight, self.bias)


def attend(
    logits: Float[Tensor, "b k m n n"], v: Float[Tensor, "b k m n d"], visible: Bool[Tensor, "k n"]
) -> Float[Tensor, "b k m n d"]:
    """The values mixed by softmax over the visible keys."""
    logits = logits.masked_fill(~visible[:, None, None, :], OUTSIDE)
    return logits.softmax(-1).to(v.dtype) @ v


def offsets(window: int) -> Int[Tensor, "n n"]:
    """Number of the offset (dv, dh) of each two cells of a window, of (2 window - 1)^2."""
    dv, dh = _differences(window)
    return (dv + window - 1) * (2 * window - 1) + dh + window - 1


def diamond(window: int) -> Int[Tensor, "n n"]:
    """(dv + h) (2 h + 1) + dh + h where |dv| + |dh| <= h, else 0 (Qian et al. 2022)."""
    dv, dh = _differences(window)
    index = (dv + DIAMOND) * (2 * DIAMOND + 1) + dh + DIAMOND
    return torch.where(dv.abs() + dh.abs() <= DIAMOND, index, 0)


def _differences(window: int) -> tuple[Int[Tensor, "n n"], Int[Tensor, "n n"]]:
    """Of the rows and of the columns of each two cells, key minus query."""
    row, column = (torch.tensor(part) for part in window_cells(window))
    return row - row[:, None], column - column[:, None]


def _plain_dot_product(window: int, heads: int, width: int) -> nn.Module:
    return DotProduct(heads)


def _plain_linear(window: int, inputs: int, outputs: int) -> nn.Module:
    return nn.Linear(inputs, outputs)


@dataclass(frozen=True)
class Encoding:
    """What an encoding puts in the place of the parts of plain attention."""

    bias: Callable[[int, int], PositionBias] = lambda window, heads: NoBias(window)  # one for each chunk
    dot_product: Callable[[int, int, int], nn.Module] = _plain_dot_product  # window, heads, width of a head
    qkv: Callable[[int, int, int], nn.Module] = _plain_linear  # window, inputs, outputs
    is_shared: bool = False  # one bias for all chunks


ENCODINGS: dict[Position, Encoding] = {
    "none": Encoding(),
    "laplacian": Encoding(lambda window, heads: LaplacianBias(window)),
    "laplacian_shared": Encoding(lambda window, heads: LaplacianBias(window), is_shared=True),
    "laplacian_per_head": Encoding(lambda window, heads: LaplacianBias(window, (heads,))),
    "gaussian": Encoding(lambda window, heads: GaussianBias(window)),
    "linear": Encoding(LinearBias),
    "swin_table": Encoding(lambda window, heads: TableBias(offsets(window), heads)),
    "diamond": Encoding(
        dot_product=lambda window, heads, width: DiamondDotProduct(diamond(window), heads, width)
    ),
    "diamond_scalar": Encoding(lambda window, heads: TableBias(diamond(window), heads)),
    "sinusoidal": Encoding(qkv=SinusoidalLinear),
    "rope": Encoding(dot_product=RotaryDotProduct),
    "values_only": Encoding(dot_product=lambda window, heads, width: UniformDotProduct(heads)),
}
