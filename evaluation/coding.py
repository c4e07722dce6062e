"""A codec and a picture in, a coded file, seconds and memory out: all that the processes that code do.

Each codec codes in a process of its own, so that seconds and memory are its own: nothing here or in
`evaluation.codecs` imports torch, and no metric is computed there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.codecs import Codec, Picture

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_warm: set[str] = set()


@dataclass(frozen=True)
class Spent:
    """What one call cost."""

    seconds: float  # picture in memory <-> file on disk
    peak_mb: float  # peak resident memory, 2^20 bytes; see `measure.Row.peak_mb`


def start() -> None:
    """First thing in a process: one thread for libraries that count the cores when they are loaded.

    Ctrl-C is for the process that started this one, which then lets it end its work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def encode(codec: Codec, picture: Picture, setting: float, path: Path) -> Spent:
    """Writes the coded file, which appears complete or not at all."""
    _warm_up(codec, path.parent)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with _clock(codec) as spent:
            codec.encode(picture, setting, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return spent[0]


def decode(codec: Codec, path: Path) -> tuple[Picture, Spent]:
    """Reads it back."""
    _warm_up(codec, path.parent)
    with _clock(codec) as spent:
        picture = codec.decode(path)
    return picture, spent[0]


def _warm_up(codec: Codec, folder: Path) -> None:
    """One call in each process that is not timed: it loads weights and libraries.  Programs start anew."""
    if codec.name in _warm or codec.program_peak_mb is not None:
        return
    path = folder / f".warm-{os.getpid()}{codec.suffix}"
    try:
        codec.encode(np.full((64, 64, 3), 128, np.uint8), codec.settings[0], path)
        codec.decode(path)
    finally:
        path.unlink(missing_ok=True)
    _warm.add(codec.name)


@contextlib.contextmanager
def _clock(codec: Codec) -> Iterator[list[Spent]]:
    """Yields a list that holds what the block cost once it has ended."""
    spent: list[Spent] = []
    with contextlib.suppress(OSError):  # no such file but on Linux: the peak is then that of the whole life
        _CLEAR.write_text("5")
    begun = time.perf_counter()
    yield spent
    seconds = time.perf_counter() - begun
    peak = codec.program_peak_mb() if codec.program_peak_mb is not None else _own_peak_mb()
    spent.append(Spent(seconds, peak))


def _own_peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    lifetime = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lifetime / (2**20 if sys.platform == "darwin" else 1024)
