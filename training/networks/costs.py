"""python -m training.networks.costs PRESET ..: parameters and multiply-accumulates of each part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.transforms import HYPER_STRIDE, STRIDE
from training.networks.model import Model


@dataclass(frozen=True)
class Cost:
    """What one part of a preset costs."""

    part: str
    parameters: int
    kmac_per_pixel: float  # thousands of multiply-accumulates for each pixel of the image


@cache
def costs(preset: str, side: int = 512) -> tuple[Cost, ...]:
    """The cost of each part, counted by running it on the meta device for a side x side image.

    Element-wise work is not counted.  `prior` is h_s and all contexts, as both encoder and decoder run them;
    `denoiser` is one step.
    """
    with torch.device("meta"):
        model = Model(preset)
        x, q = torch.empty(1, 3, side, side), torch.empty(1)
        y = torch.empty(1, model.config.latent, side // STRIDE, side // STRIDE)
        z = torch.empty(1, model.config.z_channels, side // HYPER_STRIDE, side // HYPER_STRIDE)
        base = model.g_s(y, q)
        calls: dict[str, tuple[nn.Module, tuple[object, ...]]] = {
            "g_a": (model.g_a, (x,)),
            "h_a": (model.h_a, (y,)),
            "prior": (model.prior, (y, z, q)),
            "g_s": (model.g_s, (y, q)),
            "denoiser": (model.denoiser, (x, q, q, x, base.features)),
        }
        out = []
        for part, (module, arguments) in calls.items():
            with FlopCounterMode(display=False) as counter:
                module(*arguments)
            size = sum(p.numel() for p in module.parameters())
            out.append(Cost(part, size, counter.get_total_flops() / 2 / side**2 / 1e3))
    return tuple(out)


def main(presets: Annotated[list[str], tyro.conf.Positional]) -> None:
    """Print what each part of some presets costs."""
    for preset in presets:
        for cost in costs(preset):
            print(f"{preset:8}{cost.part:10}{cost.parameters:12,}{cost.kmac_per_pixel:10.2f} kMAC/pixel")


if __name__ == "__main__":
    tyro.cli(main)
