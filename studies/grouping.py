"""python -m studies.grouping -o CSV --data ... --test DIR: into which chunks the channels of y are best cut.

The contexts and parameter nets of all chunks are trained from nothing, h_a, h_s and the prior of z from the
shipped weights, on cached latents.  g_a was trained with uneven chunks, which favours them.  Equal small
budgets: nothing here has converged.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from studies import variants
from studies.latents import CPU, Base, EntropyNetworks, Schedule, load_matching, train
from training.data import Images
from training.networks.model import Config, Model, entropy_model
from training.run_weights import load_weights

REFERENCE = "five uneven"
UNEVEN = (16, 16, 32, 64, 64)


@dataclass(frozen=True)
class Grouping:
    """Channels of each chunk, in coding order, as shares, and the passes over each."""

    shares: tuple[int, ...]
    passes: Literal[1, 2] = 2

    def chunks(self, latent: int) -> tuple[int, ...]:
        """Of so many channels; bounds between chunks are rounded."""
        total = sum(self.shares)
        bounds = [round(latent * sum(self.shares[:n]) / total) for n in range(len(self.shares) + 1)]
        return tuple(b - a for a, b in zip(bounds, bounds[1:], strict=False))


GROUPINGS = {
    REFERENCE: Grouping(UNEVEN),
    "five even": Grouping((1,) * 5),
    "ten even": Grouping((1,) * 10),
    "ten even, one pass": Grouping((1,) * 10, 1),
    "five uneven, one pass": Grouping(UNEVEN, 1),
    "one chunk": Grouping((1,)),
    "two": Grouping((32, 160)),
    "reversed": Grouping(UNEVEN[::-1]),
}


def config_of(variant: str, config: Config) -> Config:
    """The preset with these chunks."""
    grouping = GROUPINGS[variant]
    return replace(config, chunks=grouping.chunks(config.latent), passes=grouping.passes)


def start(variant: str, model: Model, seed: int) -> EntropyNetworks:
    """The shipped h_a, h_s and prior of z; chunks of these channels from nothing."""
    torch.manual_seed(seed)
    prior = entropy_model(config_of(variant, model.config))
    load_matching(prior, model.prior.state_dict(), lambda name: not name.startswith("chunks."))
    return EntropyNetworks(copy.deepcopy(model.h_a), prior)


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    test: Path,
    latents: Path = Path("runs/latents"),
    cache: Path | None = None,
    model: str = "small",
    seeds: int = 3,
    steps: int = 2000,
    windows: int = 8,
    images: int = 600,
    smallest: int = 192,
    minutes: float = 1e9,
    only: tuple[str, ...] = (),
) -> None:
    """Train what is missing of the table, and write its summary and figure beside it.

    Args:
        output: the CSV file, a row for each variant and seed; rows that it has are not made again.
        data: photographs to train on, as for `python -m training`.
        test: folder of the images whose bits are counted.
        latents: folder for the cached latents.
        cache: folder of decoded images, as for `python -m training`.
        model: weights by name, or a path.
        seeds: 0, 1, .. of initial weights, windows, qualities and noise.
        steps: of training, for each row.
        windows: of 16x16 latents, in a step.
        images: so many photographs are used.
        smallest: shorter side of the photographs that are read, as the cache has them.
        minutes: end before; the next run goes on.
        only: names of variants; all if empty.
    """
    weights = load_weights(model)
    photos, held = Images.load(data, CPU, smallest, cache), Images.load([test], CPU, 64)
    base = Base.load(weights.model, photos, images, held, latents)
    schedule = Schedule(steps, windows, rate=2e-3)

    def measure(variant: str, seed: int) -> list[float]:
        return base.bpp(train(start(variant, weights.model, seed), base, schedule, seed))

    chosen = [name for name in GROUPINGS if not only or name in only]
    facts = {"steps": steps, "windows": windows, "model": f"{weights.model_id:08x}"}
    table = variants.run(output, chosen, seeds, minutes, facts, measure)
    variants.report(output, variants.differences(table, list(GROUPINGS), REFERENCE), REFERENCE)


if __name__ == "__main__":
    tyro.cli(main)
