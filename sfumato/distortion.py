"""Two images in, their distance out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Num


def psnr(original: Num[np.ndarray, "*shape"], decoded: Num[np.ndarray, "*shape"]) -> float:
    """10 log10(255^2 / MSE) in dB over all samples, on a scale of 0..255; infinite for equal images."""
    mse = float(np.square(original.astype(np.float64) - decoded).mean())
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)
