"""In: scale levels and symbols.  Out: the integer counts that the range coder uses, and their cost in bits.

Zero-mean distributions on the integers at 64 standard deviations, evenly spaced in the logarithm (the scale
table of Balle et al. 2018, "Variational image compression with a scale hyperprior"): Gaussians, or what
`training.tables` has counted.  The counts are computed once and travel with the weights: erf and exp differ
between machines, integers do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NUM_SCALES = 64
SIGMA_MIN = 0.11
SIGMA_MAX = 128.0
LOG_STEP = math.log(SIGMA_MAX / SIGMA_MIN) / (NUM_SCALES - 1)

PRECISION = 24
"""Bits of a probability: the counts of a level add up to 2**PRECISION."""
TOTAL = 1 << PRECISION
SYMBOL_MAX = 1 << 20
"""Largest magnitude of a symbol."""
CLASSES = 20
"""Classes of an escape's excess: floor(log2(excess)) is below this."""

# The escape stands for the tail beyond W, and is never rarer than this.  At 2**-16 it costs 2e-5 bits a
# symbol where the Gaussian is exact (6 bits for 300,000), and an outlier costs 16 bits and a few, not 24.
_ESCAPE_MASS = 2.0**-16


def sigma(level: int) -> float:
    """Standard deviation of a level in 0..63, in units of the quantiser's step: 0.11 .. 128."""
    if not 0 <= level < NUM_SCALES:
        raise ValueError(f"level {level} is not in 0..{NUM_SCALES - 1}")
    return SIGMA_MIN * math.exp(LOG_STEP * level)


def excess_class(excess: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(log2(excess)) for excesses of at least 1; same shape.  Exact: frexp gives the exponent itself."""
    return np.frexp(excess.astype(np.float64))[1].astype(np.int64) - 1


@dataclass(frozen=True, eq=False)
class Tables:
    """Integer probabilities of the 64 levels, complete and checked on construction.

    Level k has the alphabet -W_k .. W_k and an escape: 2 W_k + 2 counts, each at least 1, with sum 2**24.

    counts  int32 [sum over k of (2 W_k + 2)], level after level, within a level -W_k .. W_k, then the escape
    widths  int32 [64], W_k, 1 .. 2**20

    Raises ValueError naming what is wrong with the arrays.  Both are copied and made read-only.
    """

    counts: NDArray[np.int32]
    widths: NDArray[np.int32]
    starts: NDArray[np.int64] = field(init=False, repr=False)
    """int64 [65]: level k is counts[starts[k] : starts[k + 1]]."""
    _costs: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = _int32("counts", self.counts)
        widths = _int32("widths", self.widths)
        if widths.shape != (NUM_SCALES,):
            raise ValueError(f"widths has {widths.size} values, not {NUM_SCALES}")
        bad = np.flatnonzero((widths < 1) | (widths > SYMBOL_MAX))
        if bad.size:
            raise ValueError(f"width of level {bad[0]} is {widths[bad[0]]}, not in 1..{SYMBOL_MAX}")
        starts = np.concatenate([[0], np.cumsum(2 * widths.astype(np.int64) + 2)])
        if counts.size != starts[-1]:
            raise ValueError(f"counts has {counts.size} values; the widths ask for {starts[-1]}")
        bad = np.flatnonzero(counts < 1)
        if bad.size:
            raise ValueError(f"count {bad[0]} is {counts[bad[0]]}, not at least 1")
        sums = np.add.reduceat(counts.astype(np.int64), starts[:-1])
        bad = np.flatnonzero(sums != TOTAL)
        if bad.size:
            raise ValueError(f"counts of level {bad[0]} add up to {sums[bad[0]]}, not {TOTAL}")
        costs = PRECISION - np.log2(counts.astype(np.float64))
        for name, array in (("counts", counts), ("widths", widths), ("starts", starts), ("_costs", costs)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def gaussian(cls) -> Tables:
        """What models are trained with: masses of N(0, sigma(k)**2) on [s - 1/2, s + 1/2], rounded to counts.

        To be called when weights are exported, and never while coding.
        """
        return cls.symmetric([_gaussian_tail(sigma(level)) for level in range(NUM_SCALES)])

    @classmethod
    def symmetric(cls, tails: Sequence[Sequence[float]]) -> Tables:
        """Tables of 64 symmetric distributions, each given by its mass beyond +-(s + 1/2), s = 0, 1, ...

        Each falls from s to s + 1, and comes to 2**-16 or ends; what lies beyond is left to the escape.
        """
        levels = [_counts(tail) for tail in tails]
        widths = np.array([counts.size // 2 - 1 for counts in levels], np.int32)
        return cls(np.concatenate(levels), widths)

    @classmethod
    def from_arrays(cls, counts: NDArray[np.int32], widths: NDArray[np.int32]) -> Tables:
        """Tables from what `arrays` returned; ValueError if the arrays are malformed."""
        return cls(counts, widths)

    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """`counts` and `widths`, to be stored beside the weights; from_arrays(**arrays()) is the inverse."""
        return {"counts": self.counts, "widths": self.widths}

    def level(self, level: int) -> NDArray[np.int32]:
        """Counts of one level, int32 [2 W + 2]: -W .. W, then the escape."""
        return self.counts[self.starts[level] : self.starts[level + 1]]

    def bits(self, index: NDArray[np.uint8], symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal cost of each symbol in bits, with the whole of an escape; float64 [n].

        index [n] is 0..63 and |symbols| [n] at most 2**20; neither is checked here.
        """
        width = self.widths[index].astype(np.int64)
        excess = np.abs(symbols.astype(np.int64)) - width
        number = np.where(excess > 0, 2 * width + 1, symbols + width)
        cost = self._costs[self.starts[index] + number]
        escaped = excess > 0
        if escaped.any():
            n = excess_class(excess[escaped])
            # The last class takes the probability of all that would follow, hence one bit less.
            cost[escaped] += np.minimum(n + 1, CLASSES - 1) + n + 1
        return cost


def _int32(name: str, array: NDArray[np.int32]) -> NDArray[np.int32]:
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype != np.int32:
        raise ValueError(f"{name} must be int32 [n], got {array.dtype} {list(array.shape)}")
    return array.astype(np.int32)


def _gaussian_tail(sigma: float) -> list[float]:
    unit = 1 / (sigma * math.sqrt(2))
    tail = [math.erfc(0.5 * unit)]
    while len(tail) < 2 or tail[-1] > _ESCAPE_MASS:
        tail.append(math.erfc((len(tail) + 0.5) * unit))
    return tail


def _counts(tail: Sequence[float]) -> NDArray[np.int32]:
    """`tail[s]` is the mass beyond +-(s + 1/2), both sides: differences of erfc keep their digits far out."""
    end = next((s for s, mass in enumerate(tail) if s and mass <= _ESCAPE_MASS), len(tail) - 1)
    escape = max(round(TOTAL * tail[end]), round(TOTAL * _ESCAPE_MASS))
    sides = [max(1, round((TOTAL - escape) * (tail[s - 1] - tail[s]) / 2)) for s in range(1, end + 1)]
    # The centre is the largest count, so it takes what rounding left over at the least relative error.
    centre = TOTAL - escape - 2 * sum(sides)
    return np.array([*reversed(sides), centre, *sides, escape], np.int32)
