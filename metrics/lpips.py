"""The name of a backbone in, LPIPS with that backbone out (`metrics.perceptual`).

Published figures are mostly those of net "alex"; "vgg" is what many train on; "squeeze" is the cheapest.
"""

from __future__ import annotations

from pathlib import Path

from metrics import features
from metrics.perceptual import LPIPS, load_tensors


def load_lpips(net: features.Net, weights: Path) -> LPIPS:
    """LPIPS v0.1 with the weights of a folder; sides of at least 31 (alex), 16 (vgg) or 17 (squeeze) pixels.

    The folder holds `{alexnet,vgg16,squeezenet1_1}_features.safetensors` and
    `lpips_{alex,vgg,squeeze}_v0.1_heads.safetensors`; only the two files of `net` are read.
    Raises FileNotFoundError when one is missing, ValueError for a wrong `net`.
    """
    return LPIPS(features.load(net, weights), load_tensors(weights, f"lpips_{net}_v0.1_heads.safetensors"))
