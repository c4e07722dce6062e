"""Measurements in, CSV files out, and back: a row a picture, codec and setting, and a row a whole set."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.image import write_bytes

NAN = math.nan


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
    lpips_alex: float  # version 0.1; NaN under 31 pixels a side
    ms_ssim: float  # RGB; NaN under 161 pixels a side
    encode_s: float  # picture in memory -> file on disk, while `jobs` lanes worked
    decode_s: float  # file on disk -> picture in memory
    lpips_vgg: float = NAN  # version 0.1; NaN under 16 pixels a side
    dists: float = NAN  # at the size the picture has; NaN under 16 pixels a side
    ssimulacra2: float = NAN  # version 2.1; NaN under 8 pixels a side
    cer: float = NAN  # character error rate; NaN for pictures without text
    bits_z: float = NAN  # payload of the sections of a sfumato file; what is missing to 8 bytes is headers
    bits_chunk1: float = NAN
    bits_chunk2: float = NAN
    bits_chunk3: float = NAN
    bits_chunk4: float = NAN
    bits_chunk5: float = NAN
    # Peak resident memory in 2^20 bytes while coding, the larger of encoding and decoding: of the process
    # that does nothing but run this codec, interpreter and libraries included, or of the codec's own program.
    peak_mb: float = NAN
    jobs: int = 1  # lanes that worked at the same time
    picture_id: str = ""  # of the picture's pixels
    codec_id: str = ""  # of the codec's version, weights and options
    metrics: str = ""  # names of those that were tried, so that a NaN can be told from a gap

    @property
    def key(self) -> tuple[str, float, str, str]:
        """What orders the rows of a data set: codec, setting by its value, picture."""
        return self.codec, float(self.setting), self.setting, self.picture


@dataclass(frozen=True)
class SetRow:
    """All pictures of a set through one codec at one setting; a line of `sets.csv`.  NaN: not measured."""

    dataset: str
    codec: str
    setting: str
    bpp: float  # mean over the pictures
    fd_efflite0: (
        float  # Frechet distance of EfficientNet-Lite0 features; compares equal numbers of crops only
    )
    kid: float  # kernel distance of the same features
    crops: int
    crop_px: int  # side of a crop


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV in their fixed order; NaN becomes an empty field."""
    write_table(path, Row, sorted(rows, key=lambda row: (row.dataset, *row.key)))


def read_rows(path: Path) -> list[Row]:
    """Rows back from `write_rows`, or from a file of an earlier version, which has fewer columns.

    Raises ValueError for other columns, and for a value that is none.
    """
    return read_table(path, Row)


def write_table(path: Path, kind: type, rows: Iterable[Any]) -> None:
    """A CSV with the fields of a dataclass as columns; the file appears complete or not at all."""
    names = [one.name for one in dataclasses.fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_text(getattr(row, name)) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode())


def read_table(path: Path, kind: Callable[..., Any]) -> list[Any]:
    """Objects of a dataclass back from `write_table`; columns with a default may be absent.

    Raises ValueError for other columns, and for a value that is none.
    """
    types: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": _number}
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    kinds = {one.name: types[str(one.type)] for one in fields}
    required = [one.name for one in fields if one.default is dataclasses.MISSING]
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if not set(required) <= set(columns) <= set(kinds):
            raise ValueError(f"{path}: columns are {columns}, expected {list(kinds)}")
        try:
            return [kind(**{name: kinds[name](line[name]) for name in columns}) for line in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {reader.line_num}: {error}") from None


def _number(text: str) -> float:
    return float(text or "nan")


def _text(value: str | int | float) -> str:
    if not isinstance(value, float) or value.is_integer():
        return str(int(value)) if isinstance(value, float) else str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
