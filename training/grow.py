"""A trained model and a larger preset in; the larger model that computes the same out, ready to learn more.

Every tensor of the old model becomes the first rows and columns of the new one's (Chen et al. 2016,
"Net2Net", without its doubled units: what is new computes something random of its own, and nothing old
listens to it yet).  Blocks that the new preset has more of begin as the identity, as `layers.DepthBlock`
does.  So hours that went into a small model are not spent again on a large one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.networks.denoiser import LightDenoiser
from training.networks.model import Model

ENTROPY = ("prior.", "h_a.", "gain.")  # of the same sizes in both: contexts are joined, not only prolonged


@torch.no_grad()
def grown(model: Model, preset: str, rest: Model | None = None) -> Model:
    """A model of `preset` that gives the same y, symbols and x_base as `model`; its denoiser is untrained.

    What is new is random, or that of `rest`, but for what begins at zero.
    Raises ValueError where the preset has another entropy model, or anything that is smaller.
    """
    large = Model(preset)
    if rest is not None:
        theirs = rest.state_dict()
        for name, value in large.state_dict().items():
            if value.any() or name in model.state_dict():
                value.copy_(theirs[name])
    large.set_diffusion(**model.diffusion)
    state = large.state_dict()
    for name, old in model.state_dict().items():
        if name.startswith("denoiser."):
            continue
        new = state.get(name)
        if new is None or new.dim() != old.dim():
            raise ValueError(f"preset {preset!r} has no place for {name} of {model.preset!r}")
        larger = any(a < b for a, b in zip(new.shape, old.shape, strict=True))
        if larger or (name.startswith(ENTROPY) and new.shape != old.shape):
            sizes = f"{list(old.shape)} in {model.preset!r}, {list(new.shape)} in {preset!r}"
            raise ValueError(f"{name} is {sizes}: it cannot grow")
        embed(new, old)
    return large


@torch.no_grad()
def grow_denoiser(old: LightDenoiser, new: LightDenoiser) -> None:
    """Make `new` compute what `old` does, where its features begin with those of `old`; in place.

    A scale that only the larger one has adds nothing at first.  Raises ValueError where anything is smaller.
    """
    state = new.state_dict()
    for name, value in old.state_dict().items():
        parts = 2 if ".films." in name else 1  # scales and shifts are each prolonged
        for small, large in zip(value.chunk(parts), state[name].chunk(parts), strict=True):
            if any(a < b for a, b in zip(large.shape, small.shape, strict=True)):
                raise ValueError(
                    f"denoiser.{name}: {list(value.shape)} cannot become {list(state[name].shape)}"
                )
            embed(large, small)
    for coarser in new.grow[len(old.grow) :]:
        for parameter in coarser.parameters():
            parameter.zero_()


def embed(new: Tensor, old: Tensor) -> None:
    """Put `old` [out, in, ...] into the first places of `new`; these outputs get zeros for other inputs."""
    if old.dim() > 1:
        new[: old.shape[0]] = 0
    new[tuple(slice(0, size) for size in old.shape)] = old
