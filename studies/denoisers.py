"""Recipes of denoisers in, a resumable table of what each gives out: rate, figures and seed spread.

One denoiser for each recipe and seed, on one frozen codec, from the denoiser of its weights and at equal CPU
time; then equal latents decoded by each, with two seeds of its noise.  Seeds are the outer loop, so that a
study that is cut short has equally many of every variant.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from evaluation.measure import images_in
from evaluation.metrics import MetricSuite
from metrics.distortion import psnr
from metrics.frechet import Frechet
from sfumato import sampler
from sfumato.files import write_csv
from sfumato.image import from_x, read, to_x
from sfumato.lpips import weights_folder
from sfumato.transforms import BaseReconstruction
from studies.grid_artefact import tile
from studies.spectrum import recovered
from training.loop import Run, train
from training.networks.model import Model
from training.objective import sampled
from training.recipes import Recipe
from training.run_weights import load_weights
from training.validation import round_trip

METRICS = ("psnr_db", "lpips_alex", "lpips_vgg", "dists")
SIDE = 384  # pixels of the part of each image that is looked at, from the middle
CROP = 64  # pixels of the crops for the Frechet distance
BANDS = ("energy_16th", "energy_8th", "energy_4th", "energy_half")
"""Shares of the original's energy, octave by octave up to the highest frequency."""
FIGURES = (*METRICS, "fd_efflite0", "seed_psnr_db", *BANDS, "tile_rms_levels")
STARTS = {"steps 0": 0, "start": 1}
"""What is there before any training: name of the row -> steps."""
HEAD = ("variant", "seed", "cpu_minutes", "trained_steps", "q", "bpp", "steps", *FIGURES)

RGB = UInt8[np.ndarray, "h w 3"]
Table = list[dict[str, str]]


@dataclass(frozen=True)
class Options:
    """What a study is run with."""

    data: list[Path]
    """Photographs to train on, as for `python -m training`."""
    runs: Path
    """Folder for the runs, one a variant and seed."""
    screens: tuple[Path, ...] = ()
    """Rendered images, of which the recipe takes a share."""
    metrics: Path | None = None
    """Folder with the metrics' networks; without it as for the evaluation."""
    cache: Path | None = None
    """Folder for decoded training images."""
    init: Path = Path("small")
    """Weights of the codec, and of the denoiser that all start from."""
    minutes: float = 3.0
    """CPU minutes for each run."""
    seeds: int = 1
    """Seeds 0, 1, .. of crops, noise and initial weights."""
    qualities: tuple[float, ...] = (0.2, 0.5)
    """q at which latents are decoded."""
    steps: tuple[int, ...] = (1,)
    """Numbers of steps to decode with."""
    eta: float = 0.0
    """Fresh noise of each step: 0 none, 1 as much as the posterior has."""
    images: int = 8
    """So many images are looked at."""
    only: tuple[str, ...] = ()
    """Names of the variants to run now; all of them if empty."""


