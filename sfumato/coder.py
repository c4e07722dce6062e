"""In: scale indexes and symbols.  Out: bytes; or the symbols back from bytes; or only their cost in bits.

The three coders have one method, so that one pass over the latent serves writing, reading and rate:

    pass --- code(index, symbols) ---> Encoder  writes the symbols and returns them
                                       Decoder  ignores them and returns what it reads
                                       Meter    adds up their ideal cost and returns them

The range coder is constriction's (a queue: first in, first out).  The standard is FORMAT.md, sections 4, 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from sfumato.errors import FormatError
from sfumato.scales import CLASSES, NUM_SCALES, PRECISION, SYMBOL_MAX, Tables, excess_class

_model = constriction.stream.model
_queue = constriction.stream.queue
_WORD = 32


class Coder(Protocol):
    """What the pass needs to know of a coder."""

    def code(self, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Codes one list of symbols.

        index    uint8 [n], scale level of each symbol, 0..63
        symbols  int32 [n], magnitude at most 2**20; a Decoder takes None
        returns  int32 [n], the symbols

        ValueError for arguments that break this; FormatError (Decoder only) for bytes that do.
        """
        ...


class Encoder:
    """Writes symbols: any number of `code`, then `finish`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._models = _models(tables)
        self._queue = _queue.RangeEncoder()

    def code(self, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Writes the symbols and returns them; see `Coder.code`.  After a ValueError nothing was written."""
        _check_index(index)
        symbols = _check_symbols(index, symbols)
        width = self._tables.widths[index]
        excess = np.abs(symbols) - width
        number = np.where(excess > 0, 2 * width + 1, symbols + width)
        order, groups = _by_level(index)
        number = number[order]
        for level, part in groups:
            self._queue.encode(number[part], self._models[level])
        escaped = np.flatnonzero(excess > 0)
        if escaped.size:
            v = excess[escaped].astype(np.int64)
            n = excess_class(v)
            rest = 2 * (v - (1 << n)) + (symbols[escaped] < 0)
            self._queue.encode(n.astype(np.int32), _CLASS)
            self._queue.encode(rest.astype(np.int32), _UNIFORM, (2 << n).astype(np.int32))
        return symbols

    def finish(self) -> bytes:
        """The payload: the shortest bytes that decode to all that was written.  Empty for nothing."""
        return _payload(self._queue)


