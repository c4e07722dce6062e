"""One file in, one file out, and a report of what was done: the work of the command and of its workers.

A job holds the settings and no networks, so that it goes to other processes; they are loaded when one runs.
The name "-" stands for standard input or output.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato import DEFAULT_MODEL, arguments, container, image, lossless
from sfumato.decode_options import DecodeOptions
from sfumato.errors import HostError
from sfumato.files import write_bytes
from sfumato.tiles import MAX_PIXELS
from sfumato.writing import format_of, to_bytes

if TYPE_CHECKING:
    from sfumato.rate_control import Target

SUFFIX = ".sfu"
STREAM = Path("-")
BLOCK = 1 << 20  # bytes at once: what a header allows may be a thousand times what is there

Progress = Callable[[str, float], None]


class UsageError(ValueError):
    """An argument that cannot be meant; the message says what could be."""


@dataclass(frozen=True)
class JobResult:
    """What was done with one image."""

    input: str
    output: str
    width: int  # pixels
    height: int
    bytes: int  # of the .sfu file
    bpp: float  # bits of the .sfu file per pixel
    quality: float  # 0 .. 1
    model: str  # `Header.model_name`
    image_bytes: int  # of the other file
    seconds: float
    warnings: tuple[str, ...] = ()  # sentences on what was changed or left out


class Job(ABC):
    """The settings of an encode or decode, good for any number of files."""

    suffix: str
    """Of the files that it writes, unless their names say otherwise."""

    @abstractmethod
    def check(self) -> None:
        """Raises what is wrong with the settings, whatever the file: once for a folder."""

    @abstractmethod
    def run(self, source: Path, target: Path, progress: Progress | None = None) -> JobResult:
        """Reads `source`, writes `target` complete or not at all.

        Raises ValueError for bad settings or a bad file, and OSError as `open` does.
        """


@dataclass(frozen=True)
class EncodeJob(Job):
    """Image -> .sfu file.  At most one of quality and the targets is given; none means quality 0.5."""

    quality: float | None = None  # 0 .. 1
    target_bytes: int | None = None
    target_bpp: float | None = None
    target_psnr: float | None = None  # dB
    target_lpips: float | None = None
    model: str = DEFAULT_MODEL
    seed: int | None = None
    strip: bool = False  # whether metadata and colour profile are left out
    overwrite: bool = False  # whether a file that is there is replaced
    max_pixels: int = MAX_PIXELS  # of an image at most, both sides rounded up to multiples of 64
    lossless_if_smaller: bool = False  # whether a lossless file is taken where it has fewer bytes
    few_colours: bool = True  # whether a rendered image may be stored in fewer colours (`palette`)

    suffix = SUFFIX

    def __post_init__(self) -> None:
        targets = self.target_bytes, self.target_bpp, self.target_psnr, self.target_lpips
        if sum(wish is not None for wish in (self.quality, *targets)) > 1:
            raise UsageError(
                "give one of --quality, --target-bytes, --target-bpp, --target-psnr, --target-lpips"
            )
        with _usage():
            if self.quality is not None:
                arguments.number("q", self.quality, 0, 1)
            arguments.integer("seed", self.seed, 0, 2**32 - 1)
            arguments.integer("max_pixels", self.max_pixels, 1)

    def check(self) -> None:
        self._target()
        if self.target_lpips is not None:
            from sfumato import lpips

            for name in (lpips.ALEX_FEATURES, lpips.ALEX_HEADS):
                lpips.weights_file(lpips.weights_folder(), name)
        if self.model != DEFAULT_MODEL:  # that one is there, and takes a while
            from sfumato.codec import load

            load(self.model)

    def run(self, source: Path, target: Path, progress: Progress | None = None) -> JobResult:
        begun = time.perf_counter()
        given: image.Source = source
        if source == STREAM:
            given = io.BytesIO(sys.stdin.buffer.read())
            size = given.getbuffer().nbytes
        else:
            size = source.stat().st_size
        data, warnings = self.convert(given, progress)
        _write(target, data, self.overwrite)
        return report(source, target, data, size, begun, warnings)

    def convert(self, given: image.Source, progress: Progress | None = None) -> tuple[bytes, tuple[str, ...]]:
        """The image as the bytes of a .sfu file, and warnings."""
        from sfumato.codec import load

        codec = load(self.model)
        image_data = image.load(given, self.max_pixels)
        if self.strip:
            image_data = image.strip(image_data)
        options: dict[str, Any] = {"seed": self.seed, "progress": progress, "few_colours": self.few_colours}
        options["lossless_if_smaller"] = self.lossless_if_smaller
        if target := self._target():
            data = target.search(codec, image_data, **options).data
        else:
            data = codec.encode(image_data, q=0.5 if self.quality is None else self.quality, **options)
        advice = None if self.lossless_if_smaller else lossless.warning(image_data, len(data))
        return data, (*image_data.warnings, advice) if advice else image_data.warnings

    def _target(self) -> Target | None:
        if self.target_bytes is self.target_bpp is self.target_psnr is self.target_lpips is None:
            return None
        from sfumato.rate_control import TargetBpp, TargetBytes, TargetLPIPS, TargetPSNR

        targets: list[tuple[type[Target], float | None]]
        targets = [(TargetBytes, self.target_bytes), (TargetBpp, self.target_bpp)]
        targets += [(TargetPSNR, self.target_psnr), (TargetLPIPS, self.target_lpips)]
        with _usage():
            return next(target(value) for target, value in targets if value is not None)


@dataclass(frozen=True)
class DecodeJob(Job):
    """.sfu file -> image, in the format of the target's suffix; PNG for none."""

    steps: int | None = None  # None: as `DecodeOptions` has it
    realism: float = 1.0
    eta: float = 0.0
    partial: bool = False
    chunks: int | None = None  # None for all
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels; None for the whole
    model: str | None = None  # None for the weights that the file names
    overwrite: bool = False  # whether a file that is there is replaced
    strip: bool = False  # whether metadata and colour profile are left out
    max_pixels: int = MAX_PIXELS  # of an image at most, both sides rounded up to multiples of 64

    suffix = ".png"

    def check(self) -> None:
        self._options()
        if self.model is not None:
            from sfumato.codec import load

            load(self.model)

    def run(self, source: Path, target: Path, progress: Progress | None = None) -> JobResult:
        begun = time.perf_counter()
        format_of(target)  # a suffix that cannot be written is an error before the work
        data = read(source)
        written, image_data, warnings = self.convert(data, target, progress)
        _write(target, written, self.overwrite)
        done = report(source, target, data, len(written), begun, warnings)
        height, width = image_data.pixels.shape[:2]  # of a crop its own
        return replace(done, width=width, height=height)

    def convert(
        self, data: bytes, target: Path, progress: Progress | None = None
    ) -> tuple[bytes, image.ImageData, tuple[str, ...]]:
        """The bytes of an image file in the format of the target's suffix, the image, and warnings."""
        from sfumato.api import decode_image

        image_data = decode_image(data, self._options(progress), model=self.model)
        if self.strip:
            image_data = image.strip(image_data)
        written, left_out = to_bytes(target, image_data)
        return written, image_data, (*image_data.warnings, *left_out)

    def _options(self, progress: Progress | None = None) -> DecodeOptions:
        with _usage():
            return DecodeOptions(
                steps=self.steps, realism=self.realism, eta=self.eta, crop=self.crop, partial=self.partial,
                chunks=self.chunks, max_pixels=self.max_pixels, progress=progress,
            )  # fmt: skip


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """A setting that cannot be meant is a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def error_message(error: BaseException) -> str | None:
    """The one line for a person on what went wrong; None for what must be a bug in the program."""
    if isinstance(error, HostError):
        return str(error)
    if isinstance(error, ImportError):  # as where memory is short
        return f"cannot start: {error}"
    if isinstance(error, MemoryError) or str(error) == "can't start new thread":
        return "not enough memory for an image of this size"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    if isinstance(error, ValueError | OSError):
        return str(error) or type(error).__name__
    return None


def read(path: Path) -> bytes:
    """A .sfu file, or one from standard input; FormatError for what does not begin as one.

    No more is read than a file of that size in pixels can have, so a device that never ends is no matter.
    """
    with sys.stdin.buffer if path == STREAM else path.open("rb") as file:
        data = bytearray(file.read(container.HEADER_MAX))
        left = container.file_limit(container.unpack(bytes(data), partial=True).header) + 1 - len(data)
        while left > 0 and (block := file.read(min(left, BLOCK))):
            data += block
            left -= len(block)
    return bytes(data)


def file_fields(data: bytes) -> dict[str, Any]:
    """What a .sfu file says of itself, in the words of `JobResult`."""
    header = container.unpack(data, partial=True).header
    return {
        "width": header.width,
        "height": header.height,
        "bytes": len(data),
        "bpp": 8 * len(data) / (header.width * header.height),
        "quality": header.q / 255,
        "model": header.model_name,
    }


def _write(target: Path, data: bytes, overwrite: bool) -> None:
    if target == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target.parent.mkdir(exist_ok=True)
    write_bytes(target, data, overwrite)


def report(
    source: Path | str,
    target: Path | str,
    data: bytes,
    image_bytes: int,
    begun: float,
    warnings: tuple[str, ...],
) -> JobResult:
    """The report on the .sfu file `data`, begun at that reading of `time.perf_counter`."""
    seconds = time.perf_counter() - begun
    return JobResult(
        str(source),
        str(target),
        **file_fields(data),
        image_bytes=image_bytes,
        seconds=seconds,
        warnings=warnings,
    )
