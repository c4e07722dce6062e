"""Two images in, Wasserstein distortion out: local means and deviations of SqueezeNet features.

    x ------> features of seven layers -> local mean, local deviation --+
                                                                        |-> (mu - mu_hat)^2 + (s - s_hat)^2,
    x_hat --> features of seven layers -> local mean, local deviation --+   a share of the features' power

After Qiu et al. 2023, "Wasserstein Distortion: Unifying Fidelity and Realism": the squared 2-Wasserstein
distance of the Gaussians that a window's features have, for windows of a fixed size.  A window of one
position is a squared feature distance; a wide one compares textures and forgives where exactly their grains
lie.  The paper takes VGG19; SqueezeNet costs a fiftieth of it.  0 for equal images; lower is better.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metrics import features
from metrics.perceptual import PerceptualMetric
from sfumato.lpips import SCALE, SHIFT

WINDOW = 5  # positions of a layer
STABLE = 1e-4  # under the root of a variance, as a share of the layer's power


class WassersteinDistortion(PerceptualMetric):
    """Wasserstein distortion with fixed weights, read from the folder `weights` (SqueezeNet 1.1).

    Images are [B, 3, H, W], sRGB in [-1, 1], sides of at least 64 pixels.  Raises FileNotFoundError when the
    file is missing, ValueError for a wrong size.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.backbone = features.load("squeeze", weights)
        self.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None])
        self.eval()

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of the seven layers, one [b, c_i, h_i, w_i] float32 a layer; gradients flow to `x`."""
        if min(x.shape[2:]) < 64:
            raise ValueError(f"sides of at least 64 pixels are needed, got {list(x.shape[2:])}")
        return [f.float() for f in self.backbone((x.float() - self.shift) / self.scale)]

    def compare(self, reference: list[Tensor], decoded: list[Tensor]) -> Float[Tensor, " b"]:
        """Distortion of two lists of `features`, one value an image; float32."""
        total = torch.zeros(len(decoded[0]), device=decoded[0].device)
        for f, f_hat in zip(reference, decoded, strict=True):
            power = f.square().mean().clamp_min(1e-8)  # of the batch: a constant scale for each layer
            mu, deviation = _statistics(f, STABLE * power)
            mu_hat, deviation_hat = _statistics(f_hat, STABLE * power)
            distance = (mu - mu_hat).square() + (deviation - deviation_hat).square()
            total = total + distance.mean((1, 2, 3)) / power
        return total / len(decoded)


def _statistics(f: Float[Tensor, "b c h w"], stable: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every second window."""
    window = min(WINDOW, *f.shape[2:])
    mean = F.avg_pool2d(f, window, stride=2, ceil_mode=True)
    square = F.avg_pool2d(f.square(), window, stride=2, ceil_mode=True)
    return mean, ((square - mean.square()).clamp_min(0) + stable).sqrt()
