"""Codecs over images, measured: bytes on disk, metric values of the decoded image, seconds and memory.

    for every image, by one of `jobs` workers:
      for every codec and setting:
        encode -> OUT/files/DATASET/CODEC/SETTING/IMAGE.suffix -> decode -> metrics -> Record

Records are in OUT/images.csv, those of the whole data set in OUT/sets.csv.

Records that are there already, with their file, are not measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import queue
import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from evaluation import datasets, workers
from evaluation.codecs import RGB, Codec
from evaluation.metrics import MetricSuite, dataset_metrics, image_metrics
from evaluation.records import (
    SECTIONS,
    DatasetRecord,
    Record,
    read_records,
    read_table,
    write_records,
    write_table,
)
from evaluation.workers import Worker
from sfumato import container
from sfumato.errors import FormatError
from sfumato.image import read

SUFFIXES = (".png", ".webp", ".avif", ".jpg", ".jpeg", ".ppm", ".bmp", ".tif", ".tiff")
FAILURES = 3  # after which a codec, or the metrics, are not tried any more


@dataclass(frozen=True)
class EvalConfig:
    """What is measured.  `metrics` are of METRICS; `weights` is the folder of their weights."""

    images: list[Path]
    codecs: list[Codec]
    out: Path
    metrics: tuple[str, ...]
    weights: Path
    jobs: int = 1
    separate: bool = False  # encode and decode in two processes that share the file alone
    fresh: bool = False  # measure records again that are there

    @property
    def dataset(self) -> str:
        return self.images[0].parent.resolve().name


@dataclass
class Result:
    """What was measured, and a line for everything that could not be."""

    records: list[Record] = field(default_factory=list)
    datasets: list[DatasetRecord] = field(default_factory=list)
    originals: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name.  Raises FileNotFoundError when there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: no images ({', '.join(SUFFIXES)})")
    return paths


def coded_file(out: Path, dataset: str, codec: Codec, setting: float, image: str) -> Path:
    """Where the coded file of a record lies."""
    return out / "files" / dataset / codec.name / f"{setting:g}" / f"{image}{codec.suffix}"


def measure(
    config: EvalConfig,
    advance: Callable[[int], None] = lambda count: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measures, and writes `images.csv` and `sets.csv` into `config.out`.

    `advance` is called with the number of records done, `warn` with every warning as it comes; an image,
    codec or metric that fails is left out.  Raises ValueError for an unknown metric and for a folder that
    holds the results of another data set.
    """
    run = _Run(config, advance, warn)
    config.out.mkdir(parents=True, exist_ok=True)
    every = [Worker(config.separate, run.ready, config.weights) for _ in range(max(1, config.jobs))]
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in every:
        idle.put(worker)

    def work(source: Path) -> None:
        worker = idle.get()
        try:
            run.image(worker, source)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(every)) as threads:
        try:
            for done in [threads.submit(work, source) for source in run.sources]:
                done.result()
        except BaseException:  # Ctrl-C above all: what is under way ends, nothing else begins
            run.stopped = True
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for worker in every:
                worker.close()
    return run.finish()


