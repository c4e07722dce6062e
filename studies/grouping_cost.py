"""python -m studies.grouping_cost -o CSV: time and memory that a list of chunks takes to decode.

The entropy model in exact arithmetic with the real coder, networks of the preset `small` that were not
trained; all symbols at sigma near 1, which is more work for the coder than an image.  CPU seconds of one
thread, so that a busy machine counts for little; memory is the peak of what numpy allocates.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from sfumato import exact
from sfumato.autoregressive import Array, autoregressive_pass
from sfumato.checks import Checksum
from sfumato.coder import Decoder, Encoder
from sfumato.container import Header
from sfumato.files import write_csv
from sfumato.latents import make_symbol_coder, quality
from sfumato.scales import Tables
from sfumato.transforms import HYPER_STRIDE, STRIDE
from studies.grouping import GROUPINGS, config_of
from training.calibration import Calibration
from training.export import integers
from training.networks.model import PRESETS, Config, entropy_model

SIZES = ((512, 768), (1024, 1536))
Q = 128  # of 255
HEADING = ["chunks", "megapixels", "sections", "parameters", "decode_cpu_s", "peak_mb"]


class Grouped:
    """The exact entropy model of one list of chunks, and the coder."""

    def __init__(self, name: str, config: Config) -> None:
        torch.manual_seed(0)
        c = config_of(name, config)
        prior = entropy_model(c).eval().requires_grad_(False)
        y, z = torch.randn(1, c.latent, 16, 16), torch.randn(1, c.z_channels, 4, 4)
        with Calibration(prior) as calibration:
            prior(y, z, torch.tensor([0.5]))
        fractions = {k.removeprefix("fractions."): int(v) for k, v in calibration.fractions().items()}
        self.prior: Array = exact.from_arrays(integers(prior, fractions))
        self.config, self.tables = c, Tables.gaussian()

    def latents(self, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Header]:
        """Random y and z of the size of an image's, and the header of its file."""
        rng = np.random.default_rng(0)
        y = rng.normal(size=(1, self.config.latent, height // STRIDE, width // STRIDE))
        z = rng.normal(size=(1, self.config.z_channels, height // HYPER_STRIDE, width // HYPER_STRIDE))
        return y, z, Header(width, height, Q, 0, chunks=len(self.config.chunks))

    def encode(self, y: Array, z: Array, header: Header) -> tuple[list[bytes], NDArray[np.float64]]:
        """The sections, and y_hat."""
        coders = [Encoder(self.tables) for _ in header.sections]
        code = make_symbol_coder(coders, Checksum(header), lambda section: None)
        size = z.shape[2], z.shape[3]
        passes = self.config.passes
        y_hat, _ = autoregressive_pass(self.prior, code, quality(header), size, z, y, passes=passes)
        return [coder.finish() for coder in coders], y_hat

    def decode(self, sections: list[bytes], header: Header) -> NDArray[np.float64]:
        """y_hat."""
        coders = [Decoder(self.tables, section) for section in sections]
        code = make_symbol_coder(coders, Checksum(header), lambda section: None)
        size = header.height // HYPER_STRIDE, header.width // HYPER_STRIDE
        y_hat, _ = autoregressive_pass(self.prior, code, quality(header), size, passes=self.config.passes)
        return np.asarray(y_hat)


def measure(name: str, config: Config, height: int, width: int, repeats: int) -> tuple[float, float]:
    """(CPU seconds of decoding, median; MB at the peak)."""
    grouped = Grouped(name, config)
    y, z, header = grouped.latents(height, width)
    sections, expected = grouped.encode(y, z, header)
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        found = grouped.decode(sections, header)
        seconds.append(time.process_time() - begun)
    if not np.array_equal(found, expected):
        raise ValueError(f"{name}: what was decoded is not what was encoded")
    tracemalloc.start()
    grouped.decode(sections, header)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return statistics.median(seconds), peak / 1e6


def parameters(config: Config) -> int:
    """Of the layers that are used: one pass over a chunk has no spatial context."""
    spatial = ("local.", "globe.", "enter_spatial.")
    used = [
        parameter
        for name, parameter in entropy_model(config).named_parameters()
        if config.passes == 2 or not any(part in name for part in spatial)
    ]
    return sum(parameter.numel() for parameter in used)


def rows(preset: str, sizes: tuple[tuple[int, int], ...], repeats: int) -> Iterator[list[str]]:
    config = PRESETS[preset]
    for height, width in sizes:
        for name in GROUPINGS:
            seconds, peak = measure(name, config, height, width, repeats)
            c = config_of(name, config)
            row = [name, f"{height * width / 1e6:.1f}", str(len(c.chunks)), str(parameters(c))]
            yield [*row, f"{seconds:.2f}", f"{peak:.0f}"]


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    preset: str = "small",
    repeats: int = 3,
    sizes: tuple[tuple[int, int], ...] = SIZES,
) -> None:
    """Decode random latents with every list of chunks.

    Args:
        output: the CSV file.
        preset: whose networks.
        repeats: decodings of which the median is taken.
        sizes: height and width of images, multiples of 64.
    """
    found = []
    for row in rows(preset, sizes, repeats):
        found.append(row)
        print(*row, flush=True)
        write_csv(output, HEADING, found)


if __name__ == "__main__":
    tyro.cli(main)
