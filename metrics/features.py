"""Images in, lists of feature maps out: AlexNet, VGG16 and SqueezeNet1.1 without their classifiers.

The networks are torchvision's, layer for layer and with its key names (`features.0.weight`, OIHW), so any
state dict of those models' convolutional part fits.  The weights are read from safetensors files in a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metrics.perceptual import Backbone, alexnet, frozen, load_tensors
from sfumato.lpips import ALEX_FEATURES

Net = Literal["alex", "vgg", "squeeze"]


class Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016, section 3.2): 1x1 squeeze, then 1x1 and 3x3 side by side."""

    def __init__(self, c_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


class L2Pool(nn.Module):
    """sqrt(g * x^2) at every second position, g the 3x3 Hann window (Ding et al. 2020, eq. 3)."""

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        row = torch.tensor([0.25, 0.5, 0.25], device="cpu")  # also where the backbone is built on "meta"
        window = (row[:, None] * row).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("window", window, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        mean = nn.functional.conv2d(x.square(), self.window, stride=2, padding=1, groups=self.channels)
        return (mean + 1e-12).sqrt()


def vgg16() -> Backbone:
    """VGG16, configuration D of Simonyan & Zisserman 2015; relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
    return _vgg16(lambda channels: nn.MaxPool2d(2, 2))


def vgg16_smooth() -> Backbone:
    """VGG16 that halves by a blurred L2 norm instead of a maximum, as in DISTS; the same feature layers."""
    return _vgg16(L2Pool)


def _vgg16(pool: Callable[[int], nn.Module]) -> Backbone:
    layers: list[nn.Module] = []
    c_in = 3
    for stage, (channels, convolutions) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        if stage > 0:
            layers.append(pool(c_in))
        for _ in range(convolutions):
            layers += [nn.Conv2d(c_in, channels, 3, padding=1), nn.ReLU()]
            c_in = channels
    return Backbone(layers, feature_layers=(3, 8, 15, 22, 29), minimum=16)


def squeezenet1_1() -> Backbone:
    """SqueezeNet 1.1 (Iandola et al. 2016); the first ReLU and the last Fire block of each later slice."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    ]
    return Backbone(layers, feature_layers=(1, 4, 7, 9, 10, 11, 12), minimum=17)


BACKBONES: dict[Net, tuple[Callable[[], Backbone], str]] = {
    "alex": (alexnet, ALEX_FEATURES),
    "vgg": (vgg16, "vgg16_features.safetensors"),
    "squeeze": (squeezenet1_1, "squeezenet1_1_features.safetensors"),
}


def load(net: Net, folder: Path) -> Backbone:
    """The backbone of `net` with the ImageNet weights of `folder`, frozen: no gradients, evaluation mode.

    Raises ValueError for an unknown `net`, FileNotFoundError for a missing file and RuntimeError for a file
    whose keys or shapes are not those of the network.
    """
    if net not in BACKBONES:
        raise ValueError(f"net must be one of {', '.join(BACKBONES)}, got {net!r}")
    build, name = BACKBONES[net]
    return frozen(build, load_tensors(folder, name))


def load_vgg16_smooth(folder: Path) -> Backbone:
    """`vgg16_smooth` with the same weights as "vgg", frozen; errors as for `load`."""
    return frozen(vgg16_smooth, load_tensors(folder, BACKBONES["vgg"][1]))
