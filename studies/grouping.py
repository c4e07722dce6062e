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
from studies.latents import EntropyNetworks, load_matching
from studies.variants import RATE_FROM_NOTHING, Options
from training.networks.model import Config, Model, entropy_model

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


@dataclass(frozen=True)
class FromNothing(Options):
    """What begins from nothing takes longer."""

    seeds: int = 3
    """Seeds 0, 1, .. of initial weights, windows, qualities and noise."""
    steps: int = 2000
    """Steps of training, for each row."""


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])], options: tyro.conf.OmitArgPrefixes[FromNothing]
) -> None:
    """Train what is missing of the table, and write its summary and figure beside it.

    Args:
        output: the CSV file, a row for each variant and seed; rows that it has are not made again.
        options: what it is run with.
    """
    variants.study(output, options, list(GROUPINGS), REFERENCE, start, RATE_FROM_NOTHING)


if __name__ == "__main__":
    tyro.cli(main)
