"""Two sets of feature vectors in, one distance between their distributions out: Frechet distance and KID.

Both say how natural decoded images look as a set; neither asks whether one resembles its original.  The
Frechet distance is biased upwards by few crops and so compares only equal numbers of crops; KID is unbiased.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Features = Float[np.ndarray, "n d"]
BLOCK = 1024  # rows of a kernel matrix at once


def crops(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[Tensor, "n 3 side side"]:
    """Squares of `side` pixels: a grid from the top left corner, then a grid shifted by half a square.

    That is the protocol of HiFiC (Mentzer et al. 2020).  An image smaller than a square has none.
    """
    height, width = image.shape[:2]
    tiles = []
    for start in (0, side // 2):
        for y in range(start, height - side + 1, side):
            for x in range(start, width - side + 1, side):
                tiles.append(image[y : y + side, x : x + side])
    if not tiles:
        return torch.empty(0, 3, side, side, dtype=torch.uint8)
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)


class Frechet:
    """Frechet distances of many sets from one: |mu - mu_hat|^2 + tr(C + C_hat - 2 (C C_hat)^(1/2)).

    Heusel et al. 2017, eq. 6.  The square root of the original's covariance is taken once.
    """

    def __init__(self, original: Features) -> None:
        self.mean, self.covariance = _moments(original)
        values, vectors = np.linalg.eigh(self.covariance)
        self.root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def distance(self, decoded: Features) -> float:
        """0 for the same set; depends on the number of vectors.  ValueError for another width."""
        mean, covariance = _moments(decoded)
        if mean.shape != self.mean.shape:
            raise ValueError(f"features have {len(self.mean)} and {len(mean)} dimensions")
        # C^(1/2) C_hat C^(1/2) has the eigenvalues of C C_hat and is symmetric
        shared = np.linalg.eigvalsh(self.root @ covariance @ self.root)
        cross = np.sqrt(np.maximum(shared, 0)).sum()
        spread = np.trace(self.covariance) + np.trace(covariance) - 2 * cross
        return float(np.square(mean - self.mean).sum() + spread)


class KernelDistance:
    """KID of many sets from one: unbiased squared MMD with the kernel (x.y / d + 1)^3.

    Binkowski et al. 2018, section 4; over all vectors at once instead of a mean over random subsets, which
    has the same expectation.  Around 0, and possibly below it, for two sets from one distribution.
    """

    def __init__(self, original: Features) -> None:
        self.original = original
        self.within = _within(original)

    def distance(self, decoded: Features) -> float:
        """ValueError for under two vectors or another width."""
        if decoded.ndim != 2 or decoded.shape[1] != self.original.shape[1]:
            raise ValueError(f"cannot compare features of shapes {self.original.shape} and {decoded.shape}")
        across = _kernel_sum(self.original, decoded) / (len(self.original) * len(decoded))
        return self.within + _within(decoded) - 2 * across


def _within(x: Features) -> float:
    """Mean of the kernel over the pairs of different vectors of one set."""
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"need at least two feature vectors, got an array of shape {x.shape}")
    itself = (np.square(x.astype(np.float64)).sum(1) / x.shape[1] + 1) ** 3
    return (_kernel_sum(x, x) - float(itself.sum())) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Over all pairs, a block of rows at a time; products in the features' own precision, sums in float64."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        products = (x[start : start + BLOCK] @ y.T).astype(np.float64)
        total += float(((products / x.shape[1] + 1) ** 3).sum())
    return total


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"need at least two feature vectors, got an array of shape {features.shape}")
    wide = features.astype(np.float64)
    mean = wide.mean(0)
    centred = wide - mean
    return mean, centred.T @ centred / (len(wide) - 1)
