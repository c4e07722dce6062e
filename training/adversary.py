"""A decoded image beside x_base in; how much it looks like an original, as a learned critic has it, out.

A projected adversary (Sauer et al. 2021, "Projected GANs Converge Faster"): the critic sees the features of a
frozen network, here SqueezeNet's as LPIPS takes them, and only small heads on some of its layers learn.  Like
HiFiC's (Mentzer et al. 2020, section 3.1) it is conditional: it sees x_base too, and so learns what is
missing there.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metrics.lpips import load_lpips

LAYERS = {0: 64, 1: 128, 2: 256, 4: 384}
"""Of SqueezeNet's seven: number -> channels, at 1/2, 1/4, 1/8 and 1/16 of the image's sides."""
WIDTH = 64  # channels of a head
SLOPE = 0.2  # of the leaky ReLUs
WARM = 150  # calls over which the decoder comes to feel the critic, which knows nothing at first


class ProjectedAdversary(nn.Module):
    """Heads on frozen features, with the hinge loss for the critic and its linear answer for the decoder.

    `metrics` is the folder with SqueezeNet's weights.
    """

    calls: Tensor

    def __init__(self, metrics: Path) -> None:
        super().__init__()
        self.lpips = load_lpips("squeeze", metrics)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * channels, WIDTH, 1),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(WIDTH, 1, 1),
            )
            for channels in LAYERS.values()
        )
        self.register_buffer("calls", torch.zeros(()))

    def forward(
        self, x: Float[Tensor, "b 3 h w"], x_hat: Float[Tensor, "b 3 h w"], x_base: Float[Tensor, "b 3 h w"]
    ) -> dict[str, Tensor]:
        """Terms of each image: "adversary" moves what made `x_hat` alone, "critic" the heads alone.

            adversary = -C(x_hat | x_base)
            critic = max(0, 1 - C(x | x_base)) + max(0, 1 + C(x_hat | x_base))

        Means over places and layers; sides of 17 pixels at least.
        """
        with torch.no_grad():
            real, condition = self.lpips.features(x), self.lpips.features(x_base)
        found = self.lpips.features(x_hat)
        self.calls += 1
        self.heads.requires_grad_(False)
        places = self._scores(found, condition)
        adversary = -_mean(places) * (self.calls / WARM).clamp(max=1)
        self.heads.requires_grad_(True)
        fake = self._scores([f.detach() for f in found], condition)
        critic = _mean([F.relu(1 - c) for c in self._scores(real, condition)])
        return {"adversary": adversary, "critic": critic + _mean([F.relu(1 + c) for c in fake])}

    def _scores(self, found: list[Tensor], condition: list[Tensor]) -> list[Tensor]:
        """[B, 1, h, w] for each head."""
        pairs = ((found[n], condition[n], channels**0.5) for n, channels in LAYERS.items())
        return [
            head(torch.cat((f, f_base), 1) * scale)  # unit vectors have components of 1 / sqrt(channels)
            for head, (f, f_base, scale) in zip(self.heads, pairs, strict=True)
        ]


def _mean(maps: list[Tensor]) -> Float[Tensor, " b"]:
    return torch.stack([m.float().mean((1, 2, 3)) for m in maps]).mean(0)
