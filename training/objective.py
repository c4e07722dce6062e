"""Rate-distortion-perception loss: crops in, one number to descend and the figures to log out.

L = bpp + lambda(q) (D(x, x_base) + D(x, x_hat)), with q drawn uniformly for each crop and log lambda linear
in q, so lambda is log-uniform (decisions: one model, every rate).  D is the weighted sum that `Loss`
describes; x_hat is there where the denoiser is trained along.  Khoshkhahtinat et al. 2024 and CDC (Yang &
Mandt 2023) weight rate, squared error and LPIPS alike.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metrics.dists import DISTS
from metrics.perceptual import LPIPS
from sfumato import sampler
from sfumato.transforms import Synthesised
from training.networks.model import Model
from training.recipes import Loss, Recipe

PATCH = 8  # pixels: the coarsest patches that the light decoder puts together
ALIGNED = 16  # pixels: the denoiser sees parts that begin and end at multiples of this


def lmbda(q: Tensor, recipe: Recipe) -> Tensor:
    """The Lagrange multiplier at quality q: bits per pixel that a unit of distortion is worth."""
    low, high = recipe.lmbda
    return low * (high / low) ** q


def mse(x: Tensor, x_hat: Tensor) -> Float[Tensor, " b"]:
    """Mean square error on the scale 0..255."""
    return (x - x_hat).square().flatten(1).mean(1) * 127.5**2


def chroma(x: Tensor) -> Float[Tensor, "b 2 h w"]:
    """Blue and red difference (BT.601, unscaled range)."""
    r, g, b = x.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return torch.stack([(b - luma) * 0.564, (r - luma) * 0.713], 1)


def lattice(x: Float[Tensor, "b 3 h w"], x_hat: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Power of the error that repeats from patch to patch, 0..255 squared; sides are multiples of 8.

    The mean error at each place of a patch, over all patches, less the mean of all: a decoder that builds
    pictures of patches can add one and the same pattern to each.  It costs little squared error, and LPIPS
    and DISTS take it for texture; the eye sees a weave.
    """
    error = (x_hat - x).unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    pattern = error.mean((2, 4))
    return (pattern - pattern.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)) * 127.5**2


class Distortion(nn.Module):
    """D(x, x_hat): the weighted sum of what `Loss` names, and its terms.

    LPIPS and DISTS see one random part of `recipe.perceptual_crop` pixels a side, the same for the whole
    batch; DISTS, whose VGG16 costs more than the codec, of the first `recipe.dists_crops` pictures only
    (0: of all), at a weight that makes up for it.
    """

    def __init__(self, recipe: Recipe, perception: LPIPS | None, dists: DISTS | None) -> None:
        super().__init__()
        self.recipe, self.perception, self.dists = recipe, perception, dists

    def forward(self, x: Tensor, x_hat: Tensor, loss: Loss, perceive: bool) -> dict[str, Tensor]:
        """Terms of each picture, and their sum as "distortion"; `perceive` brings LPIPS and DISTS in."""
        out = {"mse": mse(x, x_hat)}
        total = loss.mse * out["mse"]
        if loss.chroma:
            total = total + loss.chroma * mse(chroma(x), chroma(x_hat))
        if loss.lattice:
            out["lattice"] = lattice(x, x_hat)
            total = total + loss.lattice * out["lattice"]
        if perceive and (loss.lpips or loss.dists):
            part = (..., *random_part(x, self.recipe.perceptual_crop))
            x, x_hat = x[part], x_hat[part]
            if loss.lpips and self.perception is not None:
                out["lpips"] = self.perception(x, x_hat)
                total = total + loss.lpips * out["lpips"]
            if loss.dists and self.dists is not None:
                n = self.recipe.dists_crops or len(x)
                found = self.dists(x[:n], x_hat[:n])
                out["dists"] = found.mean().expand(len(x))
                share = torch.cat([found * (len(x) / n), found.new_zeros(len(x) - n)])
                total = total + loss.dists * share
        return out | {"distortion": total}


def random_part(x: Tensor, size: int, step: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a random part of `size` pixels a side, from multiples of `step`."""
    top, left = (int(torch.randint((side - size) // step + 1, ())) * step for side in x.shape[2:])
    return slice(top, top + size), slice(left, left + size)


def restored(model: Model, base: Synthesised, q: Tensor, unroll: tuple[int, ...]) -> Float[Tensor, "b 3 h w"]:
    """The picture after one of these numbers of steps of the sampler, with gradients through all of them."""
    steps = unroll[int(torch.randint(len(unroll), ()))]
    noise = torch.randn_like(base.x_base, dtype=torch.float32)
    start = sampler.late_start(base.x_base.float(), model.config.t0, noise, model.schedule)

    def network(z_t: Tensor, t: Tensor) -> Tensor:
        return model.denoiser(z_t, t, q, base.x_base, base.features).float()

    times = sampler.times(model.config.t0, steps, model.config.times_power)
    return sampler.deterministic(network, start, times, model.schedule)


class Objective(nn.Module):
    """The codec with its loss, as one module, so that data-parallel wrappers see one forward.

    With `recipe.part` "all" a part of each decoded crop goes through the denoiser too, and what comes out is
    judged as well.
    """

    def __init__(
        self, model: Model, recipe: Recipe, perception: LPIPS | None, dists: DISTS | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.distortion = Distortion(recipe, perception, dists)

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS and DISTS in."""
        model, recipe = self.model, self.recipe
        y, z = model.analyse(x, q)
        estimate = model.prior(y, z, q)
        base = model.synthesise(estimate.y_hat, q)
        bpp = estimate.bits.sum(1) / x[0, 0].numel()
        out = self.distortion(x, base.x_base.float(), recipe.certain, perceive)
        if recipe.part == "all":
            rows, columns = random_part(x, recipe.restored_crop, ALIGNED)
            x_hat = restored(model, base.part(rows, columns), q, recipe.unroll)
            more = self.distortion(x[..., rows, columns], x_hat, recipe.restored, perceive)
            out["distortion"] = out["distortion"] + more.pop("distortion")
            out |= {f"{name}_restored": value for name, value in more.items()}
        weight = lmbda(q, recipe)
        middle = lmbda(q.new_full((), 0.5), recipe)
        out["bpp"] = bpp
        out["loss"] = (bpp + weight * out.pop("distortion")) * (weight / middle) ** -recipe.equalise
        return out
