"""python -m studies.exact_arithmetic DIR -o FOLDER: its cost in bits, in quality and in time.

Bits and PSNR of every image at five qualities, entropy model in exact arithmetic against the same networks
in float32; then the time of the pass with writing, for images of 0.4 to 12 megapixels, both kinds in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from evaluation.measure import images_in
from metrics.distortion import psnr
from metrics.lpips import load_lpips
from metrics.perceptual import LPIPS
from sfumato import image
from sfumato.autoregressive import Array, autoregressive_pass
from sfumato.checks import Checksum
from sfumato.codec import Codec
from sfumato.coder import Coder, Encoder, Meter
from sfumato.container import Header
from sfumato.diffusion_decoder import DiffusionOptions
from sfumato.files import write_csv
from sfumato.latents import make_symbol_coder, quality
from training.export import export
from training.networks.prior import Prior
from training.run_weights import load_weights

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZES = ((512, 768), (1024, 1536), (1536, 2048), (3000, 4000))


class Pair:
    """One set of weights with its entropy model in both arithmetics."""

    def __init__(self, run: Path) -> None:
        trained = load_weights(run)
        self.float32: Prior = trained.model.prior
        self.codec = Codec(export(trained))

    @property
    def exact(self) -> Array:
        return self.codec._latent_coder.prior

    def analyze(self, pixels: np.ndarray, q: float) -> tuple[np.ndarray, np.ndarray, Header]:
        header = Header(pixels.shape[1], pixels.shape[0], round(q * 255), 0)
        y, z = self.codec._latents(self.codec.analyze(pixels), quality(header))
        return y, z, header

    @torch.inference_mode()
    def coded(self, prior: Array, y: Array, z: Array, header: Header, coders: list[Coder]) -> np.ndarray:
        """y_hat; the coders have taken the symbols."""
        code = make_symbol_coder(coders, Checksum(header), lambda section: None)
        size = z.shape[2], z.shape[3]
        if prior is self.exact:
            y, z = y.astype(np.float64), z.astype(np.float64)
            found, _ = autoregressive_pass(prior, code, quality(header), size, z, y)
            return np.asarray(found, np.float32)

        def by_torch(section: int, is_last: bool, mu: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
            arrays = (None if t is None else t.double().numpy() for t in (mu, index, value))
            return torch.from_numpy(code(section, is_last, *arrays)).float()

        q = torch.tensor([quality(header)], dtype=torch.float32)
        found, _ = autoregressive_pass(prior, by_torch, q, size, torch.from_numpy(z), torch.from_numpy(y))
        return np.asarray(found)

    def decode(self, y_hat: np.ndarray, header: Header) -> np.ndarray:
        strips = self.codec._pieces(y_hat, header, DiffusionOptions())
        pixels = np.concatenate([image.from_x(x) for _, _, x in strips])
        return pixels[: header.height, : header.width]


def costs(pair: Pair, images: list[Path], lpips: LPIPS | None) -> Iterable[list[object]]:
    """Rows: bits of both kinds by the ideal code, their difference in percent, PSNR and LPIPS of both."""
    for path in images:
        pixels = image.read(path)
        for q in QUALITIES:
            y, z, header = pair.analyze(pixels, q)
            row: list[object] = []
            bits = []
            for prior in (pair.exact, pair.float32):
                meters = [Meter(pair.codec._latent_coder.tables) for _ in header.sections]
                decoded = pair.decode(pair.coded(prior, y, z, header, list(meters)), header)
                bits.append(sum(meter.bits for meter in meters))
                row.append(f"{psnr(pixels, decoded):.4f}")
                pair_of_x = [torch.from_numpy(image.to_x(p)) for p in (pixels, decoded)]
                distance = None if lpips is None else float(lpips(*pair_of_x))
                row.append("" if distance is None else f"{distance:.5f}")
            over = 100 * (bits[0] / bits[1] - 1)
            yield [path.stem, q, f"{bits[0]:.1f}", f"{bits[1]:.1f}", f"{over:.3f}", *row]


def timings(pair: Pair, pixels: np.ndarray, runs: int) -> Iterable[list[object]]:
    """Rows: medians of the pass with the coder, in seconds, for the image repeated to each size."""
    for height, width in SIZES:
        times = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
        y, z, header = pair.analyze(np.tile(pixels, times)[:height, :width], 0.5)
        seconds: dict[str, list[float]] = {"float32": [], "exact": [], "tiled": []}
        for _ in range(runs):
            for name, prior in (("float32", pair.float32), ("exact", pair.exact)):
                begun = time.perf_counter()
                encoders = [Encoder(pair.codec._latent_coder.tables) for _ in header.sections]
                pair.coded(prior, y, z, header, list(encoders))
                for encoder in encoders:
                    encoder.finish()
                seconds[name].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            pair.codec._latent_coder.write(y, z, header)  # as files are written: in tiles, if it is large
            seconds["tiled"].append(time.perf_counter() - begun)
        plain, exact, tiled = (statistics.median(seconds[name]) for name in ("float32", "exact", "tiled"))
        megapixels = height * width / 1e6
        yield [
            f"{megapixels:.2f}",
            torch.get_num_threads(),
            runs,
            f"{plain:.3f}",
            f"{exact:.3f}",
            f"{exact / plain:.2f}",
            f"{tiled:.3f}",
            f"{tiled / megapixels:.3f}",
        ]


def write(path: Path, heading: list[str], rows: Iterable[list[object]]) -> list[list[object]]:
    """The rows, which are on disk as well."""
    found = list(rows)
    write_csv(path, heading, found)
    return found


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: Path,
    metrics: Path | None = None,
    runs: int = 5,
) -> None:
    """Compare the exact entropy model with the float one.

    Args:
        images: folder of images.
        output: folder for exact.csv and exact-speed.csv.
        model: weights of a run of `python -m training`.
        metrics: folder with the LPIPS weights; without it that column stays empty.
        runs: of each timing; the median counts.
    """
    pair = Pair(model)
    paths = images_in(images)
    heading = ["image", "q", "exact_bits", "float32_bits", "over_percent"]
    heading += ["exact_psnr_db", "exact_lpips_alex", "float32_psnr_db", "float32_lpips_alex"]
    lpips = None if metrics is None else load_lpips("alex", metrics)
    rows = write(output / "exact.csv", heading, costs(pair, paths, lpips))
    for q in QUALITIES:
        chosen = [row for row in rows if row[1] == q]
        exact, plain = (sum(float(str(row[i])) for row in chosen) for i in (2, 3))
        means = [sum(float(str(row[i]) or "nan") for row in chosen) / len(chosen) for i in (5, 7, 6, 8)]
        figures = "PSNR {:.4f} / {:.4f}, LPIPS {:.4f} / {:.4f}".format(*means)
        print(f"q {q:4}: {100 * (exact / plain - 1):+.3f} % bits over float32; exact / float32: {figures}")
    heading = ["megapixels", "threads", "runs", "float32_s", "exact_s", "ratio"]
    heading += ["tiled_s", "tiled_s_per_megapixel"]
    for row in write(output / "exact-speed.csv", heading, timings(pair, image.read(paths[2]), runs)):
        print(dict(zip(heading, row, strict=True)))


if __name__ == "__main__":
    tyro.cli(main)
