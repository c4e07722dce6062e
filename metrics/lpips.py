"""Two pictures in, one perceptual distance out: LPIPS v0.1 (Zhang et al., CVPR 2018).

    x ------> scale -> trunk -> unit length over channels --+
                                                            |-> squared difference, weighted by channel,
    x_hat --> scale -> trunk -> unit length over channels --+   mean over positions, sum over layers

The distance is 0 for equal pictures and about 0.7 for unrelated ones; lower is better.  Published figures are
mostly those of net "alex"; "vgg" is what many train on; "squeeze" is the cheapest.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metrics import features

# Channel means and deviations of ImageNet, moved from [0, 1] to [-1, 1]; digits as in the reference code.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# Added to the squared length of a feature vector.  It bounds the gradient of the normalisation by 1e4 where
# all channels vanish, and is far below the squared lengths that occur (30 .. 1e6), so the values agree with
# those of the reference code.
LENGTH_EPS = 1e-8


class LPIPS(nn.Module):
    """LPIPS v0.1 with fixed weights, differentiable in the decoded picture.

    `net`      "alex", "vgg" or "squeeze".
    `weights`  folder with `{alexnet,vgg16,squeezenet1_1}_features.safetensors` and
               `lpips_{alex,vgg,squeeze}_v0.1_heads.safetensors`; only the two files of `net` are read.

    Pictures are [B, 3, H, W], sRGB in [-1, 1], sides of at least 31 (alex), 16 (vgg) or 17 (squeeze) pixels.
    Under autocast the convolutions run in the lower precision; everything after them is float32.
    Raises FileNotFoundError when a weight file is missing, ValueError for a wrong `net`, shape or size.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: features.Net, weights: Path) -> None:
        super().__init__()
        self.trunk = features.load(net, weights)
        heads = features.load_weights(weights, f"lpips_{net}_v0.1_heads.safetensors")
        rows = [heads[f"lin{i}.model.1.weight"] for i in range(len(self.trunk.taps))]
        self.heads = nn.ParameterList(nn.Parameter(row, requires_grad=False) for row in rows)
        self.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None])
        self.eval()

    def forward(self, x: Float[Tensor, "b 3 h w"], x_hat: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """LPIPS(x, x_hat) for each picture.  Gradients flow to `x_hat` only: `x` is the original."""
        return self.distance(self.reference(x), x_hat)

    @torch.no_grad()
    def reference(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Normalised features of the originals, one [b, c_i, h_i, w_i] float32 a layer, without gradients.

        A training step that compares several decoded pictures with one original computes them once.
        """
        return self.features(x)

    def distance(self, reference: list[Tensor], x_hat: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each `x_hat` from the original whose `reference` features are given; float32."""
        return self.compare(reference, self.features(x_hat))

    def compare(self, reference: list[Tensor], decoded: list[Tensor]) -> Float[Tensor, " b"]:
        """Distance of two lists of `features`, one value a picture; float32."""
        total = torch.zeros(len(decoded[0]), device=decoded[0].device)
        for f, f_hat, head in zip(reference, decoded, self.heads, strict=True):
            if f.shape != f_hat.shape:
                raise ValueError(f"features are {list(f.shape)} in x, {list(f_hat.shape)} in x_hat")
            # eq. 1: a 1x1 convolution without bias, written as a sum so that autocast leaves it in float32
            total = total + ((f - f_hat).square() * head).sum(1).mean((1, 2))
        return total

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Normalised features, one [b, c_i, h_i, w_i] float32 a layer; gradients flow to `x`."""
        return [_unit(f.float()) for f in self.trunk((x.float() - self.shift) / self.scale)]


def _unit(f: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Every position's feature vector scaled to length 1; the zero vector stays zero."""
    return f * (f.square().sum(1, keepdim=True) + LENGTH_EPS).rsqrt()
