"""python -m studies.domain_bias FOLDER ... -o CSV: A and sigma of the position bias, fitted to other images.

A folder is a set.  The two numbers of each chunk's Laplacian bias are trained on its images from the shipped
ones, on noisy values and all q, and everything else stays.  Bits are counted on the same images, of rounded
values at `Q`, so what is saved is flattered.  A set of photographs says how far the numbers move anyway.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from evaluation.measure import images_in
from sfumato import image
from sfumato.files import write_csv
from sfumato.transforms import STRIDE
from studies.domains import middle
from studies.intervals import half_interval
from studies.latents import WINDOW, Base, EntropyNetworks, Latents, Schedule, analyzed, reference_bits, train
from training.networks.model import Model
from training.networks.positions import LaplacianBias
from training.run_weights import load_weights

Q = 0.4  # at which bits are counted
NAME = ".global_context.bias."
HEAD = (
    *("dataset", "images", "seed", "chunk", "A", "A_fitted", "sigma", "sigma_fitted"),
    *("saved_percent", "saved_interval_percent", "no_bias_percent", "no_bias_interval_percent", "model"),
)


@dataclass(frozen=True)
class Fit:
    """What became of the bias on one set."""

    before: list[tuple[float, float]]  # |A| and |sigma| of each chunk
    after: list[tuple[float, float]]
    saved: list[float]  # % of the bits of each image
    lost: list[float]  # % more bits of each image without the bias


def latents_of(model: Model, folder: Path, largest: int) -> Latents:
    """y of the middle of every image that holds a window of training."""
    values: list[Tensor] = []
    for path in images_in(folder):
        pixels = middle(image.read(path), largest)
        if min(pixels.shape[:2]) >= STRIDE * WINDOW:
            values.append(analyzed(model.g_a, torch.from_numpy(pixels), None))
    if not values:
        raise ValueError(f"{folder}: no image of at least {STRIDE * WINDOW} pixels a side")
    shapes = tuple((y.shape[1], y.shape[2]) for y in values)
    return Latents(torch.cat([y.flatten() for y in values]), model.config.latent, shapes)


def numbers(networks: EntropyNetworks) -> list[tuple[float, float]]:
    """|A| and |sigma| of each chunk; only their squares matter."""
    found = networks.prior.biases()
    assert all(isinstance(bias, LaplacianBias) for bias in found)
    return [(abs(float(bias.amplitude)), abs(float(bias.sigma))) for bias in found]  # type: ignore[arg-type]


def bits(networks: EntropyNetworks, base: Base) -> list[float]:
    """Rounded bits of every image at `Q`."""
    networks.eval()
    gain = base.gain(torch.tensor([Q]))
    images = (base.test.image(number)[None].float() for number in range(len(base.test)))
    return [networks.rounded_bits(y * gain, Q) for y in images]


def fit(model: Model, base: Base, schedule: Schedule, seed: int) -> Fit:
    """Train the bias of each chunk on the set; `model` stays as it is."""
    networks = EntropyNetworks(copy.deepcopy(model.h_a), copy.deepcopy(model.prior))
    before, shipped = numbers(networks), bits(networks, base)
    none = copy.deepcopy(networks)
    with torch.no_grad():
        for bias in none.prior.biases():
            bias.amplitude.zero_()  # type: ignore[operator]
    fitted = train(networks, base, schedule, seed, lambda name: NAME in name)
    saved = [100 * (1 - b / a) for a, b in zip(shipped, bits(fitted, base), strict=True)]
    lost = [100 * (b / a - 1) for a, b in zip(shipped, bits(none, base), strict=True)]
    return Fit(before, numbers(fitted), saved, lost)


def rows(dataset: str, seed: int, found: Fit, model: str) -> list[list[str]]:
    """A row for each chunk; the savings, of all chunks together, are in each."""
    shared = [_mean(found.saved), _half(found.saved), _mean(found.lost), _half(found.lost), model]
    out = []
    for chunk, (old, new) in enumerate(zip(found.before, found.after, strict=True), 1):
        moved = [f"{value:.3f}" for value in (old[0], new[0], old[1], new[1])]
        out.append([dataset, str(len(found.saved)), str(seed), str(chunk), *moved, *shared])
    return out


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def _half(values: Sequence[float]) -> str:
    return f"{half_interval(values):.4f}" if len(values) > 1 else ""


def main(
    folders: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    seeds: int = 2,
    steps: int = 60,
    windows: int = 4,
    rate: float = 0.1,
    largest: int = 512,
) -> None:
    """Fit the bias to each set, and write how far it moved and what that saves.

    Args:
        folders: of images, a set each.
        output: the CSV file: a row for each set, seed and chunk.
        model: weights by name, or a path.
        seeds: fits of each set, with other windows and noise.
        steps: of training.
        windows: of 16x16 latents, in a step.
        rate: of learning.
        largest: side of the part of an image that is taken, pixels at most.
    """
    weights = load_weights(model)
    schedule = Schedule(steps, windows, rate=rate, warmup=5, ema=0.9)
    table: list[list[str]] = []
    for folder in folders:
        own = latents_of(weights.model, folder, largest)
        base = Base(weights.model, own, own, 0, reference_bits(weights.model, own))
        for seed in range(seeds):
            found = fit(weights.model, base, schedule, seed)
            table += rows(folder.resolve().name, seed, found, f"{weights.model_id:08x}")
            write_csv(output, HEAD, table)
            for row in table[-len(found.after) :]:
                print(*row, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
