"""python -m studies.positions -o CSV --data ... --test DIR: which position encoding the attention needs.

Every encoding starts from the shipped weights and is trained for a few hundred steps with h_a and the rest of
the entropy model, on cached latents; its bias begins as near to the shipped Laplacian as its form allows.
g_a was trained with the Laplacian bias, which favours it: an encoding that does as well is as good, one that
loses may only need longer.  With equal seeds all see the same windows, qualities and noise.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from studies import variants
from studies.latents import CPU, Base, EntropyNetworks, Schedule, load_matching, train
from training.data import Images
from training.networks.model import Config, Model, entropy_model
from training.networks.positions import ENCODINGS, PositionBias
from training.run_weights import load_weights

REFERENCE = "laplacian"
NO_CONTEXT = "no g_gs"
VARIANTS = (*ENCODINGS, NO_CONTEXT)
FIT_STEPS = 300


def config_of(variant: str, config: Config) -> Config:
    """The preset with this encoding, or without the global context."""
    if variant == NO_CONTEXT:
        return replace(config, position="none", pairs=0)
    return replace(config, position=variant)  # type: ignore[arg-type]


def start(variant: str, model: Model, seed: int) -> EntropyNetworks:
    """The shipped h_a and entropy model with another encoding, whose bias is fitted to the shipped one."""
    torch.manual_seed(seed)
    prior = entropy_model(config_of(variant, model.config))
    load_matching(prior, model.prior.state_dict(), lambda name: ".global_context.bias." not in name)
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
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    test: Path,
    latents: Path = Path("runs/latents"),
    cache: Path | None = None,
    model: str = "small",
    seeds: int = 5,
    steps: int = 400,
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
        seeds: 0, 1, .. of windows, qualities and noise.
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
    schedule = Schedule(steps, windows)

    def measure(variant: str, seed: int) -> list[float]:
        return base.bpp(train(start(variant, weights.model, seed), base, schedule, seed))

    chosen = [name for name in VARIANTS if not only or name in only]
    facts = {"steps": steps, "windows": windows, "model": f"{weights.model_id:08x}"}
    table = variants.run(output, chosen, seeds, minutes, facts, measure)
    variants.report(output, variants.differences(table, VARIANTS, REFERENCE), REFERENCE)


if __name__ == "__main__":
    tyro.cli(main)
