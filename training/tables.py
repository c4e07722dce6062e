"""python -m training.tables WEIGHTS --data ...: the coder's tables as the symbols of photographs have them.

A model learns the scale of each symbol as that of a Gaussian, and its symbols are no Gaussians: they are at
zero, and far from it, more often.  What they are is counted, level by level, with rounding as the coder does
it, and the counts take the Gaussians' place.  No network changes, nor does what a decoder does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from sfumato.autoregressive import autoregressive_pass
from sfumato.scales import NUM_SCALES, Tables
from training.data import Images, Mixture
from training.networks import quantise
from training.networks.model import Model
from training.run_weights import load_weights, save_weights
from training.validation import BATCH, QUALITIES, crop_side

GAUSSIAN_SYMBOLS = 1000
"""So many symbols of each level's Gaussian are added to those that are counted."""


@dataclass
class Histogram:
    """How often each magnitude was seen at each level, int64 [64, largest + 1]; codes in a pass."""

    largest: int = 4095  # magnitudes over it count as this one
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((NUM_SCALES, self.largest + 1), np.int64)

    def code(self, section: int, is_last: bool, mu: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
        """Counts the symbols of `value` and returns what they stand for."""
        assert value is not None
        mu = quantise.quantize_mean(mu)
        symbols = torch.round(value - mu)
        level = torch.round(index).clamp(0, NUM_SCALES - 1).long()
        sure = (
            level == 0
        )  # a flag says for all of an image's whether any is not zero, and most often they end there
        flags = ((symbols != 0) & sure).flatten(1).any(1)
        coded = ~(sure & ~flags.reshape(-1, *[1] * (level.dim() - 1)))
        place = level * self.counts.shape[1] + symbols.abs().clamp(max=self.largest).long()
        place = torch.cat([place[coded], flags.long()])
        self.counts += torch.bincount(place, minlength=self.counts.size).numpy().reshape(self.counts.shape)
        return mu + symbols

    def bits(self, tables: Tables) -> float:
        """What these symbols cost with such tables, ideally."""
        level, magnitude = np.nonzero(self.counts)
        cost = tables.bits(level.astype(np.uint8), magnitude.astype(np.int32))
        return float((self.counts[level, magnitude] * cost).sum())


@torch.no_grad()
def count(model: Model, crops: Tensor) -> Histogram:
    """The symbols of crops [B, 3, H, W] in [-1, 1], at each of `QUALITIES`."""
    histogram = Histogram()
    for value in QUALITIES:
        for x in crops.split(BATCH):
            q = x.new_full((len(x),), value)
            y, z = model.analyze(x, q)
            autoregressive_pass(model.prior, histogram.code, q, (z.shape[2], z.shape[3]), z, y)
    return histogram


def fitted(histogram: Histogram) -> Tables:
    """Tables of what was counted; where little was, close to the Gaussians."""
    gaussian, tails = Tables.gaussian(), []
    for level, counts in enumerate(histogram.counts):
        width, gaussian_counts = int(gaussian.widths[level]), gaussian.level(level)[:-1]
        masses = np.zeros(len(counts))
        masses[0], masses[1 : width + 1] = gaussian_counts[width], 2 * gaussian_counts[width + 1 :]
        total = counts + GAUSSIAN_SYMBOLS * masses / masses.sum()
        tails.append((total[::-1].cumsum()[-2::-1] / total.sum()).tolist())  # summed from where it is small
    return Tables.symmetric(tails)


def main(
    weights: Annotated[Path, tyro.conf.Positional],
    data: list[Path],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    cache: Path | None = None,
    crops: int = 192,
    held_out: int = 24,
    crop: int = 192,
) -> None:
    """Write the same weights with such tables, and say what they save on photographs that were held out.

    Args:
        weights: weights.safetensors of a run.
        data: photographs, of which some are held out as for `python -m training`.
        out: the file to write.
        cache: folder for the decoded images.
        crops: how many are counted.
        held_out: photographs for validation.
        crop: the smallest side of images that are read, as the recipe of the stage has it.
    """
    trained = load_weights(weights)
    photos, held = Images.load(data, torch.device("cpu"), crop, cache).split(held_out)
    x, _ = Mixture(photos).batch(crops, crop, np.random.default_rng(0))
    tables = fitted(count(trained.model, x))
    seen = count(trained.model, held.centres(crop_side(held)))
    before, after = seen.bits(Tables.from_arrays(**_arrays(trained.tables))), seen.bits(tables)
    changed = trained.tables | {k: torch.tensor(v) for k, v in tables.arrays().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    name = save_weights(trained.model, out, changed, trained.notes | {"tables": f"counted on {crops} crops"})
    print(
        f"{out}: {name}, {100 * (after / before - 1):+.2f} % of the bits of {len(held)} held-out photographs"
    )


def _arrays(tables: dict[str, Tensor]) -> dict[str, NDArray[np.int32]]:
    return {name: tables[name].numpy() for name in ("counts", "widths")}


if __name__ == "__main__":
    tyro.cli(main)