class Decoder:
    """Reads symbols back, with the same calls and indexes as they were written."""

    def __init__(self, tables: Tables, data: bytes) -> None:
        self._tables = tables
        self._models = _models(tables)
        # Past the last word constriction reads zeros, as the format asks.
        padded = data + bytes(-len(data) % 4)
        self._queue = _queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
        self._data = data
        self._again = _queue.RangeEncoder()  # writes what is read, to tell where it ends

    def code(self, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """Reads and returns the symbols; ignores those given.  See `Coder.code`.

        Most damaged bytes decode to wrong symbols without an error, so the section's check must be compared.
        """
        _check_index(index)
        order, groups = _by_level(index)
        number = np.empty(index.size, np.int32)
        for level, part in groups:
            found = self._read(self._models[level], part.stop - part.start)
            self._again.encode(found, self._models[level])
            number[order[part]] = found
        width = self._tables.widths[index]
        symbols = number - width
        escaped = np.flatnonzero(symbols > width)
        if escaped.size:
            n = self._read(_CLASS, escaped.size)
            rest = self._read(_UNIFORM, 2 << n)
            self._again.encode(n, _CLASS)
            self._again.encode(rest, _UNIFORM, 2 << n)
            magnitude = width[escaped] + (1 << n) + (rest >> 1)
            if magnitude.max() > SYMBOL_MAX:
                raise FormatError(f"symbol of magnitude {magnitude.max()}, the limit is {SYMBOL_MAX}")
            symbols[escaped] = np.where(rest & 1, -magnitude, magnitude)
        return symbols

    def finish(self) -> None:
        """FormatError unless the payload ends with what was read: bytes behind it, or other bytes for the
        same.
        """
        wanted = _payload(self._again)
        if wanted != self._data:
            sizes = f"{len(self._data)} bytes, its symbols take {len(wanted)}"
            raise FormatError(f"payload holds {sizes}: it does not end where they end")

    def _read(self, model: Any, amount: int | NDArray[np.int32]) -> NDArray[np.int32]:
        try:
            read: NDArray[np.int32] = self._queue.decode(model, amount)
        except AssertionError as error:
            # The few points that rounding the range down leaves to no symbol; only damage leads there.
            raise FormatError("payload holds a point that belongs to no symbol") from error
        return read


class Meter:
    """Adds up what an ideal range coder would write; finds the rate without making bytes."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.bits: float = 0.0
        """Bits so far, escapes included; a payload is at most 8 bits and a little longer."""

    def code(self, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Adds the cost of the symbols to `bits` and returns them; see `Coder.code`."""
        _check_index(index)
        symbols = _check_symbols(index, symbols)
        self.bits += float(self._tables.bits(index, symbols).sum())
        return symbols


def _payload(queue: Any) -> bytes:
    """The shortest bytes that decode to all that a range encoder took; empty for nothing."""
    words: NDArray[np.uint32] = queue.get_compressed()
    position: int
    lower: int
    size: int
    position, (lower, size) = queue.pos()
    if not words.size:
        return b""
    # constriction ends at lower + 2**32 - 1 and, where that passes 2**64, has carried into the words
    # before `position`.  Taking the carry back gives the interval as one long integer.
    head = int.from_bytes(words[:position].astype(">u4").tobytes(), "big")
    head -= (lower + (1 << _WORD) - 1) >> (2 * _WORD)
    low = (head << (2 * _WORD)) + lower
    if low == 0:
        return b""
    # low - 1 and top agree above bit b and differ in it, so exactly one multiple of 2**b lies in
    # [low, top], and none of 2**(b + 1).
    top = low + size - 1
    b = ((low - 1) ^ top).bit_length() - 1
    point = (top >> b) << b
    return point.to_bytes(4 * position + 8, "big").rstrip(b"\0")


def _categorical(counts: NDArray[np.int32]) -> Any:
    # constriction starts number i of n at floor((p_0 + .. + p_{i-1}) * (2**24 - n) / sum(p)) + i.  With
    # p = counts - 1 the factor is exactly 1 and each sum an integer in float64: our counts are used as is.
    return _model.Categorical(counts.astype(np.float64) - 1, perfect=False)


@lru_cache(maxsize=2)
def _models(tables: Tables) -> tuple[Any, ...]:
    return tuple(_categorical(tables.level(level)) for level in range(NUM_SCALES))


_CLASS = _categorical(1 << (PRECISION - 1 - np.minimum(np.arange(CLASSES, dtype=np.int32), CLASSES - 2)))
_UNIFORM = _model.Uniform()


def _by_level(index: NDArray[np.uint8]) -> tuple[NDArray[np.intp], Iterator[tuple[int, slice]]]:
    """The stable order by level, and (level, its slice of that order) for the levels present."""
    ends = np.cumsum(np.bincount(index, minlength=NUM_SCALES)).tolist()
    groups = ((k, slice(a, b)) for k, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if b > a)
    return np.argsort(index, kind="stable"), groups


def _check_index(index: NDArray[np.uint8]) -> None:
    if index.ndim != 1 or index.dtype != np.uint8:
        raise ValueError(f"index must be uint8 [n], got {index.dtype} {list(index.shape)}")
    if index.size and index.max() >= NUM_SCALES:
        raise ValueError(f"index holds {index.max()}, not in 0..{NUM_SCALES - 1}")


def _check_symbols(index: NDArray[np.uint8], symbols: NDArray[np.int32] | None) -> NDArray[np.int32]:
    if symbols is None:
        raise ValueError("symbols is None; only a Decoder can do without")
    if symbols.dtype != np.int32 or symbols.shape != index.shape:
        wanted, got = f"int32 {list(index.shape)}", f"{symbols.dtype} {list(symbols.shape)}"
        raise ValueError(f"symbols must be {wanted} as index is, got {got}")
    for extreme in (symbols.min(), symbols.max()) if symbols.size else ():
        if not -SYMBOL_MAX <= extreme <= SYMBOL_MAX:
            raise ValueError(f"symbol {extreme} is beyond +-{SYMBOL_MAX}")
    return symbols
