"""python -m studies.contexts -o CSV --data ... --test DIR: forward against backward adaptation.

The entropy model receives some of its parameters (forward: the hyper-latent, which costs bits; Balle et al.
2018) and sees others for itself (backward: earlier chunks and coded neighbours; Minnen et al. 2018).  Each
set of contexts is trained anew on cached latents; the input columns of g_ep for what a variant lacks are
zeros, and stay so.  With one pass over each chunk hyper and channel context are all that is left, so that a
codec that codes all in one pass is the variant "hyper, channel".

There are two starts.  From the shipped weights the reference has nothing to learn, and what a context is
worth is overstated; less so at a rate that unsettles the reference too.  With `--from-nothing` contexts and
parameter nets of all variants are new: equal small budgets, of which larger networks may need more.  In both,
g_a, h_a and h_s were trained with all contexts.  Equal seeds give all variants equal windows and qualities,
and those of as many passes equal noise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.autoregressive import INDEX_STEP
from sfumato.scales import SIGMA_MIN
from sfumato.transforms import HYPER_STRIDE, STRIDE
from studies import variants
from studies.knockouts import CONTEXTS, Context, columns
from studies.latents import EntropyNetworks, load_matching
from studies.variants import RATE_FROM_NOTHING, StartOptions
from training.networks.model import Config, Model, entropy_model
from training.networks.prior import Prior, scale_to_index

REFERENCE = "all"
HYPER = "hyper"
VARIANTS = {
    "none": frozenset[str](),
    HYPER: frozenset({HYPER}),
    "hyper, channel": frozenset({HYPER, "channel"}),
    "hyper, local": frozenset({HYPER, "local"}),
    "hyper, local, global": frozenset({HYPER, "local", "global"}),
    "hyper, channel, local": frozenset({HYPER, "channel", "local"}),
    "channel, local, global": frozenset({"channel", "local", "global"}),
    REFERENCE: frozenset({HYPER, "channel", "local", "global"}),
}
"""What each has; without the hyper context only q decides what every cell of z and psi_h is."""
RATE = 1e-3


class NoSideInformation(nn.Module):
    """In place of h_a: y [b, m, h, w] -> zeros [b, channels, h / 4, w / 4]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, y: Float[Tensor, "b m h w"]) -> Float[Tensor, "b n h/4 w/4"]:
        ratio = HYPER_STRIDE // STRIDE
        return y.new_zeros(len(y), self.channels, y.shape[2] // ratio, y.shape[3] // ratio)


def config_of(used: frozenset[str], config: Config) -> Config:
    """The preset without what these contexts do not need."""
    passes = 2 if used & {"local", "global"} else 1
    return replace(config, pairs=config.pairs if "global" in used else 0, passes=passes)


def switch_off(prior: Prior, contexts: Iterable[Context], hold: bool = True) -> None:
    """Set the columns of g_ep for these contexts to zero, in place; with `hold`, training leaves them so."""
    for context in contexts:
        for number, (chunk, channels) in enumerate(zip(prior.chunks, prior.sizes, strict=True)):
            layer, part = columns(context, number, channels)
            weight: Tensor = getattr(chunk, layer).weight
            with torch.no_grad():
                weight[:, part] = 0
            if hold:
                mask = torch.ones_like(weight)
                mask[:, part] = 0
                weight.register_hook(partial(torch.mul, mask))


def start(variant: str, model: Model, seed: int, from_nothing: bool = False) -> EntropyNetworks:
    """The shipped h_a and entropy model, or only h_a, h_s and the prior of z, with a variant's contexts."""
    torch.manual_seed(seed)
    used = VARIANTS[variant]
    prior = entropy_model(config_of(used, model.config))
    load_matching(
        prior,
        model.prior.state_dict(),
        lambda name: not (from_nothing and name.startswith("chunks.")),
    )
    switch_off(prior, (context for context in CONTEXTS if context not in used))
    if HYPER in used:
        return EntropyNetworks(copy.deepcopy(model.h_a), prior)
    with torch.no_grad():  # zeros that cost nothing
        prior.z_mu.embedding.zero_()
        prior.z_level.embedding.fill_(scale_to_index(SIGMA_MIN) / INDEX_STEP)
    return EntropyNetworks(NoSideInformation(model.config.z_channels), prior)


@dataclass(frozen=True)
class Contexts(StartOptions):
    """What is large shows with few seeds."""

    seeds: int = 3
    """Seeds 0, 1, .. of windows, qualities and noise, and of weights that start from nothing."""


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])], options: tyro.conf.OmitArgPrefixes[Contexts]
) -> None:
    """Train what is missing of the table, and write its summary and figure beside it.

    Args:
        output: the CSV file, a row for each variant and seed; rows that it has are not made again.
        options: what it is run with.
    """
    begin = partial(start, from_nothing=options.from_nothing)
    rate = RATE_FROM_NOTHING if options.from_nothing else RATE
    variants.study(output, options, list(VARIANTS), REFERENCE, begin, rate)


if __name__ == "__main__":
    tyro.cli(main)
