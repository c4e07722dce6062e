"""The layers of the global context g_gs as torch modules: window attention with a position encoding.

Khoshkhahtinat et al. 2024, in Swin pairs (Liu et al. 2021).  What is computed with them: `autoregressive`.
"""

from __future__ import annotations

from torch import nn

from training.networks.positions import ENCODINGS, Position, PositionBias

HEAD = 32  # channels of a head, at least


class SwinBlock(nn.Module):
    """The layers of `autoregressive.swin_block`."""

    def __init__(
        self, channels: int, heads: int, mlp_ratio: int, window: int = 8, position: Position = "laplacian"
    ) -> None:
        super().__init__()
        encoding = ENCODINGS[position]
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = encoding.qkv(window, channels, 3 * channels)
        self.dot_product = encoding.dot_product(window, heads, channels // heads)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp_in = nn.Linear(channels, mlp_ratio * channels)
        self.mlp_out = nn.Linear(mlp_ratio * channels, channels)


class GlobalContext(nn.Module):
    """The layers of `autoregressive.global_context`: `pairs` of plain and shifted window attention.

    With no pairs phi_gs is phi_ls, and nothing is known beyond the local context.  `bias` is that of another
    chunk, where they share one.
    """

    def __init__(
        self,
        channels: int,
        pairs: int,
        mlp_ratio: int,
        window: int = 8,
        position: Position = "laplacian",
        bias: PositionBias | None = None,
    ) -> None:
        super().__init__()
        if window % 4 or window < 4:  # shifted by half, a window has to begin at an even row
            raise ValueError(f"window is {window}, not a multiple of 4")
        heads = heads_of(channels)
        self.bias = ENCODINGS[position].bias(window, heads) if bias is None else bias
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, mlp_ratio, window, position) for _ in range(2 * pairs)
        )


def heads_of(channels: int) -> int:
    """As many heads of at least `HEAD` channels as divide them; one where there are fewer."""
    return next(n for n in range(max(1, channels // HEAD), 0, -1) if channels % n == 0)
