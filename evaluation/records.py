"""What was measured, as CSV files: a record for each image, codec and setting, and one for each data set."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.metrics import dataset_metrics, image_metrics
from sfumato.files import write_csv

NAN = math.nan
SECTIONS = ("bits_z", *(f"bits_chunk{j}" for j in range(1, 6)))
OLD_COLUMNS = {"picture": "image", "picture_id": "image_id"}  # before 0.2
# Columns of the first release, in its order; all others follow in the order of the fields.
LEADING = (
    *("dataset", "codec", "setting", "image", "width", "height", "bytes", "bpp"),
    *("psnr_db", "lpips_alex", "ms_ssim", "encode_s", "decode_s"),
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image through one codec at one setting: a line of the CSV.  NaN: not measured."""

    dataset: str  # name of the folder
    codec: str
    setting: str  # the codec's own: quality, or q
    image: str  # name of the file without its suffix
    width: int  # pixels
    height: int
    bytes: int  # size of the file on disk, all headers included
    bpp: float  # 8 bytes / (width height)
    values: dict[str, float] = field(default_factory=dict, metadata={"columns": image_metrics})
    encode_s: float = NAN  # image in memory -> file on disk, while `jobs` workers ran
    decode_s: float = NAN  # file on disk -> image in memory
    # Payload of the sections of a sfumato file; what is missing to 8 bytes is headers.
    bits: dict[str, float] = field(default_factory=dict, metadata={"columns": lambda: SECTIONS})
    # Peak resident memory in 2^20 bytes while coding, the larger of encoding and decoding, of the process
    # that does nothing but run this codec, interpreter and libraries included.
    peak_mb: float = NAN
    jobs: int = 1  # workers that ran at the same time
    image_id: str = ""  # of the pixels
    codec_id: str = ""  # of the codec's version, weights and options
    computed: str = field(default="", metadata={"column": "metrics"})  # tried, so a NaN differs from a gap

    @property
    def key(self) -> tuple[str, float, str, str]:
        """What orders the records of a data set: codec, setting by its value, image."""
        return self.codec, float(self.setting), self.setting, self.image


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """All images of a data set through one codec at one setting.  NaN: not measured."""

    dataset: str
    codec: str
    setting: str
    bpp: float  # mean over the images
    values: dict[str, float] = field(default_factory=dict, metadata={"columns": dataset_metrics})
    crops: int
    crop_px: int  # side of a crop


def read_records(path: Path) -> list[Record]:
    """Records of images, also of files of earlier versions, which have fewer columns; see `read_table`."""
    return read_table(path, Record)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Records in their fixed order."""
    write_table(path, Record, sorted(records, key=lambda record: (record.dataset, *record.key)))


def write_table(path: Path, kind: type, records: Iterable[Any]) -> None:
    """A CSV with the fields of a dataclass as columns, NaN as an empty field; written whole or not at all."""
    columns = _columns(kind)
    rows = []
    for record in records:
        values = ((getattr(record, one.name), key) for one, key in columns.values())
        rows.append([_text(value.get(key, NAN) if key else value) for value, key in values])
    write_csv(path, list(columns), rows)


def read_table(path: Path, kind: Callable[..., Any]) -> list[Any]:
    """Objects of a dataclass back from `write_table`; columns with a default may be absent.

    Raises ValueError for other columns, and for a value that cannot be read.
    """
    columns = _columns(kind)
    parsers: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": _number}
    required = {
        name
        for name, (one, key) in columns.items()
        if not key and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        found = [OLD_COLUMNS.get(name, name) for name in reader.fieldnames or ()]
        reader.fieldnames = found
        if not required <= set(found) <= set(columns):
            raise ValueError(f"{path}: columns are {found}, expected {list(columns)}")
        records = []
        try:
            for line in reader:
                arguments: dict[str, Any] = {}
                for name in found:
                    one, key = columns[name]
                    if key:
                        arguments.setdefault(one.name, {})[key] = _number(line[name])
                    else:
                        arguments[one.name] = parsers[str(one.type)](line[name])
                records.append(kind(**arguments))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {reader.line_num}: {error}") from None
    return records


def _columns(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], str]]:
    """Column -> its field and, for a field that is a dict, the key."""
    columns: dict[str, tuple[dataclasses.Field[Any], str]] = {}
    for one in dataclasses.fields(kind):
        if "columns" in one.metadata:
            columns |= {key: (one, key) for key in one.metadata["columns"]()}
        else:
            columns[one.metadata.get("column", one.name)] = (one, "")
    order = sorted(columns, key=lambda name: LEADING.index(name) if name in LEADING else len(LEADING))
    return {name: columns[name] for name in order} if kind is Record else columns


def _number(text: str) -> float:
    return float(text or "nan")


def _text(value: str | int | float) -> str:
    if not isinstance(value, float) or value.is_integer():
        return str(int(value)) if isinstance(value, float) else str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
