"""Two samples of a decoder and the original in; a score that asks the samples to differ as originals do.

The energy score (Gneiting & Raftery 2007, eq. 22) of a sample x_hat with an independent second one x_hat',

    S = E d(x, x_hat) - 1/2 E d(x_hat, x_hat'),

is least, in the mean, where x_hat has the distribution of x given the file: a decoder that ignores its noise
gains nothing from the second term.  d is a sum of norms, so that it is a metric of negative type.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metrics.lpips import load_lpips

PIXEL_PATCH = 4  # pixels a side of the patches whose norms are compared
PIXEL_WEIGHT = 6.0  # of their root mean squares beside the norms of features
STABLE = 1e-6  # under every root


class EnergyScore(nn.Module):
    """The score in features of SqueezeNet, as LPIPS weighs them, and in patches of pixels.

    diversity  factor on the second term: 1 is the score itself, 0 a distance
    patch      positions a side over which the squares of a feature norm are gathered
    """

    def __init__(self, metrics: Path, diversity: float, patch: int) -> None:
        super().__init__()
        self.lpips = load_lpips("squeeze", metrics)
        self.diversity, self.patch = diversity, patch

    def forward(
        self, x: Float[Tensor, "b 3 h w"], first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"]
    ) -> dict[str, Tensor]:
        """The score of each image as "energy", and the mean distance of its samples as "spread"."""
        with torch.no_grad():
            features = self.lpips.features(x)
        samples = [self.lpips.features(sample) for sample in (first, second)]
        error = sum(
            0.5 * self._distance(features, found, x, sample)
            for found, sample in zip(samples, (first, second), strict=True)
        )
        spread = self._distance(samples[0], samples[1], first, second)
        return {"energy": error - 0.5 * self.diversity * spread, "spread": spread}

    def _distance(
        self, f: list[Tensor], f_hat: list[Tensor], x: Tensor, x_hat: Tensor
    ) -> Float[Tensor, " b"]:
        squares = F.avg_pool2d((x - x_hat).square().mean(1, keepdim=True), PIXEL_PATCH)
        total = PIXEL_WEIGHT * (squares + STABLE).sqrt().mean((1, 2, 3))
        for a, b, weights in zip(f, f_hat, self.lpips.linear_layers, strict=True):
            squares = ((a - b).square() * weights).sum(1, keepdim=True)
            patch = min(self.patch, *squares.shape[2:])
            if patch > 1:
                squares = F.avg_pool2d(squares, patch, stride=(patch + 1) // 2)
            total = total + (squares.clamp_min(0) + STABLE).sqrt().mean((1, 2, 3))
        return total
