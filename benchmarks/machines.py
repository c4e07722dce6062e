"""python -m benchmarks.machines [-o CSV] [--python PATH ...]: is the entropy model the same everywhere?

One job decodes the golden files and walks over fixed latents, and prints a CRC-32 over every bit of every
mean and scale level.  It runs again under other threads, instruction sets, memory layouts, batches,
interpreters (each with its own torch), and on CUDA where there is one.  Every cell has to say "same".
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sfumato import container, quantise
from sfumato.codec import Codec, load
from sfumato.image import write_bytes

ROOT = Path(__file__).parent.parent
SIZES = ((1, 1), (3, 2), (8, 12))  # of z; 64 pixels each
QUALITIES = (0, 100, 255)  # as the byte in a file


@dataclass(frozen=True)
class Setting:
    """One row of the table: what the job's process is started with."""

    name: str
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"


SETTINGS = (
    Setting("1 thread"),
    Setting("2 threads", threads=2),
    Setting("torch without vector instructions", environment={"ATEN_CPU_CAPABILITY": "default"}),
    Setting("torch up to AVX2", environment={"ATEN_CPU_CAPABILITY": "avx2"}),
    Setting("oneDNN up to SSE4.1", environment={"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Setting("oneDNN up to AVX-512", environment={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    Setting("MKL compatible, 2 threads", threads=2, environment={"MKL_CBWR": "COMPATIBLE"}),
    Setting("MKL up to AVX2", environment={"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
)


def latents(channels: int, height: int, width: int, seed: int, spread: float) -> Tensor:
    """[1, channels, height, width] of multiples of 1/256, the same on every machine."""
    x = np.random.Generator(np.random.PCG64(seed)).integers(-256, 257, (1, channels, height, width))
    return torch.from_numpy(np.round(x * spread) / 256)


@torch.inference_mode()
def crcs(model: str, device: str) -> dict[str, int]:
    """CRC-32 of each case, in this process."""
    codec = load(model)
    out = {}
    for path in sorted((ROOT / "tests" / "golden").glob("[!x]*.sfu")):
        out[f"file {path.stem}"] = latent(codec, path.read_bytes())
    for size in SIZES:
        for q in QUALITIES:
            for layout in ("plain", "channels last", "second of a batch"):
                out[f"{size[0]}x{size[1]} q {q} {layout}"] = _crc(_walk(codec, size, q, layout, device))
    return out


@torch.inference_mode()
def latent(codec: Codec, data: bytes) -> int:
    """CRC-32 of the latent that a file stands for."""
    file = container.unpack(data)
    return _crc([codec._latent_coder.read(file.header, file.sections)])


def _walk(codec: Codec, size: tuple[int, int], q: int, layout: str, device: str) -> list[Tensor]:
    config = codec._model.config
    h, w = size
    # what a quality makes of a picture: the better, the larger the latents
    spread = 1 + 40 * q / 255
    y, z = latents(config.latent, 4 * h, 4 * w, 1, spread), latents(config.z_channels, h, w, 2, 4 * spread)
    quality = torch.tensor([q / 255], dtype=torch.float64)
    if layout == "channels last":
        y, z = (t.contiguous(memory_format=torch.channels_last) for t in (y, z))
    if layout == "second of a batch":
        y, z = torch.cat([y.flip(1), y]), torch.cat([z.flip(1), z])
        quality = quality.repeat(2)
    seen: list[Tensor] = []

    def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        seen.extend((mu[-1], level[-1]))
        mu = quantise.snap(mu)
        return mu + quantise.hard(value - mu)

    prior = codec._latent_coder.prior.to(device)
    prior.walk(code, quality.to(device), size, z.to(device), y.to(device))
    prior.to("cpu")
    return seen


def _crc(tensors: list[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.cpu().contiguous().numpy().tobytes(), value)
    return value


def start(setting: Setting, python: str, model: str) -> tuple[str, dict[str, int]]:
    """(version of torch, CRCs) from a fresh process; RuntimeError with its last line if it fails."""
    threads = {name: str(setting.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [python, "-m", "benchmarks.machines", "--job", "--model", model, "--device", setting.device]
    environment = os.environ | setting.environment | threads
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{setting.name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["torch"], answer["crcs"]


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    python: tuple[str, ...] = (),
    model: str = "small",
    job: bool = False,
    device: str = "cpu",
) -> None:
    """Run the job under every setting and compare.

    Args:
        output: CSV file, one row a setting and interpreter.
        python: further interpreters, each with another torch and this project's dependencies.
        model: weights by name, or a path.
        job: run the job in this process and print its figures as JSON.
        device: of the job.
    """
    if job:
        print(json.dumps({"torch": torch.__version__, "crcs": crcs(model, device)}))
        return
    settings = list(SETTINGS)
    if torch.cuda.is_available():
        settings.append(Setting("CUDA", device="cuda"))
    runs = [(setting, sys.executable) for setting in settings]
    runs += [(setting, path) for path in python for setting in SETTINGS[:2]]
    table = Table("setting", "python", "torch", "cases", "result")
    rows = []
    reference: dict[str, int] = {}
    for setting, path in runs:
        version, found = start(setting, path, model)
        reference = reference or found
        wrong = [case for case in reference if found.get(case) != reference[case]]
        result = f"different: {', '.join(wrong)}" if wrong else "same"
        rows.append((setting.name, version, len(found), result))
        table.add_row(setting.name, Path(path).parent.parent.name, version, str(len(found)), result)
    Console().print(table)
    if output is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("setting", "torch", "cases", "result"))
        writer.writerows(rows)
        write_bytes(output, text.getvalue().encode())
    if any(row[-1] != "same" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