class _Run:
    """The state that the workers of one run share."""

    def __init__(
        self, config: EvalConfig, advance: Callable[[int], None], warn: Callable[[str], None]
    ) -> None:
        self.config, self._advance, self._warn = config, advance, warn
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self.stopped = False
        self.result = Result()
        suite = MetricSuite(config.metrics, config.weights)
        self.ready = tuple(suite.ready)
        for line in [*suite.warnings, *suite.notes]:
            self.warning(line)
        self.crop_px = datasets.crop_side(config.images) if set(self.ready) & set(dataset_metrics()) else 0
        self.codec_ids = {
            one.name: _digest(f"{one.name}\n{one.description}".encode()) for one in config.codecs
        }
        self.sources: list[Path] = []
        self._ids: dict[str, str] = {}  # of the images' pixels, once they are read
        for (
            path
        ) in config.images:  # images are named by their stem, so only one of a.png and a.jpg can be measured
            if path.stem in self._ids:
                self.warning(f"{path}: left out: another image has the same name")
            else:
                self.sources.append(path)
                self._ids[path.stem] = ""
        self._earlier = {(one.codec, one.setting, one.image): one for one in self._read_earlier()}
        self._records: dict[tuple[str, str, str], Record] = {}

    def image(self, worker: Worker, source: Path) -> None:
        """All records of one image."""
        try:
            image = read(source)
            image_id = _digest(repr(image.shape).encode() + image.tobytes())
            if self.crop_px:
                name = f"{source.stem}-{image_id}"
                path = datasets.features_file(self.config.out, self.crop_px, datasets.ORIGINAL, "", name)
                if not path.is_file():
                    features = worker.compute(workers.crop_features, image, self.crop_px)
                    datasets.save_features(path, features)
        except (ValueError, OSError, RuntimeError) as error:
            self.warning(f"{source}: left out: {error}")
            self._advance(sum(len(codec.settings) for codec in self.config.codecs))
            return
        with self._lock:
            self.result.originals[source.stem] = source
            self._ids[source.stem] = image_id
        for codec in self.config.codecs:
            for setting in codec.settings:
                if self.stopped:
                    break
                self._measure(worker, source.stem, image, image_id, codec, setting)
                self._advance(1)
        self._write_records()

    def _measure(
        self, worker: Worker, name: str, image: RGB, image_id: str, codec: Codec, setting: float
    ) -> None:
        """One record: kept if it is complete, completed if metrics are missing, else measured."""
        if self._gave_up(codec.name):
            return
        out, crop_px = self.config.out, self.crop_px
        where = f"{codec.name} {setting:g}, {name}"
        path = coded_file(out, self.config.dataset, codec, setting, name)
        features = datasets.features_file(out, crop_px, codec.name, f"{setting:g}", name)
        try:
            record, x_hat = self._earlier_record(path, name, image_id, codec, setting), None
            if record is None:
                for side in (datasets.SMALL_CROP, datasets.LARGE_CROP):  # whatever this run measures
                    old = datasets.features_file(out, side, codec.name, f"{setting:g}", name)
                    old.unlink(missing_ok=True)
                record, x_hat = self._code(worker, name, image, image_id, codec, setting, path)
            names = [metric for metric in image_metrics() if metric in self.ready]
            names = [metric for metric in names if metric not in record.computed.split()]
            crop_px = 0 if features.is_file() else crop_px
            if (names or crop_px) and x_hat is None:
                x_hat, _ = worker.decode(codec, path)
        except Exception as error:  # whatever a codec raises must not end the run
            self._failed(codec.name, where, error)
            return
        if (names or crop_px) and not self._gave_up("metrics"):
            try:
                arguments = (image_id, image, x_hat, tuple(names), crop_px)
                values, vectors = worker.compute(workers.compute_metrics, *arguments)
                computed = " ".join(sorted({*record.computed.split(), *values}))
                record = dataclasses.replace(record, values=record.values | values, computed=computed)
                if vectors is not None:
                    datasets.save_features(features, vectors)
            except Exception as error:  # the record stays, with a gap that a later run can fill
                self._failed("metrics", f"metrics of {where}", error)
        with self._lock:
            self._records[record.codec, record.setting, record.image] = record

    def _code(
        self, worker: Worker, name: str, image: RGB, image_id: str, codec: Codec, setting: float, path: Path
    ) -> tuple[Record, RGB]:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = worker.encode(codec, image, setting, path)
        x_hat, decoding = worker.decode(codec, path)
        if x_hat.shape != image.shape:
            raise ValueError(f"decoded to {list(x_hat.shape)}, the original is {list(image.shape)}")
        height, width = image.shape[:2]
        size = path.stat().st_size
        record = Record(
            dataset=self.config.dataset,
            codec=codec.name,
            setting=f"{setting:g}",
            image=name,
            width=width,
            height=height,
            bytes=size,
            bpp=8 * size / (width * height),
            encode_s=encoding.seconds,
            decode_s=decoding.seconds,
            bits=section_bits(path),
            peak_mb=max(encoding.peak_mb, decoding.peak_mb),
            jobs=max(1, self.config.jobs),
            image_id=image_id,
            codec_id=self.codec_ids[codec.name],
        )
        return record, x_hat

    def _earlier_record(
        self, path: Path, name: str, image_id: str, codec: Codec, setting: float
    ) -> Record | None:
        """The record of an earlier run, if its image, its codec and its file are still the same."""
        one = self._earlier.get((codec.name, f"{setting:g}", name))
        if one is None or (one.image_id, one.codec_id) != (image_id, self.codec_ids[codec.name]):
            return None
        return one if path.is_file() and path.stat().st_size == one.bytes else None

    def _read_earlier(self) -> list[Record]:
        path = self.config.out / "images.csv"
        if self.config.fresh or not path.is_file():
            return []
        records = read_records(path)
        if other := sorted({one.dataset for one in records} - {self.config.dataset}):
            message = f"{path} holds results of {other[0]!r}; name another folder for {self.config.dataset!r}"
            raise ValueError(message)
        return records

    def _write_records(self) -> None:
        """After every image, so that a run that is cut short goes on from there."""
        with self._lock:
            # Earlier records stay while their image is in the folder and, as far as is known yet, the same.
            earlier = {
                k: one for k, one in self._earlier.items() if self._ids.get(one.image) in ("", one.image_id)
            }
            write_records(self.config.out / "images.csv", (earlier | self._records).values())

    def finish(self) -> Result:
        """Records and metrics of the whole data set, written to their files."""
        self._earlier = {k: one for k, one in self._earlier.items() if one.codec not in self.codec_ids}
        self._write_records()
        # Back from the files, so that a page made of them later is the same.
        self.result.records = read_records(self.config.out / "images.csv")
        path = self.config.out / "sets.csv"
        if names := [name for name in self.config.metrics if name in dataset_metrics()]:
            crop_px = datasets.crop_side(self.config.images)
            found, warnings = datasets.dataset_records(self.config.out, self.result.records, crop_px, names)
            for line in warnings:
                self.warning(line)
            write_table(path, DatasetRecord, found)
        elif path.is_file():  # what an earlier run found, as far as its files are still the same
            write_table(path, DatasetRecord, filter(self._holds, read_table(path, DatasetRecord)))
        self.result.datasets = read_table(path, DatasetRecord) if path.is_file() else []
        self.result.warnings.sort()  # workers come to them in any order
        return self.result

    def _holds(self, one: DatasetRecord) -> bool:
        """Whether a line on the whole set is of the files of the records: the mean rates are equal."""
        rates = [r.bpp for r in self.result.records if (r.codec, r.setting) == (one.codec, one.setting)]
        return bool(rates) and math.isclose(statistics.fmean(rates), one.bpp, rel_tol=1e-5)

    def warning(self, line: str) -> None:
        with self._lock:
            self.result.warnings.append(line)
        self._warn(line)

    def _failed(self, what: str, where: str, error: Exception) -> None:
        if self.stopped:
            return
        with self._lock:
            self._failures[what] = count = self._failures.get(what, 0) + 1
        self.warning(f"{where}: {next(iter(str(error).splitlines()), type(error).__name__)}")
        if count == FAILURES:
            self.warning(f"{what}: left out from here on, after {FAILURES} failures")

    def _gave_up(self, what: str) -> bool:
        return self._failures.get(what, 0) >= FAILURES


def section_bits(path: Path) -> dict[str, float]:
    """Payload bits of the sections of a latent; nothing for other files."""
    if path.suffix != ".sfu":
        return {}
    try:
        file = container.unpack(path.read_bytes())
    except FormatError:
        return {}
    if file.header.holds_pixels:
        return {}
    return {name: 8.0 * len(one.payload) for name, one in zip(SECTIONS, file.sections, strict=False)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
