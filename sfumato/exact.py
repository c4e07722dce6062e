"""The entropy model's layers in exact arithmetic: named integers in, the same bits on every machine out.

Floats differ between machines because sums are rounded after every addition and the order of the additions
is not fixed.  Three rules (FORMAT.md, section 7) take away every such choice:

1. Sums run over integers.  What enters a convolution, a linear layer, a norm or an attention is rounded to
   16-bit fixed point, weights are 16-bit integers, and all are held in float64.  No partial sum reaches
   2^53, so each is exact, whatever the order, the threads, the instructions or the library.
2. Everything else works element by element, with single IEEE 754 operations (+ - * /, comparison, rounding),
   which are defined to the last bit.
3. A root is that of an integer, rounded down and checked.  exp is a table of integers, made with big ones.

`from_arrays` makes a tree of layers for `autoregressive`, and refuses whatever it has no exact form of.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import HostError

F64: TypeAlias = NDArray[np.float64]

BITS = 15
"""Magnitude bits of activations and weights; the sign is the sixteenth."""
MAX_EXACT_INT = 2.0**53
"""Integers below this are exact in float64."""
PARAMETER_UNIT = 2.0**-24
"""Biases, norms' factors and curves are multiples of this, as all fp16 numbers are."""
TABLE_UNIT = 2.0**-12
"""1 in the table of the Laplacian bias is so many."""
EXP_STEP = 1 / 256
"""Step of the exp table, in nats."""
EXP_CHECK = 0x4ABF114A
"""CRC-32 of the exp table as little-endian int32."""
DECIMAL = Context(
    prec=60,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
"""The decimal arithmetic of the tables, whatever context the host program has set."""
OUTSIDE = -1e4
"""Logit of keys beyond the border: finite, so that an empty window has no NaN."""
STRIP = 1 << 22
"""Largest number of values that a convolution lays out for one matrix product; bounds memory."""


class FixedPointLayer:
    """What the layers with sums share: how many bits their input has after the point."""

    def __init__(self, fraction: int) -> None:
        self.scale = 2.0**fraction

    def to_fixed(self, x: F64) -> F64:
        """x in units of 2^-fraction: integers in float64, saturated at 16 bits; a new array."""
        v = x * self.scale
        np.rint(v, out=v)
        np.minimum(v, 2.0**BITS - 1, out=v)
        return np.maximum(v, 1 - 2.0**BITS, out=v)


class Linear(FixedPointLayer):
    """[..., inputs] -> [..., outputs].

    weight    int16 [outputs, inputs], in units of 2^-exponent
    exponent  int8
    bias      int64 [outputs] in units of 2^-24, or None
    fraction  int8, bits after the point of the input
    """

    def __init__(
        self, weight: NDArray, exponent: NDArray, fraction: NDArray, bias: NDArray | None = None
    ) -> None:
        super().__init__(int(fraction))
        self.matrix: F64 = weight.reshape(len(weight), -1).astype(np.float64)
        largest = float(np.abs(self.matrix).sum(1).max()) * 2.0**BITS
        if largest >= MAX_EXACT_INT:
            raise ValueError(f"a sum may reach {largest:.3g}, beyond {MAX_EXACT_INT:.3g}: too many inputs")
        self.bias = None if bias is None else bias * PARAMETER_UNIT
        self.unit = 1 / (self.scale * 2.0 ** int(exponent))  # of a power of two: exact

    def __call__(self, x: F64) -> F64:
        y = self.to_fixed(x) @ self.matrix.T
        y *= self.unit
        if self.bias is not None:
            y += self.bias
        return y


class Convolution(Linear):
    """[B, C, H, W] -> [B, O, H, W] with stride 1 and zero padding to equal size; weight [O, C, k, k]."""

    def __init__(
        self, weight: NDArray, exponent: NDArray, fraction: NDArray, bias: NDArray | None = None
    ) -> None:
        super().__init__(weight, exponent, fraction, bias)
        _, _, self.kernel, other = weight.shape
        if self.kernel != other or self.kernel % 2 == 0:
            raise ValueError(f"no exact form of a kernel of {self.kernel}x{other}: need an odd square")

    def __call__(self, x: F64) -> F64:
        v = self.to_fixed(x)
        batch, channels, height, width = v.shape
        if self.kernel == 1:
            y = (self.matrix @ v.reshape(batch, channels, -1)).reshape(batch, -1, height, width)
        else:
            half = self.kernel // 2
            v = np.pad(v, ((0, 0), (0, 0), (half, half), (half, half)))
            rows = max(1, STRIP // (batch * self.matrix.shape[1] * width))
            y = np.empty((batch, len(self.matrix), height, width))
            for top in range(0, height, rows):
                strip = v[:, :, top : min(top + rows, height) + 2 * half]
                seen = np.lib.stride_tricks.sliding_window_view(strip, (self.kernel, self.kernel), (2, 3))
                columns = seen.transpose(0, 1, 4, 5, 2, 3).reshape(batch, self.matrix.shape[1], -1)
                sums = self.matrix @ columns
                y[:, :, top : top + rows] = sums.reshape(batch, len(sums[0]), -1, width)
        y *= self.unit
        if self.bias is not None:
            y += self.bias[:, None, None]
        return y


class LayerNorm(FixedPointLayer):
    """Layer norm over the last axis, from the exact sums of v and v^2.

    weight, bias  int64 [n] in units of 2^-24
    eps           int64, max(1, round(eps n^2 4^fraction))
    fraction      int8
    """

    def __init__(self, weight: NDArray, bias: NDArray, eps: NDArray, fraction: NDArray) -> None:
        super().__init__(int(fraction))
        n = len(weight)
        if 32 * n * n * 4.0**BITS >= MAX_EXACT_INT:
            raise ValueError(f"{n} channels: the sum of their squares may pass {MAX_EXACT_INT / 32:.3g}")
        self.weight, self.bias = weight * PARAMETER_UNIT, bias * PARAMETER_UNIT
        self.eps = float(eps)

    def __call__(self, x: F64) -> F64:
        v = self.to_fixed(x)
        n = v.shape[-1]
        total = v.sum(-1, keepdims=True)
        spread = n * (v * v).sum(-1, keepdims=True) - total * total  # n^2 times the variance
        deviation = floor_root(16 * (spread + self.eps)) * 0.25  # two more bits
        v *= n
        v -= total
        v /= deviation
        v *= self.weight
        v += self.bias
        return v


class DotProduct(FixedPointLayer):
    """softmax(q k^T / sqrt(d) + bias) v: integer logits, exp by table, one division a value.

    q, k, v [B, windows, heads, cells, d]; bias [cells, cells]; visible bool [windows, cells], of the keys.
    """

    def __init__(self, fraction: NDArray, heads: NDArray) -> None:
        super().__init__(int(fraction))
        self.heads = int(heads)
        self.exp = np.array(exp_table(), np.float64)

    def __call__(self, q: F64, k: F64, v: F64, bias: F64, visible: NDArray[np.bool_]) -> F64:
        logits = self.to_fixed(q) @ self.to_fixed(k).swapaxes(-1, -2)
        logits *= 1 / (self.scale * self.scale)
        logits *= 1 / math.sqrt(q.shape[-1])
        logits += bias
        np.copyto(logits, OUTSIDE, where=~visible[:, None, None, :])
        below = (logits.max(-1, keepdims=True) - logits) * (1 / EXP_STEP)
        np.rint(below, out=below)
        np.minimum(below, len(self.exp) - 1, out=below)
        weights = self.exp[below.astype(np.int32)]
        mixed: F64 = weights @ self.to_fixed(v)
        mixed /= weights.sum(-1, keepdims=True)
        mixed *= 1 / self.scale
        return mixed


class PositionBias:
    """The position bias of a window, [cells, cells].

    table  int32 [2 window - 1], by distance, in units of 2^-12; an 8x8 window has 15 distances
    """

    def __init__(self, table: NDArray) -> None:
        window = (table.size + 1) // 2
        if table.shape != (2 * window - 1,) or window % 4:
            raise ValueError(f"table has the shape {table.shape}, not (2 window - 1,) of a multiple of 4")
        self.bias: F64 = (table * TABLE_UNIT)[window_distances(window)]

    def __call__(self) -> F64:
        return self.bias


class QualityEmbedding:
    """A vector that follows q: q in [0, 1] -> [1, C, 1, 1], linear between evenly spaced rows.

    embedding  int64 [knots, C] in units of 2^-24
    """

    def __init__(self, embedding: NDArray) -> None:
        self.embedding: F64 = embedding * PARAMETER_UNIT

    def __call__(self, q: float) -> F64:
        last = len(self.embedding) - 1
        position = min(max(q, 0.0), 1.0) * last
        below = min(int(position), last - 1)
        part = position - below
        value: F64 = self.embedding[below] * (1 - part) + self.embedding[below + 1] * part
        return value[None, :, None, None]


KINDS: dict[frozenset[str], type] = {
    frozenset({"weight", "exponent", "fraction"}): Linear,
    frozenset({"weight", "exponent", "fraction", "bias"}): Linear,
    frozenset({"weight", "bias", "eps", "fraction"}): LayerNorm,
    frozenset({"fraction", "heads"}): DotProduct,
    frozenset({"table"}): PositionBias,
    frozenset({"embedding"}): QualityEmbedding,
}
"""What a layer is, by the names of its arrays."""


class Tree:
    """Layers by name: attributes, and the children of a list by number."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"the entropy model has no layer {self._name}{name}")

    def __getitem__(self, number: int) -> Any:
        return getattr(self, str(number))

    def __len__(self) -> int:
        return sum(name.isdecimal() for name in vars(self))

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))


def from_arrays(arrays: Mapping[str, NDArray]) -> Tree:
    """The layers from their arrays, `name.of.layer.kind` -> integers; the order does not matter.

    ValueError, naming it, for a layer that has no exact form here, or whose sums could leave the integers.
    """
    layers: dict[str, dict[str, NDArray]] = {}
    for key, array in arrays.items():
        layer, _, part = key.rpartition(".")
        if array.dtype.kind != "i":
            raise ValueError(f"{key} is {array.dtype}, not an array of integers")
        layers.setdefault(layer, {})[part] = array
    root = Tree("")
    for layer, parts in layers.items():
        kind = KINDS.get(frozenset(parts))
        if kind is None:
            raise ValueError(f"no exact form of layer {layer} with {', '.join(sorted(parts))}")
        if kind is Linear and parts["weight"].ndim == 4:
            kind = Convolution
        *parents, name = layer.split(".")
        at, path = root, ""
        for parent in parents:
            path += f"{parent}."
            at = at.__dict__.setdefault(parent, Tree(path))
        try:
            setattr(at, name, kind(**parts))
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
    return root


def window_distances(window: int = 8) -> NDArray[np.intp]:
    """|dx| + |dy| between the non-anchors of a window, in latents, in packed row-major order."""
    row, column = window_cells(window)
    return np.abs(row[:, None] - row) + np.abs(column[:, None] - column)


def window_cells(window: int = 8) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the non-anchors of a window, in packed row-major order."""
    row = np.repeat(np.arange(window), window // 2)
    # row + column is odd at a non-anchor: even rows begin with column 1, odd rows with column 0
    return row, 2 * np.tile(np.arange(window // 2), window) + (row + 1) % 2


def floor_root(x: F64) -> F64:
    """floor(sqrt(x)) of integers 0 .. 2^52, whatever the last bit of the machine's own root is."""
    root = np.floor(np.sqrt(x))
    root -= root * root > x
    root += (root + 1) * (root + 1) <= x
    return root


@lru_cache(maxsize=1)
def exp_table() -> tuple[int, ...]:
    """round(2^15 exp(-i / 256)) for i = 0, 1, ... until it is 0, by products of 128-bit integers.

    HostError if they do not come out as they must: no file would be read anywhere else.
    """
    with localcontext(DECIMAL):
        factor = int((Decimal(-EXP_STEP).exp() * (1 << 128)).to_integral_value())
    value, out = 1 << BITS + 128, [1 << BITS]
    while out[-1]:
        value = value * factor >> 128
        out.append((value + (1 << 127)) >> 128)
    found = zlib.crc32(np.array(out, "<i4").tobytes())
    if found != EXP_CHECK:
        raise HostError(
            f"the table of exp has the check {found:08x}, not {EXP_CHECK:08x}: this machine's "
            "decimal arithmetic is not that of Python's standard library"
        )
    return tuple(out)
