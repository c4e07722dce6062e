"""python -m studies.positions -o CSV --data ... --test DIR: which position encoding the attention needs.

Every encoding starts from the shipped weights and is trained for a few hundred steps with h_a and the rest of
the entropy model, on cached latents; its bias begins as near to the shipped Laplacian as its form allows.
With `--from-nothing` contexts and parameter nets of all variants are new, biases as their forms begin.
g_a was trained with the Laplacian bias, which favours it: an encoding that does as well is as good, one that
loses may only need longer.  With equal seeds all see the same windows, qualities and noise.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from studies import variants
from studies.latents import EntropyNetworks, Schedule, load_matching
from studies.variants import RATE_FROM_NOTHING, StartOptions
from training.networks.model import Config, Model, entropy_model
from training.networks.positions import ENCODINGS, PositionBias

REFERENCE = "laplacian"
NO_CONTEXT = "no g_gs"
VARIANTS = (*ENCODINGS, NO_CONTEXT)
FIT_STEPS = 300


def config_of(variant: str, config: Config) -> Config:
    """The preset with this encoding, or without the global context."""
    if variant == NO_CONTEXT:
        return replace(config, position="none", pairs=0)
    return replace(config, position=variant)  # type: ignore[arg-type]


def start(variant: str, model: Model, seed: int, from_nothing: bool = False) -> EntropyNetworks:
    """The shipped h_a and entropy model with another encoding, whose bias is fitted to the shipped one.

    From nothing: only h_a, h_s and the prior of z are the shipped ones.
    """
    torch.manual_seed(seed)
    prior = entropy_model(config_of(variant, model.config))
    other = "chunks." if from_nothing else ".global_context.bias."
    load_matching(prior, model.prior.state_dict(), lambda name: other not in name)
    if from_nothing:
        return EntropyNetworks(copy.deepcopy(model.h_a), prior)
    pairs = list(zip(prior.biases(), model.prior.biases(), strict=True))
    for bias in dict.fromkeys(bias for bias, _ in pairs):  # one, where all chunks share it
        fit(bias, [goal().detach() for own, goal in pairs if own is bias])
    return EntropyNetworks(copy.deepcopy(model.h_a), prior)


def fit(bias: PositionBias, goals: list[Tensor]) -> None:
    """Bring a bias near to others, up to what softmax does not see: the mean of each row."""
    if not list(bias.parameters()):
        return
    bias.requires_grad_(True)
    optimiser = torch.optim.Adam(bias.parameters(), lr=0.05)
    target = torch.stack([centred(goal) for goal in goals])
    for step in range(FIT_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / FIT_STEPS)
        found = centred(bias())
        if found.dim() == 3:
            found = found[:, None]
        optimiser.zero_grad()
        (found - target).square().mean().backward()
        optimiser.step()


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])], options: tyro.conf.OmitArgPrefixes[StartOptions]
) -> None:
    """Train what is missing of the table, and write its summary and figure beside it.

    Args:
        output: the CSV file, a row for each variant and seed; rows that it has are not made again.
        options: what it is run with.
    """
    begin = partial(start, from_nothing=options.from_nothing)
    rate = RATE_FROM_NOTHING if options.from_nothing else Schedule.rate
    variants.study(output, options, VARIANTS, REFERENCE, begin, rate)


if __name__ == "__main__":
    tyro.cli(main)
