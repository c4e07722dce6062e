"""Images in, one vector of 1280 ImageNet features each out: EfficientNet-Lite0 without its classifier.

The network is Tan & Le 2019 in the form for mobile hardware (2020): no squeeze-and-excitation, ReLU6, a
stem and a head of fixed width.  It stands in for the Inception network of the published FID, which no
package holds; its figures compare codecs with each other and never with published ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from metrics.perceptual import load_tensors

FILE = "efficientnet_lite0.safetensors"
FEATURES = 1280
CLASSES = 1000
STEM = 32
# expansion, channels, blocks, stride of the first block, side of the kernel
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
NORM_EPS = 1e-3


class SameConv(nn.Conv2d):
    """A convolution with ceil(side / stride) positions; what is odd of the padding goes right and down."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(x, pads))


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): 1x1 to more channels, depthwise, 1x1 to fewer."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = c_in * expansion
        if expansion != 1:
            self.expand_conv = SameConv(c_in, wide, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(wide, NORM_EPS)
        self.expands = expansion != 1
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, NORM_EPS)
        self.project_conv = SameConv(wide, c_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out, NORM_EPS)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        y = nn.functional.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = nn.functional.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network and its classifier; key names are those of the published state dict less underscores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(STEM, NORM_EPS)
        blocks, c_in = [], STEM
        for expansion, channels, count, stride, kernel in STAGES:
            for i in range(count):
                blocks.append(Block(c_in, channels, expansion, stride if i == 0 else 1, kernel))
                c_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SameConv(c_in, FEATURES, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(FEATURES, NORM_EPS)
        self.fc = nn.Linear(FEATURES, CLASSES)

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """Mean over positions of the head's ReLU6: what the classifier sees.  Any size from 1 pixel up."""
        x = (images.float() - 127) / 128
        x = nn.functional.relu6(self.bn0(self.conv_stem(x)))
        x = nn.functional.relu6(self.bn1(self.conv_head(self.blocks(x))))
        return x.mean((2, 3))

    @torch.no_grad()
    def probabilities(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """Of the ImageNet classes; the net was trained at 224x224 pixels.  For checking the weights."""
        return self.fc(self.features(images)).softmax(1)


def load(folder: Path) -> EfficientNetLite0:
    """The network with the weights of `folder`, frozen, evaluation mode.

    Raises FileNotFoundError for a missing file and RuntimeError for one whose keys or shapes differ.
    """
    weights = load_tensors(folder, FILE)
    with torch.device("meta"):
        net = EfficientNetLite0()
    # BatchNorm's counter of steps means nothing after training, and the file holds none.
    counters = {key: torch.tensor(0) for key in net.state_dict() if key.endswith("num_batches_tracked")}
    net.load_state_dict(weights | counters, assign=True)
    return net.eval().requires_grad_(False)
