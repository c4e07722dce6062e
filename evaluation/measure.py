"""Pictures and a codec in, rows out: bytes on disk, distances of the decoded picture, and seconds."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from evaluation.codecs import Codec
from metrics.distortion import MS_SSIM_MINIMUM_SIDE, ms_ssim, psnr
from metrics.lpips import LPIPS
from sfumato.image import read, to_x

SUFFIXES = (".png", ".webp", ".avif", ".jpg", ".jpeg", ".ppm", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Row:
    """One picture through one codec at one setting; a line of the CSV, in this order.  NaN: not measured."""

    dataset: str  # name of the folder
    codec: str
    setting: str  # the codec's own: quality, or q
    picture: str  # name of the file without its suffix
    width: int  # pixels
    height: int
    bytes: int  # size of the file on disk, all headers included
    bpp: float  # 8 bytes / (width height)
    psnr_db: float  # RGB; infinite for equal pictures
    lpips_alex: float  # version 0.1; NaN without weights or under 31 pixels a side
    ms_ssim: float  # RGB; NaN under 161 pixels a side
    encode_s: float  # picture in memory -> file on disk
    decode_s: float  # file on disk -> picture in memory


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder by name.  Raises FileNotFoundError when there is none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: no pictures ({', '.join(SUFFIXES)})")
    return paths


def measure(codec: Codec, pictures: list[Path], lpips: LPIPS | None, scratch: Path) -> Iterator[Row]:
    """Rows of all pictures and settings of one codec.  `scratch` is a folder for the coded files.

    The first call of a codec, which loads its weights, is made on a grey square and not timed.
    Raises ValueError when a decoded picture has not the size of the original.
    """
    path = scratch / f"warm{codec.suffix}"
    codec.encode(np.full((64, 64, 3), 128, np.uint8), codec.settings[0], path)
    codec.decode(path)
    for source in pictures:
        image = read(source)
        height, width = image.shape[:2]
        reference = _reference(lpips, image)
        for setting in codec.settings:
            path = scratch / f"coded{codec.suffix}"
            started = time.perf_counter()
            codec.encode(image, setting, path)
            encoded = time.perf_counter()
            decoded = codec.decode(path)
            finished = time.perf_counter()
            size = path.stat().st_size
            path.unlink()
            if decoded.shape != image.shape:
                raise ValueError(f"{codec.name} made {list(decoded.shape)} of {source}, {list(image.shape)}")
            yield Row(
                dataset=source.parent.resolve().name,
                codec=codec.name,
                setting=f"{setting:g}",
                picture=source.stem,
                width=width,
                height=height,
                bytes=size,
                bpp=8 * size / (width * height),
                psnr_db=psnr(image, decoded),
                lpips_alex=_distance(lpips, reference, decoded),
                ms_ssim=_ms_ssim(image, decoded),
                encode_s=encoded - started,
                decode_s=finished - encoded,
            )


def write_rows(path: Path, rows: Iterable[Row]) -> list[Row]:
    """Writes rows as CSV while they come, and returns them; NaN becomes an empty field."""
    names = [field.name for field in dataclasses.fields(Row)]
    written = []
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")  # an earlier result stays until this one is complete
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow([_text(getattr(row, name)) for name in names])
            file.flush()
            written.append(row)
    part.replace(path)
    return written


def read_rows(path: Path) -> list[Row]:
    """Rows back from `write_rows`.  Raises ValueError for other columns."""
    types: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    kinds = {field.name: types[str(field.type)] for field in dataclasses.fields(Row)}
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise ValueError(f"{path}: columns are {reader.fieldnames}, expected {list(kinds)}")
        return [Row(**{name: kind(line[name] or "nan") for name, kind in kinds.items()}) for line in reader]


def _reference(lpips: LPIPS | None, image: UInt8[np.ndarray, "h w 3"]) -> list[torch.Tensor] | None:
    if lpips is None or min(image.shape[:2]) < lpips.trunk.minimum:
        return None
    return lpips.reference(to_x(image))


def _distance(
    lpips: LPIPS | None, reference: list[torch.Tensor] | None, decoded: UInt8[np.ndarray, "h w 3"]
) -> float:
    if lpips is None or reference is None:
        return math.nan
    with torch.no_grad():
        return lpips.distance(reference, to_x(decoded)).item()


def _ms_ssim(image: UInt8[np.ndarray, "h w 3"], decoded: UInt8[np.ndarray, "h w 3"]) -> float:
    return ms_ssim(image, decoded) if min(image.shape[:2]) >= MS_SSIM_MINIMUM_SIDE else math.nan


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
