"""Crops in; a light codec whose transforms begin as the Karhunen-Loeve transform of those crops.

The blocks of the light transforms begin as the identity (`layers.DepthBlock`), so what is left of g_a and g_s
is linear, and can be set to the best linear transform at once: principal components of 8x8 patches, then of
2x2 of those, ordered by variance, and their transposes for the way back.  Training then starts from a
image, and from a latent whose first chunk holds the most, instead of from noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from training.networks.model import Model
from training.networks.transform import LightAnalysis, LightSynthesis


@torch.no_grad()
def karhunen_loeve(model: Model, crops: Float[Tensor, "n 3 h w"]) -> None:
    """Set the linear layers of g_a and g_s, in place.  Sides of the crops are multiples of 16.

    Components over a layer's width are left out; channels over the components keep their random start.
    """
    g_a, g_s = model.g_a, model.g_s
    if not isinstance(g_a, LightAnalysis) or not isinstance(g_s, LightSynthesis):
        raise ValueError(f"preset {model.preset!r} is not of the light family")
    patches = F.pixel_unshuffle(crops, 8)
    at_8 = principal(patches, g_a.stem.out_channels)  # [192, k8]
    f8 = torch.einsum("kc,nkhw->nchw", at_8, patches)
    pairs = rearrange(f8, "n c (h sy) (w sx) -> n (sy sx c) h w", sy=2, sx=2)
    at_16 = principal(pairs, min(g_a.head.out_channels, g_a.down.out_channels, g_s.stem.out_channels))
    k8, k16 = at_8.shape[1], at_16.shape[1]
    blocks = rearrange(at_16, "(sy sx c) k -> k c sy sx", sy=2, sx=2)

    g_a.stem.weight[:k8, :, 0, 0] = at_8.T
    g_a.down.weight[:k16] = 0
    g_a.down.weight[:k16, :k8, 1:, 1:] = blocks  # the kernel's first row and column lie outside the patch
    g_a.head.weight[:k16] = 0
    g_a.head.weight[:k16, :k16, 0, 0] = torch.eye(k16)

    g_s.stem.weight[:k16] = 0
    g_s.stem.weight[:k16, :k16, 0, 0] = torch.eye(k16)
    up_8 = g_s.up_8.weight[:, :, 0, 0].unflatten(0, (-1, 2, 2))  # [c8, sy, sx, c16]
    up_8[:k8] = 0
    up_8[:k8, ..., :k16] = blocks.permute(1, 2, 3, 0)
    # what reaches 1/4 are the pixels of each 4x4 patch themselves: colour, row, column
    pixels = rearrange(at_8, "(c sy y sx x) k -> (c y x) sy sx k", c=3, sy=2, sx=2, y=4)
    pixels = pixels[: g_s.head.in_channels]
    up_4 = g_s.up_4.weight[:, :, 0, 0].unflatten(0, (-1, 2, 2))
    up_4[: len(pixels)] = 0
    up_4[: len(pixels), ..., :k8] = pixels
    g_s.head.weight.zero_()
    g_s.head.weight[: len(pixels), : len(pixels), 1, 1] = torch.eye(len(pixels))
    for layer in (g_a.stem, g_a.down, g_a.head, g_s.stem, g_s.up_8, g_s.up_4, g_s.head):
        assert layer.bias is not None
        layer.bias.zero_()


def principal(x: Float[Tensor, "n c h w"], most: int) -> Float[Tensor, "c k"]:
    """The k = min(c, most) directions of largest power, orthonormal, largest first."""
    rows = rearrange(x, "n c h w -> (n h w) c").double()
    _, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    return vectors.flip(1)[:, :most].float()
