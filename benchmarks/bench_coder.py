"""pytest benchmarks/bench_coder.py: symbols a second through the range coder (pytest-benchmark)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfumato.coder import Decoder, Encoder, Meter
from sfumato.scales import NUM_SCALES, Tables, sigma

COUNT = 300_000  # about the symbols of a 768 x 512 image with M = 192


@pytest.fixture(scope="module")
def symbols() -> tuple[Tables, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    index = rng.integers(0, NUM_SCALES // 2, COUNT).astype(np.uint8)
    spread = np.array([sigma(k) for k in range(NUM_SCALES)])[index]
    return Tables.gaussian(), index, np.round(rng.normal(0, spread)).astype(np.int32)


def encoded(tables: Tables, index: np.ndarray, values: np.ndarray) -> bytes:
    encoder = Encoder(tables)
    encoder.code(index, values)
    return encoder.finish()


def bench_encode(benchmark: Any, symbols: tuple[Tables, np.ndarray, np.ndarray]) -> None:
    benchmark(encoded, *symbols)


def bench_decode(benchmark: Any, symbols: tuple[Tables, np.ndarray, np.ndarray]) -> None:
    tables, index, values = symbols
    data = encoded(tables, index, values)
    decoded = benchmark(lambda: Decoder(tables, data).code(index))
    assert np.array_equal(decoded, values)


def bench_meter(benchmark: Any, symbols: tuple[Tables, np.ndarray, np.ndarray]) -> None:
    tables, index, values = symbols
    benchmark(lambda: Meter(tables).code(index, values))
