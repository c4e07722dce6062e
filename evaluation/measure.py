"""Pictures and codecs in, rows out: bytes on disk, figures of the decoded picture, seconds and memory.

    for every picture, on one of `jobs` lanes:      lane = one process a codec + one process that judges
      for every codec and setting:
        encode -> OUT/files/DATASET/CODEC/SETTING/PICTURE.suffix -> decode -> judge -> Row -> OUT/pictures.csv

Rows that are there already, with their file, are not measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import coding, judge, sets
from evaluation.codecs import Codec, Picture
from evaluation.rows import NAN, Row, SetRow, read_rows, read_table, write_rows, write_table
from sfumato import container
from sfumato.errors import FormatError
from sfumato.image import read

SUFFIXES = (".png", ".webp", ".avif", ".jpg", ".jpeg", ".ppm", ".bmp", ".tif", ".tiff")
__all__ = [
    "Order",
    "Result",
    "Row",
    "SetRow",
    "coded_file",
    "measure",
    "pictures_in",
    "read_rows",
    "write_rows",
]

FAILURES = 3  # after which a codec, or judging, is not tried any more
BITS = ("bits_z", *(f"bits_chunk{j}" for j in range(1, 6)))


@dataclass(frozen=True)
class Order:
    """What is to be measured.  `metrics` are of `judge.ALL_METRICS`; `weights` is the folder of theirs."""

    pictures: list[Path]
    codecs: list[Codec]
    out: Path
    metrics: tuple[str, ...]
    weights: Path
    jobs: int = 1
    separate: bool = False  # encode and decode in two processes that share the file alone
    fresh: bool = False  # measure rows again that are there


@dataclass
class Result:
    """What was measured, and a line for everything that could not be."""

    rows: list[Row] = field(default_factory=list)
    sets: list[SetRow] = field(default_factory=list)
    originals: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder by name.  Raises FileNotFoundError when there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: no pictures ({', '.join(SUFFIXES)})")
    return paths


def coded_file(out: Path, dataset: str, codec: Codec, setting: float, picture: str) -> Path:
    """Where the coded file of a row lies."""
    return out / "files" / dataset / codec.name / f"{setting:g}" / f"{picture}{codec.suffix}"


def measure(
    order: Order,
    advance: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measures what is ordered and writes `pictures.csv` and `sets.csv` into `order.out`.

    `advance` is told how many rows are done, `tell` every problem as it comes; a picture, codec or metric
    that fails is left out.  Raises ValueError for an unknown metric and for a folder that holds the results
    of another data set.
    """
    run = _Run(order, advance, tell)
    order.out.mkdir(parents=True, exist_ok=True)
    lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
    every = [_Lane(order, run.ready) for _ in range(max(1, order.jobs))]
    for lane in every:
        lanes.put(lane)

    def work(source: Path) -> None:
        lane = lanes.get()
        try:
            run.picture(lane, source)
        finally:
            lanes.put(lane)

    with ThreadPoolExecutor(len(every)) as threads:
        try:
            for done in [threads.submit(work, source) for source in run.sources]:
                done.result()
        except BaseException:  # Ctrl-C above all: what is under way ends, nothing else begins
            run.stopped = True
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for lane in every:
                lane.close()
    return run.finish()


