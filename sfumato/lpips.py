"""Two images in, one perceptual distance out: LPIPS v0.1 with AlexNet (Zhang et al., CVPR 2018), on numpy.

    x ------> scale -> backbone -> unit length over channels --+
                                                               |-> squared difference, weighted by channel,
    x_hat --> scale -> backbone -> unit length over channels --+   mean over positions, sum over layers

The distance is 0 for equal images and about 0.7 for unrelated ones; lower is better.  The weights are others'
work and not in this package: they are read from a folder, into which `python -m evaluation weights` of the
source tree puts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors.numpy import load_file

from sfumato.image import to_x

if TYPE_CHECKING:
    from jaxtyping import UInt8

ALEX_FEATURES = "alexnet_features.safetensors"
ALEX_HEADS = "lpips_alex_v0.1_heads.safetensors"
ALEX_LAYERS = ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0))
"""AlexNet as torchvision has it (Krizhevsky 2014): number of each convolution, its stride and padding, and
whether a 3x3 maximum at every second position comes before it.  A ReLU follows each: the feature layers."""
MINIMUM = 31  # pixels a side: every feature layer has a position

# Channel means and deviations of ImageNet, moved from [0, 1] to [-1, 1]; digits as in the reference code.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# Added to the squared length of a feature vector.  It bounds the gradient of the normalisation by 1e4 where
# all channels vanish, and is far below the squared lengths that occur (30 .. 1e6), so the values agree with
# those of the reference code.
LENGTH_EPS = 1e-8

STRIP_PIXELS = 1 << 22
"""Larger images are compared in strips of about so many pixels, as their features would fill the memory."""
PRODUCT = 1 << 22
"""Values that a convolution lays out for one matrix product."""


def distance(original: UInt8[np.ndarray, "h w 3"], decoded: UInt8[np.ndarray, "h w 3"]) -> float:
    """LPIPS (AlexNet) of two images, with the weights of `weights_folder()`.

    Images over 4 megapixels are compared in strips, whose mean is taken by their rows.  Raises ValueError
    for sides under 31 pixels or unequal sizes, FileNotFoundError where the weights are missing.
    """
    height, width = original.shape[:2]
    if original.shape != decoded.shape:
        raise ValueError(f"images of equal size are needed, got {original.shape} and {decoded.shape}")
    if min(height, width) < MINIMUM:
        raise ValueError(f"sides of at least {MINIMUM} pixels are needed, got {width}x{height}")
    weights, heads = _alexnet(weights_folder())
    total = 0.0
    for rows in _strips(height, width):
        pairs = zip(_features(original[rows], weights), _features(decoded[rows], weights), heads, strict=True)
        found = sum(float((((f - f_hat) ** 2) * head).sum(0).mean()) for f, f_hat, head in pairs)
        total += found * (rows.stop - rows.start)
    return total / height


def weights_folder() -> Path:
    """Where metric weights lie: the folder SFUMATO_METRICS, or sfumato/metrics in the user's cache folder."""
    if folder := os.environ.get("SFUMATO_METRICS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato" / "metrics"


def weights_file(folder: Path, name: str) -> Path:
    """The file of that name; a missing one raises FileNotFoundError, which says what has to be in it."""
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; it has to hold the weights, fp32 or fp16, under the key names of "
            "torchvision's ImageNet network (`*_features`) or of the lpips package (`lpips_*_heads`); "
            "`python -m evaluation weights` in the source tree obtains it"
        )
    return path


Weights = dict[str, NDArray[np.float32]]


@cache
def _alexnet(folder: Path) -> tuple[Weights, list[NDArray[np.float32]]]:
    features, heads = (
        {key: value.astype(np.float32) for key, value in load_file(weights_file(folder, name)).items()}
        for name in (ALEX_FEATURES, ALEX_HEADS)
    )
    return features, [heads[f"lin{i}.model.1.weight"].reshape(-1, 1, 1) for i in range(len(ALEX_LAYERS))]


def _features(image: UInt8[np.ndarray, "h w 3"], weights: Weights) -> Iterator[NDArray[np.float32]]:
    """The feature layers, each [c_i, h_i, w_i], every position's vector scaled to length 1."""
    shift, scale = (np.array(value, np.float32)[:, None, None] for value in (SHIFT, SCALE))
    x = (to_x(image)[0] - shift) / scale
    for number, stride, padding, pooled in ALEX_LAYERS:
        if pooled:
            x = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
        kernel, bias = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
        x = np.maximum(_convolve(x, kernel, bias, stride, padding), 0)
        yield x / np.sqrt((x * x).sum(0) + np.float32(LENGTH_EPS))


def _convolve(
    x: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32], stride: int, padding: int
) -> NDArray[np.float32]:
    """[c, h, w] -> [o, h', w'] by matrix products over strips of rows."""
    outputs, _, side, _ = kernel.shape
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    seen = sliding_window_view(x, (side, side), (1, 2))[:, ::stride, ::stride]  # [c, h', w', side, side]
    height, width = seen.shape[1:3]
    matrix = kernel.reshape(outputs, -1)
    rows = max(1, PRODUCT // (matrix.shape[1] * width))
    out = np.empty((outputs, height, width), np.float32)
    for top in range(0, height, rows):
        columns = seen[:, top : top + rows].transpose(0, 3, 4, 1, 2).reshape(matrix.shape[1], -1)
        out[:, top : top + rows] = (matrix @ columns).reshape(outputs, -1, width)
    return out + bias[:, None, None]


def _strips(height: int, width: int) -> Iterator[slice]:
    """Equal parts of the rows, none under the smallest side."""
    count = max(1, min(-(-height * width // STRIP_PIXELS), height // MINIMUM))
    edges = [height * i // count for i in range(count + 1)]
    return (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True))
