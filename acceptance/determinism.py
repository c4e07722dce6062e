"""python -m acceptance.determinism [-o CSV] [--python PATH ...]: is the entropy model the same everywhere?

One job decodes the golden files and passes over fixed latents, and prints a CRC-32 over every bit of every
mean and scale index.  It runs again under other threads, instruction sets, memory layouts, batches, floating
point modes and interpreters (each with its own numpy and onnxruntime).  Every row has to say "same".
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sfumato import container
from sfumato.autoregressive import autoregressive_pass
from sfumato.codec import Codec, load
from sfumato.files import write_csv

ROOT = Path(__file__).parent.parent
SIZES = ((1, 1), (3, 2), (8, 12))  # of z; 64 pixels each
QUALITIES = (0, 100, 255)  # as the byte in a file
FEATURES = "AVX2 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
"""Of the CPU; numpy leaves alone those that it was not built for."""
FLUSH_TO_ZERO = """
#if defined(__x86_64__)
#include <xmmintrin.h>
void flush_to_zero(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
#elif defined(__aarch64__)
void flush_to_zero(void) {
    unsigned long long control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("msr fpcr, %0" : : "r"(control | 1ull << 24));
}
#endif
"""
"""FTZ and DAZ in the control register of the thread, as libraries built with -ffast-math set them."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: what the job's process is started with."""

    name: str
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)


FTZ = Setting("denormals flushed to zero by another library", environment={"DETERMINISM_FLUSH": "1"})
SETTINGS = (
    Setting("1 thread"),
    Setting("2 threads", threads=2),
    Setting("numpy without vector instructions", environment={"NPY_DISABLE_CPU_FEATURES": FEATURES}),
    Setting("OpenBLAS for Nehalem (SSE4.2)", environment={"OPENBLAS_CORETYPE": "Nehalem"}),
    # with the size of the cache: numpy 2.5's kernel crashes by itself where a virtual machine hides that
    Setting(
        "OpenBLAS for Haswell (AVX2)",
        environment={"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "524288"},
    ),
    Setting("OpenBLAS for SkylakeX (AVX-512)", environment={"OPENBLAS_CORETYPE": "SkylakeX"}),
    Setting("every floating point warning an error", environment={"DETERMINISM_NUMPY_ERRORS": "raise"}),
    FTZ,
)
COLUMNS = ("setting", "python", "numpy", "onnxruntime", "cases", "result")


def latents(channels: int, height: int, width: int, seed: int, spread: float) -> NDArray[np.float64]:
    """[1, channels, height, width] of multiples of 1/256, the same on every machine."""
    x = np.random.Generator(np.random.PCG64(seed)).integers(-256, 257, (1, channels, height, width))
    return np.round(x * spread) / 256


def crcs(model: str) -> dict[str, int]:
    """CRC-32 of each case, in this process."""
    codec = load(model)
    out = {}
    for path in sorted((ROOT / "tests" / "golden").glob("[!x]*.sfu")):
        data = path.read_bytes()
        if not container.unpack(data).header.holds_pixels:
            out[f"file {path.stem}"] = latent(codec, data)
    for size in SIZES:
        for q in QUALITIES:
            for layout in ("plain", "channels last", "second of a batch"):
                out[f"{size[0]}x{size[1]} q {q} {layout}"] = _crc(passed(codec, size, q, layout))
    return out


def latent(codec: Codec, data: bytes) -> int:
    """CRC-32 of the latent that a file stands for."""
    file = container.unpack(data)
    return _crc([codec._latent_coder.read(file.header, file.sections)])


def passed(codec: Codec, size: tuple[int, int], q: int, layout: str) -> list[NDArray[np.float64]]:
    """Every mean and scale index of a pass over fixed latents, unrounded."""
    config = codec._config
    h, w = size
    # what a quality makes of an image: the better, the larger the latents
    spread = 1 + 40 * q / 255
    y, z = latents(config.channels, 4 * h, 4 * w, 1, spread), latents(config.z_channels, h, w, 2, 4 * spread)
    if layout == "channels last":
        y, z = (np.moveaxis(np.ascontiguousarray(np.moveaxis(t, 1, 3)), 3, 1) for t in (y, z))
    if layout == "second of a batch":
        y, z = np.concatenate([y[:, ::-1], y]), np.concatenate([z[:, ::-1], z])
    seen: list[NDArray[np.float64]] = []

    def code(
        section: int, is_last: bool, mu: NDArray, index: NDArray, value: NDArray | None
    ) -> NDArray[np.float64]:
        assert value is not None
        mu, index = np.broadcast_to(mu, value.shape), np.broadcast_to(index, value.shape)
        seen.extend((mu[-1], index[-1]))
        mu = np.rint(mu * 256) / 256
        coded: NDArray[np.float64] = mu + np.rint(value - mu)
        return coded

    autoregressive_pass(codec._latent_coder.prior, code, q / 255, size, z, y)
    return seen


def _crc(arrays: list[NDArray]) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return value


def flush_to_zero() -> None:
    """Has a library that is compiled here set FTZ and DAZ; OSError where they do not take effect."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "flush.so")
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=FLUSH_TO_ZERO, text=True, check=True)
        ctypes.CDLL(str(library)).flush_to_zero()
    if (np.full(8, 2.0**-1060) * np.full(8, 2.0**-2)).any():
        raise OSError("denormal numbers are not flushed to zero")


def start(setting: Setting, python: str, model: str) -> dict[str, Any]:
    """Versions and "crcs" from a fresh process; RuntimeError with its last line if it fails."""
    threads = {"OMP_NUM_THREADS": str(setting.threads)}
    command = [python, "-m", "acceptance.determinism", "--job", "--model", model]
    environment = os.environ | setting.environment | threads
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{setting.name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_job(model: str) -> None:
    """The job, in this process: prints its versions and CRCs as JSON."""
    if os.environ.get("DETERMINISM_FLUSH"):
        flush_to_zero()
    np.seterr(all=os.environ.get("DETERMINISM_NUMPY_ERRORS", "warn"))  # type: ignore[arg-type]
    versions = {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps(versions | {"python": platform.python_version(), "crcs": crcs(model)}))


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    python: tuple[str, ...] = (),
    model: str = "small",
    job: bool = False,
) -> None:
    """Run the job under every setting and compare.

    Args:
        output: CSV file, one row a setting and interpreter.
        python: further interpreters, each with another numpy and this project's dependencies.
        model: weights by name, or a path.
        job: run the job in this process and print its figures as JSON.
    """
    if job:
        run_job(model)
        return
    settings = [setting for setting in SETTINGS if setting is not FTZ or shutil.which("cc")]
    runs = [(setting, path) for path in (sys.executable, *python) for setting in settings]
    table = Table(*COLUMNS)
    rows = []
    reference: dict[str, int] = {}
    for setting, path in runs:
        answer = start(setting, path, model)
        found = answer.pop("crcs")
        reference = reference or found
        wrong = [case for case in reference if found.get(case) != reference[case]]
        result = f"different: {', '.join(wrong)}" if wrong else "same"
        versions = (answer[name] for name in COLUMNS[1:4])
        rows.append((setting.name, *versions, str(len(found)), result))
        table.add_row(*rows[-1])
    Console().print(table)
    if len(settings) < len(SETTINGS):
        print(f"{FTZ.name}: left out, there is no C compiler")
    if output is not None:
        write_csv(output, COLUMNS, rows)
    if any(row[-1] != "same" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
