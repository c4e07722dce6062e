"""In: sfumato.coder.  Out: it writes what FORMAT.md says, in the fewest bytes, and reads all of it back.

`Reference` and `reference_payload` are FORMAT.md, sections 4 and 5, in whole numbers of any length.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfumato import coder as coder_module
from sfumato.coder import Coder, Decoder, Encoder, Meter
from sfumato.errors import FormatError
from sfumato.scales import LOG_STEP, NUM_SCALES, SIGMA_MIN, SYMBOL_MAX, TOTAL, Tables

ROOT = Path(coder_module.__file__).parents[1]
TABLES = Tables.gaussian()
Call = tuple[NDArray[np.uint8], NDArray[np.int32]]


class Reference:
    """The range encoder of FORMAT.md, section 5."""

    def __init__(self) -> None:
        self.low, self.range, self.words = 0, 2**64 - 1, 0

    def encode(self, counts: list[int], number: int) -> None:
        scale = self.range >> 24
        self.low += scale * sum(counts[:number])
        self.range = scale * counts[number]
        if self.range < 2**32:
            self.low, self.range, self.words = self.low << 32, self.range << 32, self.words + 1

    def shortest(self) -> bytes:
        """By trial: for ever smaller units, the least multiple that is not below `low`."""
        full = 8 + 4 * self.words
        for bits in range(8 * full, -1, -1):
            point = -(-self.low >> bits) << bits
            if point < self.low + self.range:
                return point.to_bytes(full, "big").rstrip(b"\0")
        raise AssertionError("an interval holds a point")


def reference_payload(tables: Tables, calls: list[Call]) -> Reference:
    coder = Reference()
    for index, symbols in calls:
        pairs = list(zip(index.tolist(), symbols.tolist(), strict=True))
        for k, s in sorted(pairs, key=lambda pair: pair[0]):
            width = int(tables.widths[k])
            coder.encode(tables.level(k).tolist(), s + width if abs(s) <= width else 2 * width + 1)
        escapes = [(abs(s) - int(tables.widths[k]), s < 0) for k, s in pairs if abs(s) > tables.widths[k]]
        for v, _ in escapes:
            coder.encode([2 ** (23 - n) for n in range(19)] + [2**5], v.bit_length() - 1)
        for v, negative in escapes:
            n = v.bit_length() - 1
            coder.encode([2 ** (23 - n)] * 2 ** (n + 1), 2 * (v - 2**n) + negative)
    return coder


def encode(calls: list[Call], tables: Tables = TABLES) -> bytes:
    encoder = Encoder(tables)
    for index, symbols in calls:
        np.testing.assert_array_equal(encoder.code(index, symbols), symbols)
    return encoder.finish()


def measure(calls: list[Call]) -> float:
    meter = Meter(TABLES)
    for index, symbols in calls:
        np.testing.assert_array_equal(meter.code(index, symbols), symbols)
    return meter.bits


def assert_decodes(payload: bytes, calls: list[Call], tables: Tables = TABLES) -> None:
    decoder = Decoder(tables, payload)
    for index, symbols in calls:
        read = decoder.code(index, None)
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, symbols)


def gaussian(rng: np.random.Generator, size: int, levels: int = NUM_SCALES) -> Call:
    index = rng.integers(0, levels, size).astype(np.uint8)
    sigma = SIGMA_MIN * np.exp(LOG_STEP * index)
    return index, np.rint(rng.normal(size=size) * sigma).astype(np.int32)


@st.composite
def some_calls(draw: st.DrawFn) -> list[Call]:
    near, far = st.integers(-3, 3), st.integers(-2000, 2000)
    symbol = near | far | st.sampled_from([-SYMBOL_MAX, SYMBOL_MAX])
    pairs = st.lists(st.tuples(st.integers(0, NUM_SCALES - 1), symbol), max_size=8)
    calls = draw(st.lists(pairs, max_size=3))
    columns = (tuple(zip(*call, strict=True)) or ((), ()) for call in calls)
    return [(np.array(index, np.uint8), np.array(symbols, np.int32)) for index, symbols in columns]


@settings(max_examples=150)
@given(some_calls())
def test_payload_is_the_standard_s_and_comes_back(calls: list[Call]) -> None:
    # Uniform tables of 2**20 counts are too slow to sum, hence only bounded excesses go to the reference.
    payload = encode(calls)
    assert_decodes(payload, calls)
    if all(np.abs(symbols).max(initial=0) < 4096 for _, symbols in calls):
        assert payload == reference_payload(TABLES, calls).shortest()


def test_thousands_of_streams_are_shortest_and_come_back() -> None:
    rng = np.random.default_rng(1)
    waste = []
    for trial in range(3000):
        size = trial % 6 if trial % 50 else 400
        calls = [gaussian(rng, size, int(rng.integers(1, NUM_SCALES + 1)))]
        payload = encode(calls)
        assert payload == reference_payload(TABLES, calls).shortest()
        assert_decodes(payload, calls)
        waste.append(8 * len(payload) - measure(calls))
    assert max(waste) < 10
    assert np.mean(waste) < 5


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_a_stream_on_the_edge_of_a_carry_is_no_longer_than_its_shortest_point(filler: bytes) -> None:
    # Decoding bytes gives symbols whose interval contains these bytes.  A short prefix and then only zeros,
    # or only ones, lies on the border of two words, where the encoder cannot know yet whether it will carry.
    rng = np.random.default_rng(2)
    undecided = carried = 0
    for trial in range(1500):
        data = rng.bytes(1 + trial % 7) + filler * 12
        index = rng.integers(0, NUM_SCALES, rng.integers(1, 24)).astype(np.uint8)
        try:
            symbols = Decoder(TABLES, data).code(index)
        except FormatError:
            continue
        encoder = Encoder(TABLES)
        encoder.code(index, symbols)
        position, (lower, size) = encoder._queue.pos()
        undecided += lower + size >= 2**64
        payload = encoder.finish()
        bulk = encoder._queue.get_compressed()[:position].astype(">u4").tobytes()
        carried += payload[: len(bulk)].ljust(len(bulk), b"\0") != bulk
        assert len(payload) <= len(data.rstrip(b"\0"))
        assert payload == reference_payload(TABLES, [(index, symbols)]).shortest()
        assert_decodes(payload, [(index, symbols)])
    assert undecided > 50
    assert carried > 50


def test_nothing_costs_nothing() -> None:
    empty = (np.zeros(0, np.uint8), np.zeros(0, np.int32))
    for calls in ([], [empty], [empty, empty]):
        assert encode(calls) == b""
        assert measure(calls) == 0
        assert_decodes(b"", calls)


def test_near_certain_symbols_cost_next_to_nothing() -> None:
    calls = [(np.zeros(100_000, np.uint8), np.zeros(100_000, np.int32))]
    payload = encode(calls)
    assert_decodes(payload, calls)
    assert len(payload) <= 2


@pytest.mark.parametrize("levels", [8, 30, 64])
def test_meter_agrees_with_the_bytes(levels: int) -> None:
    rng = np.random.default_rng(levels)
    calls = [gaussian(rng, 30_000, levels) for _ in range(5)]
    payload = encode(calls)
    assert_decodes(payload, calls)
    assert abs(len(payload) - measure(calls) / 8) <= 0.001 * len(payload) + 2


def test_escapes_at_every_level() -> None:
    index = np.repeat(np.arange(NUM_SCALES, dtype=np.uint8), 10)
    width = np.repeat(TABLES.widths, 10)
    symbols = np.tile([-1, 1], index.size // 2) * (width + np.tile([0, 1, 2, 3, 9], index.size // 5))
    symbols[::30], symbols[1::30] = -SYMBOL_MAX, SYMBOL_MAX
    order = np.random.default_rng(3).permutation(index.size)
    calls = [(index[order], symbols[order].astype(np.int32)), (index, symbols.astype(np.int32))]
    payload = encode(calls)
    assert_decodes(payload, calls)
    assert -8 <= 8 * len(payload) - measure(calls) < 10


def test_finish_may_be_called_twice_and_in_between() -> None:
    rng = np.random.default_rng(4)
    first, second = gaussian(rng, 100), gaussian(rng, 100)
    encoder = Encoder(TABLES)
    encoder.code(*first)
    assert encoder.finish() == encoder.finish() == encode([first])
    encoder.code(*second)
    assert encoder.finish() == encode([first, second])


def test_range_coder_uses_the_counts_as_they_are() -> None:
    for level in range(NUM_SCALES):
        counts = TABLES.level(level)
        model = coder_module._models(TABLES)[level]
        for number, start in enumerate(np.cumsum(counts) - counts):
            encoder = coder_module._queue.RangeEncoder()
            encoder.encode(np.array([number], np.int32), model)
            scale = (2**64 - 1) >> 24
            assert encoder.pos() == (0, (scale * int(start), scale * int(counts[number])))


U8, I32 = np.uint8, np.int32


@pytest.mark.parametrize("coder", [Encoder(TABLES), Meter(TABLES)], ids=["Encoder", "Meter"])
@pytest.mark.parametrize(
    ("index", "symbols", "message"),
    [
        (np.zeros(2, U8), None, "symbols is None"),
        (np.zeros(2, U8), np.zeros(3, I32), r"int32 \[2\] as index is, got int32 \[3\]"),
        (np.zeros(2, U8), np.zeros(2, np.int64), "got int64"),
        (np.zeros(2, U8), np.array([0, SYMBOL_MAX + 1], I32), "symbol 1048577"),
        (np.zeros(2, U8), np.array([0, -(2**31)], I32), "symbol -2147483648"),
        (np.full(2, 64, U8), np.zeros(2, I32), "index holds 64"),
        (np.zeros((1, 2), U8), np.zeros((1, 2), I32), r"index must be uint8 \[n\], got uint8 \[1, 2\]"),
        (np.zeros(2, I32), np.zeros(2, I32), "index must be uint8.*int32"),
    ],
)
def test_malformed_arguments(
    coder: Coder, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        coder.code(index, symbols)
    assert encode([]) == (coder.finish() if isinstance(coder, Encoder) else b"")


def test_decoder_checks_its_index_too() -> None:
    with pytest.raises(ValueError, match="index holds 200"):
        Decoder(TABLES, b"").code(np.full(3, 200, np.uint8))


@settings(max_examples=200)
@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_any_bytes_decode_or_are_a_format_error(data: bytes, seed: int) -> None:
    decoder = Decoder(TABLES, data)
    try:
        for _ in range(3):
            index, _ = gaussian(np.random.default_rng(seed), 60)
            symbols = decoder.code(index)
            assert np.abs(symbols).max() <= SYMBOL_MAX
    except FormatError:
        pass


def test_bytes_that_no_encoder_writes() -> None:
    with pytest.raises(FormatError, match="point that belongs to no symbol"):
        Decoder(TABLES, b"\xff" * 16).code(np.zeros(5, np.uint8))
    width = int(TABLES.widths[63])
    far = Reference()
    far.encode(TABLES.level(63).tolist(), 2 * width + 1)
    far.encode([2 ** (23 - n) for n in range(19)] + [2**5], 19)
    far.low += far.range - 1
    far.range = 1
    with pytest.raises(FormatError, match=f"magnitude {width + 2**20 - 1}, the limit is {SYMBOL_MAX}"):
        Decoder(TABLES, far.shortest()).code(np.array([63], np.uint8))


def test_example_in_the_standard() -> None:
    text = (ROOT / "FORMAT.md").read_text(encoding="utf-8")
    found = re.search(r"the counts ([\d, ]+)\. Two calls:\n\n((?: {4}index.*\n)+)", text)
    payload = re.search(r"    payload  ([0-9a-f ]+)\n", text)
    assert found and payload
    counts = np.array([int(count) for count in found[1].split(",")], np.int32)
    assert counts.sum() == TOTAL
    tables = Tables(np.tile(counts, NUM_SCALES), np.ones(NUM_SCALES, np.int32))
    lines = re.findall(r"index +([\d ]+?) +symbols +([-\d ]+)", found[2])
    calls = [(np.array(i.split(), np.uint8), np.array(s.split(), np.int32)) for i, s in lines]
    assert len(calls) == 2
    data = bytes.fromhex(payload[1])
    assert data == encode(calls, tables) == reference_payload(tables, calls).shortest()
    assert_decodes(data, calls, tables)


def test_bytes_half_imports_no_torch() -> None:
    names = "errors, scales, coder, container"
    script = f"import sys; from sfumato import {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
