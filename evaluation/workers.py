"""The processes that code and those that compute metrics.

Each codec codes in a process of its own, so that seconds and memory are its own: nothing imported here
imports torch, until a process loads its metrics.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.codecs import RGB, Codec
from evaluation.metrics import MetricSuite, Reference

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_warm: set[str] = set()
_suite: MetricSuite | None = None
_last: tuple[str, Reference] | None = None  # the original that came last


@dataclass(frozen=True)
class Cost:
    """What one call cost."""

    seconds: float  # image in memory <-> file on disk
    peak_mb: float  # peak resident memory of the process, 2^20 bytes


class Worker:
    """A process for each codec (two with `separate`) and one for metrics, started when they are needed."""

    def __init__(self, separate: bool, metrics: tuple[str, ...], weights: Path) -> None:
        self._separate, self._suite = separate, (metrics, weights)
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def encode(self, codec: Codec, image: RGB, setting: float, path: Path) -> Cost:
        return self._call(f"{codec.name} encode", (), encode, codec, image, setting, path)

    def decode(self, codec: Codec, path: Path) -> tuple[RGB, Cost]:
        process = f"{codec.name} decode" if self._separate else f"{codec.name} encode"
        return self._call(process, (), decode, codec, path)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._call("metrics", self._suite, function, *arguments)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def _call(self, process: str, setup: tuple[Any, ...], function: Any, *arguments: Any) -> Any:
        if process not in self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools[process] = ProcessPoolExecutor(1, context, init_worker, setup)
        try:
            return self._pools[process].submit(function, *arguments).result()
        except BrokenProcessPool:
            self._pools.pop(process).shutdown()
            raise RuntimeError("its process died (out of memory, or a crash in a library)") from None


def init_worker(metrics: tuple[str, ...] = (), weights: Path | None = None) -> None:
    """First call in a process: one thread for libraries that count the cores when they are loaded.

    Ctrl-C is for the process that started this one, which then lets it finish its call.
    """
    global _suite
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if weights is not None:
        import torch

        torch.set_num_threads(1)
        _suite = MetricSuite(metrics, weights)


def encode(codec: Codec, image: RGB, setting: float, path: Path) -> Cost:
    """Writes the coded file, which appears complete or not at all."""
    _warm_up(codec, path.parent)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with _timed() as cost:
            codec.encode(image, setting, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return cost[0]


def decode(codec: Codec, path: Path) -> tuple[RGB, Cost]:
    """Reads it back."""
    _warm_up(codec, path.parent)
    with _timed() as cost:
        image = codec.decode(path)
    return image, cost[0]


def compute_metrics(
    image_id: str, x: RGB, x_hat: RGB, names: tuple[str, ...], crop_px: int
) -> tuple[dict[str, float], np.ndarray | None]:
    """Metric values of one decoded image, and the features of its crops; `crop_px` 0: no features.

    An original with the `image_id` of the last call has its references used again.
    """
    global _last
    assert _suite is not None
    if _last is None or _last[0] != image_id:
        _last = (image_id, _suite.reference(x))
    values = _suite.compute(_last[1], x_hat, names) if names else {}
    return values, crop_features(x_hat, crop_px) if crop_px else None


def crop_features(image: RGB, crop_px: int) -> np.ndarray:
    """Features of the crops of one image."""
    assert _suite is not None
    return _suite.crop_features(image, crop_px)


def _warm_up(codec: Codec, folder: Path) -> None:
    """One call in each process that is not timed: it loads weights and libraries."""
    if codec.name in _warm:
        return
    path = folder / f".warm-{os.getpid()}{codec.suffix}"
    try:
        codec.encode(np.full((64, 64, 3), 128, np.uint8), codec.settings[0], path)
        codec.decode(path)
    finally:
        path.unlink(missing_ok=True)
    _warm.add(codec.name)


@contextlib.contextmanager
def _timed() -> Iterator[list[Cost]]:
    """Yields a list that holds what the block cost once it has ended."""
    cost: list[Cost] = []
    with contextlib.suppress(OSError):  # only Linux has it: elsewhere the peak is that of the process's life
        _CLEAR.write_text("5")
    begun = time.perf_counter()
    yield cost
    cost.append(Cost(time.perf_counter() - begun, _peak_mb()))


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    lifetime = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lifetime / (2**20 if sys.platform == "darwin" else 1024)
