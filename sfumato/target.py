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
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sfumato import DEFAULT_MODEL, arguments, container, image, lossless, lpips
from sfumato.codec import Codec, Latent, Progress, load
from sfumato.tiles import MAX_PIXELS

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Picture = UInt8[np.ndarray, "h w 3"]


LAST = 255
BITS_PER_MAGNITUDE = 1.6
"""Bits of a file over `Codec.magnitude`, where a search for a size begins; the first walk corrects it."""
PATIENCE = 6
"""Tries that follow the expected curve; after them the bracket is halved."""
SLACK = 1e-9
"""A size equal to its limit counts as below it; a byte more is more than this."""


class TargetError(ValueError):
    """A goal that no q meets; the message names what this picture can have."""


@dataclass(frozen=True)
class Fit:
    """The file that meets a goal."""

    data: bytes
    q: float  # 0 .. 1, a multiple of 1/255
    value: float  # what the goal is about: bytes, bits per pixel, decibels or the distance
    walks: int  # how many files were tried


@dataclass(frozen=True)
class Goal(ABC):
    """What a file has to meet: a number above 0, else ValueError."""

    wanted: float

    unit: ClassVar[str]
    """A value in words."""
    rise: ClassVar[float | None]
    """Of log(value) from q = 0 to 1, roughly; None for sizes: `Codec.magnitude` foretells them."""

    def __post_init__(self) -> None:
        arguments.number("a target", self.wanted, -math.inf, math.inf)
        if not 0 < self.wanted < math.inf:
            raise ValueError(f"a target of {self.unit.format(self.wanted)}: need more than 0")

    @abstractmethod
    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        """What a file of `size` bytes has; `picture` is what it decodes to, None if the goal is a size."""

    def fit(
        self,
        codec: Codec,
        source: image.Source,
        seed: int | None = None,
        progress: Progress | None = None,
        max_pixels: int | None = MAX_PIXELS,
        lossless_if_smaller: bool = False,
    ) -> Fit:
        """The largest file up to a size, or the smallest that has a quality; TargetError if no q gives one.

        Sources, seed, progress, max_pixels and further errors are those of `Codec.encode`.  With
        `lossless_if_smaller` the lossless file, of q = 1, is taken where it is up to the size, or smaller
        than that of the quality, or no q gives that.
        """
        latent = codec.transform(source, progress, max_pixels=max_pixels)

        def exact(limit: int) -> Fit | None:
            data = lossless.file(latent.picture, limit) if lossless_if_smaller else None
            if data is None:
                return None
            value = self.value(latent, len(data), None if self.rise is None else latent.pixels)
            return Fit(data, 1.0, value, len(tried))

        tried: dict[int, tuple[bytes, float]] = {}

        def told(what: str, part: float) -> None:
            if progress is not None:  # most searches take two to four tries
                progress(f"try {len(tried) + 1}: {what}", min(0.95, 0.25 * (len(tried) + part)))

        def value(q: int) -> float:
            if q not in tried:
                picture = None
                if self.rise is None:
                    data = codec.encode(latent, q / LAST, seed, told)
                else:
                    data, picture = codec.encode_and_decode(latent, q / LAST, seed, told)
                tried[q] = data, self.value(latent, len(data), picture)
                if math.isnan(tried[q][1]):
                    raise ValueError(f"{self.unit.format(math.nan)} at q = {q / LAST:.3f}: not a number")
            return tried[q][1]

        def height(value: float) -> float:
            """Rises with q; below 0 for sizes that are allowed and for qualities that are not enough."""
            log_ratio = math.log(min(max(value / self.wanted, 1e-9), 1e9))
            return log_ratio - SLACK if self.rise is None else math.copysign(1, self.rise) * log_ratio

        @cache
        def expected(q: int) -> float:
            if self.rise is not None:
                return abs(self.rise) * (q / LAST - 0.5)
            size = BITS_PER_MAGNITUDE / 8 * codec.magnitude(latent, q / LAST)
            return height(self.value(latent, size, None))

        if self.rise is None and (found := exact(math.floor(self.wanted / self.value(latent, 1, None)))):
            return found
        low, high = bracket(lambda q: height(value(q)), expected, wanted_below=self.rise is None)
        best = low if self.rise is None else high
        size = len(tried[best][0]) if best in tried else container.SECTION_MAX
        if self.rise is not None and (found := exact(size - 1)):
            return found
        if best not in tried:
            wanted, first, last = (self.unit.format(v) for v in (self.wanted, value(0), value(LAST)))
            raise TargetError(f"{wanted} cannot be met: this picture has {first} (q = 0) to {last} (q = 1)")
        return Fit(tried[best][0], best / LAST, tried[best][1], len(tried))


class Bytes(Goal):
    """The best file of at most so many bytes."""

    unit, rise = "{:.0f} bytes", None

    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        return size


class Rate(Goal):
    """The best file of at most so many bits per pixel, all bytes of the file counted."""

    unit, rise = "{:.4g} bits per pixel", None

    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        return 8 * size / (latent.pixels.shape[0] * latent.pixels.shape[1])


class PSNR(Goal):
    """The smallest file whose picture has at least so many dB of PSNR, over all RGB samples."""

    unit, rise = "a PSNR of {:.4g} dB", 0.25

    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        assert picture is not None
        return psnr(latent.pixels, picture)


class LPIPS(Goal):
    """The smallest file whose picture is at most so far away by LPIPS (AlexNet).

    Its weights are not in this package: FileNotFoundError where `lpips.weights_folder()` does not hold them,
    ValueError for a picture with a side under 31 pixels.
    """

    unit, rise = "an LPIPS of {:.4g}", -2.3

    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        assert picture is not None
        return lpips.distance(latent.pixels, picture)


@dataclass(frozen=True)
class Distance(Goal):
    """The smallest file whose picture is at most so far away from the original.

    `function(original, decoded)` takes two pictures uint8 [H, W, 3] and falls towards 0 as they come closer.
    """

    function: Callable[[Picture, Picture], float]

    unit, rise = "a distance of {:.4g}", -2.3

    def value(self, latent: Latent, size: float, picture: Picture | None) -> float:
        assert picture is not None
        return float(self.function(latent.pixels, picture))


def encode_to(
    source: image.Source,
    goal: Goal,
    model: str | Path = DEFAULT_MODEL,
    seed: int | None = None,
    progress: Progress | None = None,
    max_pixels: int | None = MAX_PIXELS,
    lossless_if_smaller: bool = False,
) -> bytes:
    """A picture -> the bytes of the file that meets the goal: `encode_to("a.png", Bytes(20_000))`.

    TargetError (a ValueError) where no q does; else as `encode`.
    """
    return goal.fit(load(model), source, seed, progress, max_pixels, lossless_if_smaller).data


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

    while high - low > 1:
        # the guess plus a polynomial, so that it passes through what was seen last on both sides and nearby
        near = sorted(seen, key=lambda k: min(abs(k - low), abs(k - high)))
        near = near[: 3 if low in seen and high in seen else 2]
        missed = [seen[k] - expected(k) for k in near]
        correction = np.polyfit(near, missed, len(near) - 1) if near else np.zeros(1)
        below, above = low, high
        while above - below > 1:
            middle = (below + above) // 2
            is_low = expected(middle) + np.polyval(correction, middle) < 0
            below, above = (middle, above) if is_low else (below, middle)
        q = below if wanted_below else above
        if q in seen:
            break
        if len(seen) >= PATIENCE:
            q = (low + high) // 2
        q = min(max(q, 0), LAST)
        seen[q] = height(q)
        low, high = (q, high) if seen[q] < 0 else (low, q)
    return low, high
