"""In: sfumato.scales.  Out: its tables are exact, complete, checked, and cost what they should."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato import scales
from sfumato.scales import NUM_SCALES, TOTAL, Tables

TABLES = Tables.gaussian()
LEVEL = pytest.mark.parametrize("level", [0, 1, 7, 20, 41, 62, 63])


def masses(level: int) -> tuple[NDArray[np.float64], float]:
    """Exact masses of -W..W and of both tails."""
    width = int(TABLES.widths[level])
    cdf = NormalDist(0, scales.sigma(level)).cdf
    left = [cdf(s + 0.5) - cdf(s - 0.5) for s in range(-width, 1)]
    return np.array(left + left[-2::-1]), 2 * cdf(-width - 0.5)


def test_sigma_spans_the_range_in_equal_ratios() -> None:
    sigmas = np.array([scales.sigma(level) for level in range(NUM_SCALES)])
    assert sigmas[0] == scales.SIGMA_MIN
    assert math.isclose(sigmas[-1], scales.SIGMA_MAX)
    np.testing.assert_allclose(np.diff(np.log(sigmas)), scales.LOG_STEP)
    with pytest.raises(ValueError, match="level 64"):
        scales.sigma(64)


def test_counts_are_positive_symmetric_and_complete() -> None:
    for level in range(NUM_SCALES):
        counts, width = TABLES.level(level), TABLES.widths[level]
        assert counts.size == 2 * width + 2
        assert counts.min() >= 1
        assert counts.sum() == TOTAL
        np.testing.assert_array_equal(counts[:-1], counts[-2::-1])


@LEVEL
def test_counts_are_the_gaussian_masses(level: int) -> None:
    counts, width = TABLES.level(level), int(TABLES.widths[level])
    exact, tail = masses(level)
    wanted = exact * (TOTAL - counts[-1])
    wanted[width] += tail * (TOTAL - counts[-1])
    assert np.abs(counts[:-1] - wanted)[np.arange(2 * width + 1) != width].max() <= 1
    assert abs(counts[width] - wanted[width]) <= max(2, width)
    assert tail <= 2**-16
    assert max(256, int(tail * TOTAL)) <= counts[-1] <= max(256, math.ceil(tail * TOTAL))


@LEVEL
def test_tables_cost_next_to_nothing_on_a_gaussian(level: int) -> None:
    exact, tail = masses(level)
    cost = 24 - np.log2(TABLES.level(level)[:-1])
    excess = float((exact * (cost + np.log2(np.maximum(exact, 1e-300)))).sum())
    excess += tail * (24 - math.log2(TABLES.level(level)[-1]) + math.log2(max(tail, 1e-300)))
    assert -1e-12 < excess < 3e-5


def test_arrays_and_back() -> None:
    again = Tables.from_arrays(**TABLES.arrays())
    np.testing.assert_array_equal(again.counts, TABLES.counts)
    np.testing.assert_array_equal(again.widths, TABLES.widths)
    assert TABLES.counts.dtype == TABLES.widths.dtype == np.int32


def test_tables_do_not_change_when_their_source_does() -> None:
    source = TABLES.counts.copy()
    tables = Tables(source, TABLES.widths)
    source[:] = 0
    np.testing.assert_array_equal(tables.counts, TABLES.counts)
    with pytest.raises(ValueError, match="read-only"):
        tables.counts[0] = 1


def changed(name: str, position: int, value: int) -> dict[str, NDArray[np.int32]]:
    arrays = {key: array.copy() for key, array in TABLES.arrays().items()}
    arrays[name][position] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"counts": TABLES.counts, "widths": TABLES.widths[:-1]}, "widths has 63 values"),
        ({"counts": TABLES.counts[1:], "widths": TABLES.widths}, "counts has .* the widths ask for"),
        ({"counts": TABLES.counts[:0], "widths": TABLES.widths}, "counts has 0 values"),
        ({"counts": TABLES.counts.astype(np.int64), "widths": TABLES.widths}, "counts must be int32.*int64"),
        ({"counts": TABLES.counts, "widths": TABLES.widths[None]}, r"widths must be int32.*\[1, 64\]"),
        (changed("widths", 5, 0), "width of level 5 is 0"),
        (changed("widths", 63, 2**30), "width of level 63 is 1073741824"),
        (changed("widths", 63, -(2**31)), "width of level 63 is -2147483648"),
        (changed("counts", 2, 0), "count 2 is 0"),
        (changed("counts", 9, -4), "count 9 is -4"),
        (changed("counts", 1, 7), "level 0 add up to"),
        (changed("counts", -1, 2**31 - 1), "level 63 add up to 21"),
    ],
)
def test_malformed_arrays_are_refused_by_name(arrays: dict[str, NDArray[np.int32]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tables.from_arrays(**arrays)


def test_bits_of_a_symbol_and_of_an_escape() -> None:
    width = int(TABLES.widths[40])
    symbols = np.array([0, -width, width + 1, -(width + 2), width + 5, scales.SYMBOL_MAX], np.int32)
    counts = TABLES.level(40)
    bits = TABLES.bits(np.full(symbols.size, 40, np.uint8), symbols)
    escape = 24 - math.log2(counts[-1])
    plain = [24 - math.log2(counts[width]), 24 - math.log2(counts[0])]
    np.testing.assert_allclose(bits, [*plain, escape + 2, escape + 4, escape + 6, escape + 39])


def test_excess_class_is_the_floor_of_the_logarithm() -> None:
    for n in range(scales.CLASSES):
        edges = np.array([1 << n, (2 << n) - 1], np.int64)
        np.testing.assert_array_equal(scales.excess_class(edges), [n, n])
