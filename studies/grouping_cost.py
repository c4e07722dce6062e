"""python -m studies.grouping_cost -o CSV: time and memory that entropy models take to decode.

Lists of chunks, the first chunks of the preset alone, and a raster scan as the reference.  Exact arithmetic
with the real coder, networks of the preset `small` that were not trained; sigmas around 1, no symbol at the
lowest scale, which is more work for the coder than an image.  CPU seconds of one thread, so that a busy
machine counts for little; memory is the peak of what numpy allocates.  `steps` are the evaluations of g_ep
that wait for each other: passes over chunks, or positions of the raster scan.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from sfumato import exact
from sfumato.autoregressive import INDEX_STEP, Array, autoregressive_pass
from sfumato.checks import Checksum
from sfumato.coder import Decoder, Encoder
from sfumato.container import Header
from sfumato.files import write_csv
from sfumato.latents import make_symbol_coder, quality
from sfumato.scales import LOG_STEP, Tables
from sfumato.transforms import HYPER_STRIDE, STRIDE
from studies import raster
from studies.grouping import GROUPINGS, config_of
from training.calibration import Calibration
from training.export import integers
from training.networks.model import PRESETS, Config, entropy_model

SIZES = ((512, 768), (1024, 1536), (3008, 4032))  # 0.4, 1.6 and 12 megapixels
LARGE = 10_000_000  # pixels, from which on only a few rows are measured, and once
Q = 128  # of 255
NUM_SCALES = 19  # at each position, about as many as kodim15 has at q = 0.5; the coder takes them one by one
RASTER = "raster scan"
LARGE_ROWS = ("five uneven", "five even", "ten even", "five uneven, one pass", "one chunk", RASTER)
HEADING = ["entropy_model", "megapixels", "sections", "steps", "parameters", "decode_cpu_s", "peak_mb"]


def configs(config: Config) -> dict[str, Config]:
    """The entropy models of the table: every list of chunks, the first chunks alone, the raster scan."""
    found = {name: config_of(name, config) for name in GROUPINGS}
    for count in range(1, len(config.chunks)):
        chunks = config.chunks[:count]
        found[f"first {sum(chunks)} channels"] = replace(config, chunks=chunks)
    return found | {RASTER: replace(config, chunks=(config.latent,))}


class EntropyCoder:
    """The exact entropy model of one row of the table, not trained, and the coder."""

    tables = Tables.gaussian()

    def __init__(self, name: str, config: Config) -> None:
        torch.manual_seed(0)
        self.name, self.config = name, config
        network = raster.network(config) if name == RASTER else entropy_model(config)
        network.eval().requires_grad_(False)
        self.offsets = np.arange(config.latent) % NUM_SCALES - NUM_SCALES // 2  # of scale indexes, by channel
        parts = np.split(self.offsets / INDEX_STEP, np.cumsum(config.chunks)[:-1])
        biases = [p for key, p in network.named_parameters() if key.endswith("out_projection.bias")]
        for bias, part in zip(biases, parts, strict=True):
            bias[len(part) :] += torch.from_numpy(part)
        y, z = torch.randn(1, config.latent, 16, 16), torch.randn(1, config.z_channels, 4, 4)
        with Calibration(network) as calibration:
            if name == RASTER:
                raster.calibrate(network, y, z)
            else:
                network(y, z, torch.tensor([0.5]))
        fractions = {k.removeprefix("fractions."): int(v) for k, v in calibration.fractions().items()}
        self.prior: Array = exact.from_arrays(integers(network, fractions))
        passes = partial(autoregressive_pass, passes=config.passes)
        self.coding_pass = raster.raster_scan if name == RASTER else passes
        # one pass over a chunk has no spatial context
        spatial = ("local.", "global_context.", "in_projection_spatial.") if config.passes == 1 else ()
        self.parameters = sum(
            parameter.numel()
            for key, parameter in network.named_parameters()
            if not any(part in key for part in spatial)
        )

    def steps(self, height: int, width: int) -> int:
        """Evaluations of g_ep, one after another, for an image of this size."""
        if self.name == RASTER:
            return (height // STRIDE) * (width // STRIDE)
        return self.config.passes * len(self.config.chunks)

    def latents(self, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Header]:
        """Random y and z of the size of an image's, and the header of its file."""
        rng = np.random.default_rng(0)
        y = rng.normal(size=(1, self.config.latent, height // STRIDE, width // STRIDE))
        y *= np.exp(LOG_STEP * self.offsets)[:, None, None]
        z = rng.normal(size=(1, self.config.z_channels, height // HYPER_STRIDE, width // HYPER_STRIDE))
        return y, z, Header(width, height, Q, 0, chunks=len(self.config.chunks))

    def encode(self, y: Array, z: Array, header: Header) -> tuple[list[bytes], NDArray[np.float64]]:
        """The sections, and y_hat."""
        coders = [Encoder(self.tables) for _ in header.sections]
        code = make_symbol_coder(coders, Checksum(header), lambda section: None)
        y_hat, _ = self.coding_pass(self.prior, code, quality(header), (z.shape[2], z.shape[3]), z, y)
        return [coder.finish() for coder in coders], np.asarray(y_hat)

    def decode(self, sections: list[bytes], header: Header) -> NDArray[np.float64]:
        """y_hat."""
        coders = [Decoder(self.tables, section) for section in sections]
        code = make_symbol_coder(coders, Checksum(header), lambda section: None)
        size = header.height // HYPER_STRIDE, header.width // HYPER_STRIDE
        y_hat, _ = self.coding_pass(self.prior, code, quality(header), size)
        return np.asarray(y_hat)


def measure(coder: EntropyCoder, height: int, width: int, repeats: int) -> tuple[float, float]:
    """(CPU seconds of decoding, median; MB at the peak)."""
    y, z, header = coder.latents(height, width)
    sections, expected = coder.encode(y, z, header)
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        found = coder.decode(sections, header)
        seconds.append(time.process_time() - begun)
    if not np.array_equal(found, expected):
        raise ValueError(f"{coder.name}: what was decoded is not what was encoded")
    tracemalloc.start()
    coder.decode(sections, header)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return statistics.median(seconds), peak / 1e6


def rows(preset: str, sizes: Sequence[tuple[int, int]], repeats: int) -> Iterator[list[str]]:
    coders = [EntropyCoder(name, config) for name, config in configs(PRESETS[preset]).items()]
    for height, width in sizes:
        is_large = height * width >= LARGE
        for coder in coders:
            if is_large and coder.name not in LARGE_ROWS:
                continue
            seconds, peak = measure(coder, height, width, 1 if is_large else repeats)
            counts = len(coder.config.chunks), coder.steps(height, width), coder.parameters
            row = [coder.name, f"{height * width / 1e6:.1f}", *map(str, counts)]
            yield [*row, f"{seconds:.2f}", f"{peak:.0f}"]


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    preset: str = "small",
    repeats: int = 3,
    sizes: tuple[tuple[int, int], ...] = SIZES,
) -> None:
    """Decode random latents with every entropy model of the table.

    Args:
        output: the CSV file.
        preset: whose networks.
        repeats: decodings of which the median is taken; one from 10 megapixels on.
        sizes: height and width of images, multiples of 64; from 10 megapixels on a few rows only.
    """
    found = []
    for row in rows(preset, sizes, repeats):
        found.append(row)
        print(*row, flush=True)
        write_csv(output, HEADING, found)


if __name__ == "__main__":
    tyro.cli(main)
