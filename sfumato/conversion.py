"""The bytes of one file in, those of another and a row of the report out.

Encode, decode, transcode, evaluate: what can be done to each file of a large set.

A row holds the fields of `jobs.JobResult`, or of `batch.Failure` for a file that cannot be converted.
"""

from __future__ import annotations

import io
import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, final

from sfumato import DEFAULT_MODEL, image, lossless
from sfumato.batch import IMAGE_SUFFIXES, Failure
from sfumato.distortion import psnr
from sfumato.jobs import SUFFIX, DecodeJob, EncodeJob, error_message, report

Row = dict[str, Any]
LOSSY = frozenset({".avif", ".jfif", ".jpe", ".jpeg", ".jpg", ".webp"})


class Converted(NamedTuple):
    """What became of one file."""

    data: bytes | None  # None for a failure, and where nothing is to be written
    row: Row


@dataclass(frozen=True)
class Conversion(ABC):
    """A job on bytes, good for any number of files, in any process."""

    job: EncodeJob | DecodeJob

    suffix = SUFFIX
    """Of what it writes."""
    writes = True
    """Whether files come out, and not only rows."""

    @property
    @abstractmethod
    def suffixes(self) -> frozenset[str]:
        """Of what it reads, in lower case."""

    @abstractmethod
    def apply(self, data: bytes, source: str, target: str) -> Converted:
        """Raises ValueError or OSError for a bad file."""

    def takes(self, name: str) -> bool:
        """Whether a file of this name is one to convert."""
        return PurePosixPath(name).suffix.lower() in self.suffixes

    def __call__(self, data: bytes, source: str, target: str) -> Converted:
        """The same, with a failure as a row; MemoryError is one too."""
        try:
            return self.apply(data, source, target)
        except Exception as error:
            reason = error_message(error) or f"internal error: {type(error).__name__}: {error}"
            return Converted(None, failure(source, reason))


def failure(source: str, reason: str) -> Row:
    """The row of a file that could not be converted."""
    return asdict(Failure(source, reason.removeprefix(f"{source}: ")))


@final
@dataclass(frozen=True)
class Encode(Conversion):
    """Image files -> .sfu files."""

    job: EncodeJob

    @property
    def suffixes(self) -> frozenset[str]:
        return IMAGE_SUFFIXES

    def apply(self, data: bytes, source: str, target: str) -> Converted:
        begun = time.perf_counter()
        written, warnings = self.job.convert(named(data, source))
        return Converted(written, asdict(report(source, target, written, len(data), begun, warnings)))


@final
@dataclass(frozen=True)
class Transcode(Conversion):
    """JPEG, AVIF and WebP files -> .sfu files; what would not become smaller is kept as it is."""

    job: EncodeJob

    @property
    def suffixes(self) -> frozenset[str]:
        return LOSSY

    def apply(self, data: bytes, source: str, target: str) -> Converted:
        found = Encode(self.job).apply(data, source, target)
        assert found.data is not None
        if len(found.data) < len(data):
            return found
        own, name = PurePosixPath(source).suffix, target.removesuffix(SUFFIX)
        changes = {
            "output": name if name.endswith(own) else name + own,
            "bytes": len(data),
            "bpp": found.row["bpp"] * len(data) / len(found.data),
            "warnings": (*found.row["warnings"], f"kept: would have {len(found.data)} bytes as {SUFFIX}"),
        }
        return Converted(data, found.row | changes)


@final
@dataclass(frozen=True)
class Decode(Conversion):
    """.sfu files -> PNG files."""

    job: DecodeJob

    suffix = ".png"

    @property
    def suffixes(self) -> frozenset[str]:
        return frozenset({SUFFIX})

    def apply(self, data: bytes, source: str, target: str) -> Converted:
        begun = time.perf_counter()
        written, image_data, warnings = self.job.convert(data, Path(target))
        done = report(source, target, data, len(written), begun, warnings)
        height, width = image_data.pixels.shape[:2]
        return Converted(written, asdict(replace(done, width=width, height=height)))


@final
@dataclass(frozen=True)
class Evaluate(Conversion):
    """Image files -> rows with PSNR (dB) and, where its weights are there, LPIPS of the decoded image.

    Colours where alpha is 0 are left out.  The PSNR of an exact image is None.
    """

    job: EncodeJob

    writes = False

    @property
    def suffixes(self) -> frozenset[str]:
        return IMAGE_SUFFIXES

    def apply(self, data: bytes, source: str, target: str) -> Converted:
        from sfumato import api, lpips

        found = Encode(self.job).apply(data, source, "")
        assert found.data is not None
        begun = time.perf_counter()
        model = None if self.job.model == DEFAULT_MODEL else self.job.model
        decoded = api.decode_image(found.data, model=model)
        row = found.row | {"decode_seconds": time.perf_counter() - begun}
        original = image.load(named(data, source), self.job.max_pixels)
        a, b = (image.in_srgb(lossless.without_hidden(shown)).rgb for shown in (original, decoded))
        decibels = psnr(a, b)
        row |= {"psnr_db": decibels if math.isfinite(decibels) else None, "lpips_alex": None}
        if min(a.shape[:2]) >= lpips.MINIMUM and (lpips.weights_folder() / lpips.ALEX_FEATURES).exists():
            row["lpips_alex"] = float(lpips.distance(a, b))
        return Converted(None, row)


def named(data: bytes, name: str) -> io.BytesIO:
    """An open file of these bytes, whose errors name it."""
    file = io.BytesIO(data)
    file.name = name
    return file