class _Lane:
    """A process for each codec (two with `separate`) and one that judges, started when they are needed."""

    def __init__(self, order: Order, metrics: tuple[str, ...]) -> None:
        self._separate = order.separate
        self._judge_arguments = (metrics, order.weights)
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def encode(self, codec: Codec, *arguments: Any) -> coding.Spent:
        return self._call(f"{codec.name} encode", coding.start, (), coding.encode, codec, *arguments)

    def decode(self, codec: Codec, path: Path) -> tuple[Picture, coding.Spent]:
        process = f"{codec.name} decode" if self._separate else f"{codec.name} encode"
        return self._call(process, coding.start, (), coding.decode, codec, path)

    def judge(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._call("judge", judge.start, self._judge_arguments, function, *arguments)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def _call(
        self, process: str, start: Callable[..., None], given: tuple[Any, ...], function: Any, *arguments: Any
    ) -> Any:
        if process not in self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools[process] = ProcessPoolExecutor(1, context, start, given)
        try:
            future: Future[Any] = self._pools[process].submit(function, *arguments)
            return future.result()
        except BrokenProcessPool:
            self._pools.pop(process).shutdown()
            raise RuntimeError("its process died (out of memory, or a crash in a library)") from None


class _Run:
    """The state that the lanes of one run share."""

    def __init__(self, order: Order, advance: Callable[[int], None], tell: Callable[[str], None]) -> None:
        self.order, self._advance, self._tell = order, advance, tell
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self.stopped = False
        self.result = Result()
        self.dataset = order.pictures[0].parent.resolve().name
        first = judge.Judge(order.metrics, order.weights)
        self.ready = tuple(first.ready)
        for line in [*first.problems, *first.notes]:
            self.problem(line)
        self.crop_px = sets.crop_side(order.pictures) if first.looks_at_sets else 0
        self.codec_ids = {
            codec.name: _digest(f"{codec.name}\n{codec.description}".encode()) for codec in order.codecs
        }
        self.sources = self._distinct(order.pictures)
        self._earlier = {(row.codec, row.setting, row.picture): row for row in self._read_earlier()}
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._ids = {source.stem: "" for source in self.sources}  # of pictures, once they are read

    def picture(self, lane: _Lane, source: Path) -> None:
        """All rows of one picture."""
        wanted = sum(len(codec.settings) for codec in self.order.codecs)
        try:
            image = read(source)
            picture_id = _digest(repr(image.shape).encode() + image.tobytes())
            if self.crop_px:
                name = f"{source.stem}-{picture_id}"
                path = sets.features_file(self.order.out, self.crop_px, sets.ORIGINAL, "", name)
                if not path.is_file():
                    sets.save_features(path, lane.judge(judge.features, image, self.crop_px))
        except (ValueError, OSError, RuntimeError) as error:
            self.problem(f"{source}: left out: {error}")
            self._advance(wanted)
            return
        with self._lock:
            self.result.originals[source.stem] = source
            self._ids[source.stem] = picture_id
        for codec in self.order.codecs:
            for setting in codec.settings:
                if self.stopped:
                    break
                self._one(lane, source, image, picture_id, codec, setting)
                self._advance(1)
        self._write_rows()

    def _one(
        self, lane: _Lane, source: Path, image: Picture, picture_id: str, codec: Codec, setting: float
    ) -> None:
        """One row: kept if it is complete, completed if metrics are missing, else measured."""
        if self._gave_up(codec.name):
            return
        path = coded_file(self.order.out, self.dataset, codec, setting, source.stem)
        features = sets.features_file(self.order.out, self.crop_px, codec.name, f"{setting:g}", source.stem)
        try:
            row = self._kept(path, source.stem, picture_id, codec, setting)
            decoded = None
            if row is None:
                features.unlink(missing_ok=True)
                row, decoded = self._code(lane, source, image, picture_id, codec, setting, path)
            names = tuple(name for name in self.ready if name not in row.metrics.split())
            crop_px = 0 if not self.crop_px or features.is_file() else self.crop_px
            looks = any(name in judge.PICTURE_METRICS for name in names) or crop_px > 0
            if looks and decoded is None:
                decoded, _ = lane.decode(codec, path)
        except Exception as error:  # whatever a codec raises must not end the run
            self._failed(codec.name, f"{codec.name} {setting:g}, {source.name}", error)
            return
        if looks and not self._gave_up("metrics"):
            try:
                figures, vectors = lane.judge(judge.look, picture_id, image, decoded, names, crop_px)
                tried = " ".join(sorted({*row.metrics.split(), *figures}))
                row = dataclasses.replace(row, **figures, metrics=tried)
                if vectors is not None:
                    sets.save_features(features, vectors)
            except Exception as error:  # the row stays, with a gap that a later run can fill
                self._failed("metrics", f"metrics of {codec.name} {setting:g}, {source.name}", error)
        with self._lock:
            self._rows[row.codec, row.setting, row.picture] = row

    def _code(
        self,
        lane: _Lane,
        source: Path,
        image: Picture,
        picture_id: str,
        codec: Codec,
        setting: float,
        path: Path,
    ) -> tuple[Row, Picture]:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = lane.encode(codec, image, setting, path)
        decoded, decoding = lane.decode(codec, path)
        if decoded.shape != image.shape:
            raise ValueError(f"decoded to {list(decoded.shape)}, the original is {list(image.shape)}")
        height, width = image.shape[:2]
        size = path.stat().st_size
        row = Row(
            dataset=self.dataset,
            codec=codec.name,
            setting=f"{setting:g}",
            picture=source.stem,
            width=width,
            height=height,
            bytes=size,
            bpp=8 * size / (width * height),
            psnr_db=NAN,
            lpips_alex=NAN,
            ms_ssim=NAN,
            encode_s=encoding.seconds,
            decode_s=decoding.seconds,
            peak_mb=max(encoding.peak_mb, decoding.peak_mb),
            jobs=max(1, self.order.jobs),
            picture_id=picture_id,
            codec_id=self.codec_ids[codec.name],
        )
        return dataclasses.replace(row, **_section_bits(path)), decoded

    def _kept(self, path: Path, picture: str, picture_id: str, codec: Codec, setting: float) -> Row | None:
        """The row of an earlier run, if its picture, its codec and its file are still the same."""
        row = self._earlier.get((codec.name, f"{setting:g}", picture))
        if row is None or (row.picture_id, row.codec_id) != (picture_id, self.codec_ids[codec.name]):
            return None
        return row if path.is_file() and path.stat().st_size == row.bytes else None

    def _read_earlier(self) -> list[Row]:
        path = self.order.out / "pictures.csv"
        if self.order.fresh or not path.is_file():
            return []
        rows = read_rows(path)
        for row in rows:
            if row.dataset != self.dataset:
                held = f"{path} holds results of {row.dataset!r}"
                raise ValueError(f"{held}; name another folder for {self.dataset!r}")
        return rows

    def _distinct(self, paths: list[Path]) -> list[Path]:
        """Pictures are named by their stem, so only the first of a.png and a.jpg can be measured."""
        first: dict[str, Path] = {}
        for path in paths:
            if path.stem in first:
                self.problem(f"{path}: left out: {first[path.stem].name} has the same name")
            first.setdefault(path.stem, path)
        return list(first.values())

    def _write_rows(self) -> None:
        """After every picture, so that a run that is cut short goes on from there."""
        with self._lock:
            earlier = {key: row for key, row in self._earlier.items() if self._still(row)}
            write_rows(self.order.out / "pictures.csv", (earlier | self._rows).values())

    def _still(self, row: Row) -> bool:
        """Whether the picture of an earlier row is in the folder, and, as far as is known yet, the same."""
        return row.picture in self._ids and self._ids[row.picture] in ("", row.picture_id)

    def finish(self) -> Result:
        """Rows and figures of whole sets, written to their files."""
        self._earlier = {k: row for k, row in self._earlier.items() if row.codec not in self.codec_ids}
        self._write_rows()
        # Back from the files, so that a page made of them later is the same.
        self.result.rows = read_rows(self.order.out / "pictures.csv")
        path = self.order.out / "sets.csv"
        if names := [name for name in self.order.metrics if name in judge.SET_METRICS]:
            crop_px = sets.crop_side(self.order.pictures)
            found, problems = sets.set_rows(self.order.out, self.result.rows, crop_px, names)
            for line in problems:
                self.problem(line)
            write_table(path, SetRow, found)
        self.result.sets = read_table(path, SetRow) if path.is_file() else []
        self.result.problems.sort()  # lanes come to them in any order
        return self.result

    def problem(self, line: str) -> None:
        with self._lock:
            self.result.problems.append(line)
        self._tell(line)

    def _failed(self, what: str, where: str, error: Exception) -> None:
        if self.stopped:
            return
        with self._lock:
            self._failures[what] = count = self._failures.get(what, 0) + 1
        self.problem(f"{where}: {next(iter(str(error).splitlines()), type(error).__name__)}")
        if count == FAILURES:
            self.problem(f"{what}: left out from here on, after {FAILURES} failures")

    def _gave_up(self, what: str) -> bool:
        return self._failures.get(what, 0) >= FAILURES


def _section_bits(path: Path) -> dict[str, Any]:
    """Payload bits of the sections of a sfumato file; nothing for other files."""
    if path.suffix != ".sfu":
        return {}
    try:
        sections = container.unpack(path.read_bytes()).sections
    except FormatError:
        return {}
    return {name: 8.0 * len(section.payload) for name, section in zip(BITS, sections, strict=True)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
