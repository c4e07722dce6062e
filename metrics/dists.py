"""Two images in, one distance of structure and texture out: DISTS (Ding et al., TPAMI 2020).

    x ------> [x, relu1_2 .. relu5_3] --+   for every channel: how alike the means are (texture, alpha)
                                        |-> and how the two are correlated (structure, beta);
    x_hat --> [x, relu1_2 .. relu5_3] --+   1 - the weighted sum of both over all 1475 channels

The distance is 0 for equal images; lower is better.  It forgives texture that is moved or made up as long
as its statistics hold, which a distance between positions, such as LPIPS, does not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from metrics import features
from metrics.perceptual import PerceptualMetric, load_tensors

CHANNELS = (3, 64, 128, 256, 512, 512)  # the image itself, then VGG16's five stages
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, on [0, 1]
DEVIATION = (0.229, 0.224, 0.225)
STABLE = 1e-6  # c1 and c2 of eqs. 4 and 5
HEADS = "dists_alpha_beta.safetensors"


def similarity(
    f: Float[Tensor, "b c h w"], f_hat: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """(texture, structure) of each channel: how alike means are, how the two are correlated; 1 at most."""
    mu, mu_hat = f.mean((2, 3)), f_hat.mean((2, 3))
    centred, centred_hat = f - mu[..., None, None], f_hat - mu_hat[..., None, None]
    variance, variance_hat = centred.square().mean((2, 3)), centred_hat.square().mean((2, 3))
    covariance = (centred * centred_hat).mean((2, 3))
    texture = (2 * mu * mu_hat + STABLE) / (mu.square() + mu_hat.square() + STABLE)  # eq. 4
    structure = (2 * covariance + STABLE) / (variance + variance_hat + STABLE)  # eq. 5
    return texture, structure


class DISTS(PerceptualMetric):
    """DISTS with fixed weights.

    `weights`  folder with `vgg16_features.safetensors` and `dists_alpha_beta.safetensors`.

    Images are [B, 3, H, W], sRGB in [-1, 1], sides of at least 16 pixels, taken at the size they have: the
    reference code shrinks larger ones to 256 pixels only when asked to.
    Under autocast the convolutions run in the lower precision; everything after them is float32.
    Raises FileNotFoundError when a weight file is missing, ValueError for a wrong shape or size.
    """

    mean: Tensor
    deviation: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.backbone = features.load_vgg16_smooth(weights)
        linear_layers = load_tensors(weights, HEADS)
        whole = linear_layers["alpha"].sum() + linear_layers["beta"].sum()
        self.register_buffer("alpha", (linear_layers["alpha"] / whole).reshape(1, -1))
        self.register_buffer("beta", (linear_layers["beta"] / whole).reshape(1, -1))
        self.register_buffer("mean", torch.tensor(MEAN)[None, :, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[None, :, None, None])
        self.eval()

    def compare(self, reference: list[Tensor], decoded: list[Tensor]) -> Float[Tensor, " b"]:
        """DISTS of two lists of `features`, one value an image; float32."""
        alike = [similarity(f, f_hat) for f, f_hat in zip(reference, decoded, strict=True)]
        texture, structure = (torch.cat(kind, 1) for kind in zip(*alike, strict=True))
        return 1 - ((self.alpha * texture).sum(1) + (self.beta * structure).sum(1))  # eq. 6

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The images and their features, one [b, c_i, h_i, w_i] float32 a stage; gradients flow to `x`."""
        x = (x.float() + 1) / 2
        return [x, *(f.float() for f in self.backbone((x - self.mean) / self.deviation))]
