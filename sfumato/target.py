"""A picture and a goal in (so many bytes, so many decibels); the file that meets it out, with what it took.

    source -> Codec.transform -> latent -+-> encode at q -> bytes | PSNR | any distance --+
                                         +---------------- next q <-----------------------+

q is a byte in the file, so a goal is met by one of 256 files, whose sizes are about 1 % apart.  The analysis
runs once, and a walk is two thirds of an encode.  What is returned has always been tried: a size goal is
never exceeded and a quality goal never missed, also where size or quality does not rise steadily with q.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sfumato import DEFAULT_MODEL, image
from sfumato.codec import Codec, Latent, Progress, load

Picture = UInt8[np.ndarray, "h w 3"]

LAST = 255
BITS_PER_MAGNITUDE = 1.6
"""Bits of a file over `Codec.magnitude`, where a search begins; the first walk corrects it."""
DECIBELS_PER_STEP = 0.03
LOG_DISTANCE_PER_STEP = 0.009
PATIENCE = 6
"""Tries that follow the expected curve; after them the bracket is halved."""


class TargetError(ValueError):
    """A goal that no q meets; the message names what this picture can have."""


@dataclass(frozen=True)
class Fit:
    """The file that meets a goal."""

    data: bytes
    q: float  # 0 .. 1, a multiple of 1/255
    value: float  # what the goal is about: bytes, bits per pixel, decibels or the distance
    walks: int  # how many files were tried


class Goal(ABC):
    """What a file has to meet.  `fit` finds the best q, or raises TargetError."""

    @abstractmethod
    def fit(
        self, codec: Codec, source: image.Source, seed: int | None = None, progress: Progress | None = None
    ) -> Fit:
        """Sources, seed, progress and further errors are those of `Codec.encode`."""


@dataclass(frozen=True)
class Bytes(Goal):
    """The best file of at most `limit` bytes."""

    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"a target of {self.limit} bytes: need at least 1")

    def fit(
        self, codec: Codec, source: image.Source, seed: int | None = None, progress: Progress | None = None
    ) -> Fit:
        latent = codec.transform(source, progress)
        return _fit_bytes(codec, latent, self.limit, seed, progress, f"{self.limit} bytes")


@dataclass(frozen=True)
class Rate(Goal):
    """The best file of at most `bpp` bits per pixel, all bytes of the file counted."""

    bpp: float

    def __post_init__(self) -> None:
        if not 0 < self.bpp < math.inf:
            raise ValueError(f"a target of {self.bpp} bits per pixel: need more than 0")

    def fit(
        self, codec: Codec, source: image.Source, seed: int | None = None, progress: Progress | None = None
    ) -> Fit:
        latent = codec.transform(source, progress)
        pixels = latent.pixels.shape[0] * latent.pixels.shape[1]
        limit = math.floor(self.bpp * pixels / 8)
        name = f"{self.bpp:g} bits per pixel ({limit} bytes)"
        found = _fit_bytes(codec, latent, limit, seed, progress, name)
        return Fit(found.data, found.q, 8 * len(found.data) / pixels, found.walks)


@dataclass(frozen=True)
class PSNR(Goal):
    """The smallest file whose picture (steps = 0) has a PSNR of at least `floor` dB, over all RGB samples."""

    floor: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.floor):
            raise ValueError(f"a target of {self.floor} dB: need a finite number")

    def fit(
        self, codec: Codec, source: image.Source, seed: int | None = None, progress: Progress | None = None
    ) -> Fit:
        def height(value: float) -> float:
            return value - self.floor

        name, unit = f"a PSNR of {self.floor:g} dB", "dB"
        return _fit_quality(codec, source, psnr, height, DECIBELS_PER_STEP, seed, progress, name, unit)


@dataclass(frozen=True)
class Distance(Goal):
    """The smallest file whose picture (steps = 0) is at most `ceiling` away from the original.

    `function(original, decoded)` takes two pictures uint8 [H, W, 3] and falls towards 0 as they come closer:
    LPIPS or any other.  It is the caller's, as no metric's weights are in this package.
    """

    ceiling: float
    function: Callable[[Picture, Picture], float]

    def __post_init__(self) -> None:
        if not 0 < self.ceiling < math.inf:
            raise ValueError(f"a target distance of {self.ceiling}: need more than 0")

    def fit(
        self, codec: Codec, source: image.Source, seed: int | None = None, progress: Progress | None = None
    ) -> Fit:
        def height(value: float) -> float:
            return math.log(self.ceiling / max(value, 1e-9 * self.ceiling))

        step, name = LOG_DISTANCE_PER_STEP, f"a distance of {self.ceiling:g}"
        return _fit_quality(codec, source, self.function, height, step, seed, progress, name, "")


def encode_to(
    source: image.Source,
    goal: Goal,
    model: str | Path = DEFAULT_MODEL,
    seed: int | None = None,
    progress: Progress | None = None,
) -> bytes:
    """A picture -> the bytes of the file that meets the goal: `encode_to("a.png", Bytes(20_000))`.

    TargetError (a ValueError) where no q does; else as `encode`.
    """
    return goal.fit(load(model), source, seed, progress).data


def psnr(original: Picture, decoded: Picture) -> float:
    """10 log10(255^2 / MSE) in dB over all samples; infinite for equal pictures."""
    mse = float(np.square(original.astype(np.float64) - decoded).mean())
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def bracket(
    height: Callable[[int], float], expected: Callable[[int], float], wanted_below: bool
) -> tuple[int, int]:
    """(low, high), q bytes with height(low) < 0 <= height(high) and nothing better expected between them.

    height        costs a walk; rises with q, at least roughly
    expected      costs little: a guess of height, of which only the shape over q has to be about right
    wanted_below  whether low is what the caller is after: then the search ends when low + 1 is expected to be
                  too high, as it ends when high - 1 is expected to be too low otherwise

    low = -1 where no height is below 0 (0 was tried), high = 256 where none is above (255 was tried).
    """
    low, high = -1, LAST + 1
    seen: dict[int, float] = {}

    def corrected(q: int) -> float:
        """The guess, moved to pass through all that was seen."""
        known = sorted(seen)
        offsets = [seen[k] - expected(k) for k in known]
        return expected(q) + float(np.interp(q, known, offsets)) if known else expected(q)

    while high - low > 1:
        below, above = low, high
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if corrected(middle) < 0 else (below, middle)
        q = below if wanted_below else above
        if q in seen:
            break
        if len(seen) >= PATIENCE:
            q = (low + high) // 2
        q = min(max(q, 0), LAST)
        seen[q] = height(q)
        low, high = (q, high) if seen[q] < 0 else (low, q)
    return low, high


def _fit_bytes(
    codec: Codec, latent: Latent, limit: int, seed: int | None, progress: Progress | None, name: str
) -> Fit:
    tried: dict[int, bytes] = {}

    def size(q: int) -> int:
        if q not in tried:
            tried[q] = codec.encode(latent, q / LAST, seed, _part(progress, len(tried)))
        return len(tried[q])

    @cache
    def expected(q: int) -> float:
        estimate = BITS_PER_MAGNITUDE * codec.magnitude(latent, q / LAST) / 8
        return math.log(max(estimate, 1) / (limit + 0.5))

    q, _ = bracket(lambda q: math.log(size(q) / (limit + 0.5)), expected, wanted_below=True)
    if q < 0:
        smallest, largest = size(0), size(LAST)
        raise TargetError(f"{name} cannot be met: this picture takes {smallest} (q = 0) to {largest} (q = 1)")
    return Fit(tried[q], q / LAST, len(tried[q]), len(tried))


def _fit_quality(
    codec: Codec,
    source: image.Source,
    measure: Callable[[Picture, Picture], float],
    height: Callable[[float], float],
    step: float,
    seed: int | None,
    progress: Progress | None,
    name: str,
    unit: str,
) -> Fit:
    latent = codec.transform(source, progress)
    tried: dict[int, tuple[bytes, float]] = {}

    def value(q: int) -> float:
        if q not in tried:
            if told := _part(progress, len(tried)):
                told("encode and decode", 0.0)
            data, picture = codec.encode_and_decode(latent, q / LAST, seed)
            tried[q] = data, float(measure(latent.pixels, picture))
            if math.isnan(tried[q][1]):
                raise ValueError(f"the distance of the picture at q = {q / LAST:.3f} is not a number")
        return tried[q][1]

    _, q = bracket(lambda q: height(value(q)), lambda q: step * (q - LAST / 2), wanted_below=False)
    if q > LAST:
        ends = f"{value(0):.4g} (q = 0) to {value(LAST):.4g} (q = 1) {unit}".rstrip()
        raise TargetError(f"{name} cannot be met: this picture has {ends}")
    return Fit(tried[q][0], q / LAST, tried[q][1], len(tried))


def _part(progress: Progress | None, tries: int) -> Progress | None:
    """The progress of one try as that of the search, which mostly takes two to four."""
    if progress is None:
        return None
    return lambda what, part: progress(f"try {tries + 1}: {what}", min(0.95, 0.25 * (tries + part)))