def run(folder: Path, output: Path, options: Options, variants: Mapping[str, Recipe]) -> Table:
    """Train what is missing of the table at `output`, measure it on the images of `folder`; rows stay."""
    metrics = options.metrics or weights_folder()
    test_set = TestSet(folder, metrics, options.images, options.eta)
    rows: Table = []
    if output.exists():
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file))
        check_same(output, options, rows)
    if not rows:
        start = load_weights(options.init).model
        rows = [
            _row(name, 0, 0, 0, q, steps, test_set.metric_values(start, q, steps))
            for q in options.qualities
            for name, steps in STARTS.items()
        ]
    for seed in range(options.seeds):
        for name, recipe in variants.items():
            there = any((row["variant"], row["seed"]) == (name, str(seed)) for row in rows)
            if there or (options.only and name not in options.only):
                continue
            out = options.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            stage = Run(options.data, metrics, out, options.minutes, options.init, seed=seed)
            stage = replace(stage, screens=options.screens, cache=options.cache, threads=1, cpu_time=True)
            weights = load_weights(train(recipe, replace(stage, save_every=1e9)))
            trained = int(weights.notes["steps"])
            for q in options.qualities:
                for steps in options.steps:
                    found = test_set.metric_values(weights.model, q, steps)
                    rows.append(_row(name, seed, options.minutes, trained, q, steps, found))
                    print(", ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
            write_csv(output, HEAD, [[row[key] for key in HEAD] for row in rows])
    return rows


def check_same(output: Path, options: Options, rows: Table) -> None:
    """SystemExit where a table holds rows of other options than those: they would be taken for these."""
    wanted = {"q": options.qualities, "steps": options.steps, "cpu_minutes": (options.minutes,)}
    trained = [row for row in rows if row["variant"] not in STARTS]
    for name, values in wanted.items():
        if other := sorted({row[name] for row in trained if float(row[name]) not in values}):
            raise SystemExit(f"{output} holds rows of {name} {', '.join(other)}; name another table")


class TestSet:
    """Images, their metrics, and the metric values of the decoded ones."""

    def __init__(self, folder: Path, metrics: Path, count: int, eta: float = 0.0) -> None:
        self.eta = eta
        images = [middle(read(path)) for path in images_in(folder)[:count]]
        self.suite = MetricSuite((*METRICS, "fd_efflite0"), metrics)
        self.originals = [self.suite.reference(image) for image in images]
        crops = [self.suite.crop_features(image, CROP) for image in images]
        self.frechet = Frechet(np.concatenate(crops))

    @torch.inference_mode()
    def metric_values(self, model: Model, q: float, steps: int) -> dict[str, float]:
        """Means over the images; the rate is the entropy model's estimate for rounded symbols."""
        model.eval()
        found: defaultdict[str, list[float]] = defaultdict(list)
        crops, tiles = [], []
        for number, original in enumerate(self.originals):
            x, at = torch.from_numpy(to_x(original.image)), torch.tensor([q])
            base, bits = round_trip(model, x, at)
            found["bpp"].append(float(bits) / x[0, 0].numel())
            seeds = (2 * number, 2 * number + 1) if steps else (0,)
            pair = [decoded(model, base, at, steps, seed, self.eta) for seed in seeds]
            for name, figure in self.suite.compute(original, pair[0]).items():
                found[name].append(float(figure))
            if steps:
                found["seed_psnr_db"].append(min(99.0, psnr(*pair)))
            for name, share in zip(BANDS, recovered(original.image, pair[0]), strict=True):
                found[name].append(share)
            tiles.append(tile(original.image, pair[0]))
            crops.append(self.suite.crop_features(pair[0], CROP))
        means = {name: float(np.mean(values)) for name, values in found.items()}
        means["fd_efflite0"] = self.frechet.distance(np.concatenate(crops))
        means["tile_rms_levels"] = float(np.sqrt((np.mean(tiles, 0) ** 2).mean()))
        return means


def middle(image: RGB) -> RGB:
    """The middle `SIDE` pixels."""
    top, left = ((side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def decoded(
    model: Model, base: BaseReconstruction, q: Float[Tensor, " 1"], steps: int, seed: int, eta: float = 0.0
) -> RGB:
    """What comes back, in 8 bits; 0 steps leave the base reconstruction."""
    if not steps:
        return from_x(base.x_base.numpy())
    noise = torch.from_numpy(sampler.noise(tuple(base.x_base.shape), seed))
    return from_x(sampled(model, base, q, steps, noise, eta, seed).numpy())


def _row(
    name: str, seed: int, minutes: float, trained: int, q: float, steps: int, found: Mapping[str, float]
) -> dict[str, str]:
    head = (name, seed, f"{minutes:g}", trained, f"{q:g}", f"{found['bpp']:.5g}", steps)
    figures = (f"{found[key]:.5g}" if key in found else "" for key in FIGURES)
    return dict(zip(HEAD, (*map(str, head), *figures), strict=True))
