"""An image and a target in (so many bytes, so many decibels); the file that meets it out.

    source -> Codec.analyze -> analyzed -+-> encode at q -> bytes | PSNR | any distance --+
                                         +---------------- next q <-----------------------+

q is a byte in the file, so a target is met by one of 256 files, whose sizes are about 1 % apart.  The
analysis runs once, and a trial is two thirds of an encode.  What is returned has always been tried: a size
target is never exceeded and a quality target never missed, also where neither rises steadily with q.
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

from sfumato import DEFAULT_MODEL, arguments, container, image, lossless, lpips, palette
from sfumato.codec import Codec, load
from sfumato.decode_options import Progress
from sfumato.distortion import psnr
from sfumato.image_data import ImageData
from sfumato.tiles import MAX_PIXELS

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Pixels = UInt8[np.ndarray, "h w 3"]


LAST = 255
BITS_PER_PROXY = 1.6
"""Bits of a file over `Codec.rate_proxy`, where a search for a size begins; the first trial corrects it."""
PREDICTED_TRIALS = 6
"""Tries that follow the expected curve; after them the interval is halved."""
TOLERANCE = 1e-9
"""A size equal to its limit counts as below it; a byte more is more than this."""


class TargetError(ValueError):
    """A target that no q meets; the message names what this image can have."""


@dataclass(frozen=True)
class SearchResult:
    """The file that meets a target."""

    data: bytes
    q: float  # 0 .. 1, a multiple of 1/255
    value: float  # what the target is about: bytes, bits per pixel, decibels or the distance
    trials: int  # how many files were tried


@dataclass(frozen=True)
class Target(ABC):
    """What a file has to meet: a number above 0, else ValueError."""

    goal: float

    unit: ClassVar[str]
    """A value in words."""
    log_slope: ClassVar[float | None]
    """Of log(value) from q = 0 to 1, roughly; None for sizes: `Codec.rate_proxy` predicts them."""

    def __post_init__(self) -> None:
        arguments.number("a target", self.goal, -math.inf, math.inf)
        if not 0 < self.goal < math.inf:
            raise ValueError(f"a target of {self.unit.format(self.goal)}: need more than 0")

    @abstractmethod
    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        """What a file of `size` bytes has; `decoded` is what it decodes to, None if the goal is a size."""

    def search(
        self,
        codec: Codec,
        source: image.Source,
        *,
        seed: int | None = None,
        strip: bool = False,
        lossless_if_smaller: bool = False,
        few_colours: bool = True,
        max_pixels: int | None = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> SearchResult:
        """The largest file up to a size, or the smallest that has a quality; TargetError if no q gives one.

        Sources, options and further errors are those of `Codec.encode`.  With
        `lossless_if_smaller` the lossless file, of q = 1, is taken where it is up to the size, or smaller
        than that of the quality, or no q gives that; with `few_colours` of a rendered image also one of fewer
        colours, where it is closer to the original or smaller.
        """
        analyzed = codec.analyze(source, strip=strip, max_pixels=max_pixels, progress=progress)
        original = analyzed.original

        def exact(limit: int) -> SearchResult | None:
            data = lossless.file(analyzed.given, limit) if lossless_if_smaller else None
            if data is None:
                return None
            value = self.value(original, len(data), None if self.log_slope is None else original)
            return SearchResult(data, 1.0, value, len(tried))

        tried: dict[int, tuple[bytes, float]] = {}

        def report(what: str, part: float) -> None:
            if progress is not None:  # most searches take two to four tries
                progress(f"try {len(tried) + 1}: {what}", min(0.95, 0.25 * (len(tried) + part)))

        def value(q: int) -> float:
            if q not in tried:
                decoded = None
                if self.log_slope is None:
                    data = codec.encode(analyzed, q=q / LAST, seed=seed, progress=report)
                else:
                    data, decoded = codec.encode_with_reconstruction(
                        analyzed, q=q / LAST, seed=seed, progress=report
                    )
                tried[q] = data, self.value(original, len(data), decoded)
                if math.isnan(tried[q][1]):
                    raise ValueError(f"{self.unit.format(math.nan)} at q = {q / LAST:.3f}: not a number")
            return tried[q][1]

        def excess(value: float) -> float:
            """Rises with q; below 0 for sizes that are allowed and for qualities that are not enough."""
            log_ratio = math.log(min(max(value / self.goal, 1e-9), 1e9))
            return (
                log_ratio - TOLERANCE
                if self.log_slope is None
                else math.copysign(1, self.log_slope) * log_ratio
            )

        @cache
        def expected(q: int) -> float:
            if self.log_slope is not None:
                return abs(self.log_slope) * (q / LAST - 0.5)
            size = BITS_PER_PROXY / 8 * codec.rate_proxy(analyzed, q / LAST)
            return excess(self.value(original, size, None))

        limit = container.SECTION_MAX
        if self.log_slope is None:
            limit = math.floor(self.goal / self.value(original, 1, None))
            if found := exact(limit):
                return found
        low, high = bisect(lambda q: excess(value(q)), expected, wanted_below=self.log_slope is None)
        best = low if self.log_slope is None else high
        if self.log_slope is not None:
            limit = len(tried[best][0]) - 1 if best in tried else limit
            if found := exact(limit):
                return found
        if few_colours and palette.is_rendered(analyzed.given):
            few = self._in_few_colours(analyzed.given, limit, min(max(best, 0), LAST))
            if few is not None and self.log_slope is None and best in tried:
                shown = codec.encode_with_reconstruction(analyzed, q=best / LAST, seed=seed)[1]
                error = palette.squared_error(analyzed.visible(shown), original)
                few = few if few.error < error else None
            if few is not None:
                found_value = self.value(analyzed.given.rgb, len(few.data), ImageData(few.pixels).rgb)
                return SearchResult(few.data, few.q / LAST, found_value, len(tried))
        if best not in tried:
            wanted, first, last = (self.unit.format(v) for v in (self.goal, value(0), value(LAST)))
            raise TargetError(f"{wanted} cannot be met: this image has {first} (q = 0) to {last} (q = 1)")
        return SearchResult(tried[best][0], best / LAST, tried[best][1], len(tried))

    def _in_few_colours(self, given: ImageData, limit: int, q: int) -> palette.Reduced | None:
        """Of at most `limit` bytes: the closest to the original, or the smallest that has the quality."""
        if self.log_slope is None:
            return palette.largest(given, limit, q)
        original, slope = given.rgb, self.log_slope

        def close(pixels: Pixels) -> bool:
            value = self.value(original, 0, ImageData(pixels).rgb)
            return value >= self.goal if slope > 0 else value <= self.goal

        return palette.smallest(given, limit, q, close)


class TargetBytes(Target):
    """The best file of at most so many bytes."""

    unit, log_slope = "{:.0f} bytes", None

    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        return size


class TargetBpp(Target):
    """The best file of at most so many bits per pixel, all bytes of the file counted."""

    unit, log_slope = "{:.4g} bits per pixel", None

    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        return 8 * size / (original.shape[0] * original.shape[1])


class TargetPSNR(Target):
    """The smallest file whose image has at least so many dB of PSNR, over all RGB samples."""

    unit, log_slope = "a PSNR of {:.4g} dB", 0.25

    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        assert decoded is not None
        return psnr(original, decoded)


class TargetLPIPS(Target):
    """The smallest file whose image is at most so far away by LPIPS (AlexNet).

    Its weights are not in this package: FileNotFoundError where `lpips.weights_folder()` does not hold them,
    ValueError for an image with a side under 31 pixels.
    """

    unit, log_slope = "an LPIPS of {:.4g}", -2.3

    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        assert decoded is not None
        return lpips.distance(original, decoded)


@dataclass(frozen=True)
class TargetDistance(Target):
    """The smallest file whose image is at most so far away from the original.

    `function(original, decoded)` takes two images uint8 [H, W, 3] and falls towards 0 as they come closer.
    """

    function: Callable[[Pixels, Pixels], float]

    unit, log_slope = "a distance of {:.4g}", -2.3

    def value(self, original: Pixels, size: float, decoded: Pixels | None) -> float:
        assert decoded is not None
        return float(self.function(original, decoded))


def encode_to(
    source: image.Source,
    target: Target,
    *,
    seed: int | None = None,
    strip: bool = False,
    lossless_if_smaller: bool = False,
    few_colours: bool = True,
    max_pixels: int | None = MAX_PIXELS,
    progress: Progress | None = None,
    model: str | Path = DEFAULT_MODEL,
) -> bytes:
    """An image -> the bytes of the file that meets a target: `encode_to("a.png", TargetBytes(20_000))`.

    TargetError (a ValueError) where no q does; else as `encode`.
    """
    result = target.search(
        load(model), source, seed=seed, strip=strip, lossless_if_smaller=lossless_if_smaller,
        few_colours=few_colours, max_pixels=max_pixels, progress=progress,
    )  # fmt: skip
    return result.data


def bisect(
    excess: Callable[[int], float], expected: Callable[[int], float], wanted_below: bool
) -> tuple[int, int]:
    """(low, high), q bytes with excess(low) < 0 <= excess(high) and nothing better expected between them.

    excess        costs a trial; rises with q, at least roughly
    expected      costs little: a guess of excess, of which only the shape over q has to be about right
    wanted_below  whether low is what the caller is after: then the search ends when low + 1 is expected to be
                  too high, as it ends when high - 1 is expected to be too low otherwise

    low = -1 where no excess is below 0 (0 was tried), high = 256 where none is above (255 was tried).
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
        if len(seen) >= PREDICTED_TRIALS:
            q = (low + high) // 2
        q = min(max(q, 0), LAST)
        seen[q] = excess(q)
        low, high = (q, high) if seen[q] < 0 else (low, q)
    return low, high
