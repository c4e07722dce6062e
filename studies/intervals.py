"""Confidence intervals of means, for the tables of all studies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of a mean; NaN for one value."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
