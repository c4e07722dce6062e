"""Rate-distortion-perception loss of the codec: crops in, one number to descend and the figures to log out.

L = bpp + lambda(q) (D(x, x_base) + D(x, x_hat)), with q drawn uniformly for each crop and log lambda linear
in q, so lambda is log-uniform (decisions: one model, every rate).  D is a weighted sum of `losses.TERMS`;
x_hat is there where the denoiser is trained along.  Khoshkhahtinat et al. 2024 and CDC (Yang & Mandt 2023)
weight rate, squared error and LPIPS alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfumato import sampler
from sfumato.transforms import BaseReconstruction
from training.data import Kind
from training.losses import Distortion, random_part, text_mask
from training.networks.model import Model
from training.recipes import Recipe

Terms = dict[str, Tensor]
ALIGNED = 16  # pixels: the denoiser sees parts that begin and end at multiples of this


def lmbda(q: Tensor, recipe: Recipe) -> Tensor:
    """The Lagrange multiplier at quality q: bits per pixel that a unit of distortion is worth."""
    low, high = recipe.lmbda
    return low * (high / low) ** q


def sampled(
    model: Model,
    base: BaseReconstruction,
    q: Float[Tensor, " b"],
    steps: int,
    noise: Float[Tensor, "b 3 h w"] | None = None,
    eta: float = 0.0,
    seed: int = 0,
) -> Float[Tensor, "b 3 h w"]:
    """The image after so many steps of the sampler, with gradients through all of them.

    It starts from x_base and `noise` (drawn, if None), or from that alone where the diffusion starts at
    t = 1; `eta` and `seed` are those of `sampler.ancestral`.
    """
    c, x_base = model.config, base.x_base.float()
    if noise is None:
        noise = torch.randn_like(x_base)
    start = noise if c.t0 == 1 else sampler.partial_noise_start(x_base, c.t0, noise, model.schedule)

    def network(z_t: Tensor, t: Tensor) -> Tensor:
        return model.denoise(z_t, t, q, base)

    f: sampler.Denoiser = network
    if model.denoiser.predicts == "epsilon":
        f = sampler.from_epsilon(network, model.schedule)
    return sampler.ancestral(f, start, sampler.times(c.t0, steps, c.times_power), model.schedule, seed, eta)


def rate_distortion(
    bpp: Float[Tensor, " b"], distortion: Float[Tensor, " b"], q: Float[Tensor, " b"], recipe: Recipe
) -> Float[Tensor, " b"]:
    """bpp + lambda(q) D, divided by a power of lambda / lambda(1/2), lest high rates drown low ones."""
    weight, middle = lmbda(q, recipe), lmbda(q.new_full((), 0.5), recipe)
    return (bpp + weight * distortion) * (weight / middle) ** -recipe.reweight


def one_of(numbers: tuple[int, ...]) -> int:
    """One of them at random."""
    return numbers[int(torch.randint(len(numbers), ()))]


def emphasis(x: Tensor, kinds: Tensor | None, recipe: Recipe) -> Float[Tensor, "b 1 h w"] | None:
    """What squared errors are multiplied by: over text and line art, in flat crops, else 1; None for 1."""
    if recipe.text == recipe.flat_emphasis == 1.0:
        return None
    if kinds is None:
        kinds = torch.full((len(x),), Kind.PHOTO, device=x.device)
    factor = 1 + (recipe.text - 1) * text_mask(x, kinds == Kind.SCREEN)
    flat = (kinds == Kind.FLAT)[:, None, None, None]
    return torch.where(flat, recipe.flat_emphasis, factor)


class ImageLoss(nn.Module, ABC):
    """A model with its loss, as one module, so that data-parallel wrappers see one forward.

    A loss of another kind is a class with its own `compute`, named where `training.loop` chooses one.
    """

    def __init__(self, model: Model, recipe: Recipe, distortion: Distortion) -> None:
        super().__init__()
        self.model, self.recipe, self.distortion = model, recipe, distortion

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        q: Float[Tensor, " b"],
        use_perceptual: bool,
        kinds: Int[Tensor, " b"] | None = None,
    ) -> Terms:
        """The loss of each image and its terms; `use_perceptual` brings the perceptual ones in.

        `kinds` says what the crops are, as numbers of `data.Kind`; without it all are photographs.
        """
        return self.compute(x, q, use_perceptual, emphasis(x, kinds, self.recipe))

    def critic_parameters(self) -> list[nn.Parameter]:
        """Of what is trained against the model, and left behind: none, unless there is an adversary."""
        return []

    @abstractmethod
    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        """As `forward`; `weight_map` is [B, 1, H, W], by which squared errors are multiplied."""


class Objective(ImageLoss):
    """Rate and distortion of the codec.

    With `recipe.part` "all" a part of each decoded crop goes through the denoiser too, and the distortion of
    what comes out is added.
    """

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        model, recipe = self.model, self.recipe
        y, z = model.analyze(x, q)
        estimate = model.prior(y, z, q)
        base = model.synthesize(estimate.y_hat, q)
        bpp = estimate.bits.sum(1) / x[0, 0].numel()
        out = self.distortion(x, base.x_base.float(), recipe.base_loss, use_perceptual, weight_map)
        if recipe.part == "all":
            rows, columns = random_part(x, recipe.refined_crop, ALIGNED)
            x_hat = sampled(model, base.part(rows, columns), q, one_of(recipe.unroll))
            part = (..., rows, columns)
            part_map = None if weight_map is None else weight_map[part]
            more = self.distortion(x[part], x_hat, recipe.refined_loss, use_perceptual, part_map)
            out["distortion"] = out["distortion"] + more.pop("distortion")
            out |= {f"{name}_refined": value for name, value in more.items()}
        out["bpp"] = bpp
        out["loss"] = rate_distortion(bpp, out.pop("distortion"), q, recipe)
        return out
