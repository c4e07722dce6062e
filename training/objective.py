"""Rate-distortion-perception loss: crops in, one number to descend and the figures to log out.

L = bpp + lambda(q) (w_d MSE + w_c MSE of chroma + w_p LPIPS), with q drawn uniformly for each crop and
log lambda linear in q, so lambda is log-uniform (decisions: one model, every rate).
Khoshkhahtinat et al. 2024 and CDC (Yang & Mandt 2023) weight the same three terms.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.lpips import LPIPS
from sfumato.model import Model
from training.recipes import Recipe


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


def perceive_part(perception: LPIPS, x: Tensor, x_hat: Tensor, size: int) -> Float[Tensor, " b"]:
    """LPIPS of a random part of `size` x `size` pixels, the same for the whole batch."""
    top, left = (int(torch.randint(side - size + 1, ())) for side in x.shape[2:])
    part = (..., slice(top, top + size), slice(left, left + size))
    return perception.distance(perception.reference(x[part]), x_hat[part])


class Objective(nn.Module):
    """The codec with its loss, as one module, so that data-parallel wrappers see one forward."""

    def __init__(self, model: Model, recipe: Recipe, perception: LPIPS | None) -> None:
        super().__init__()
        self.model, self.recipe, self.perception = model, recipe, perception

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS in."""
        model, recipe = self.model, self.recipe
        y, z = model.analyse(x, q)
        estimate = model.prior(y, z, q)
        x_base = model.synthesise(estimate.y_hat, q).x_base.float()
        bpp = estimate.bits.sum(1) / x[0, 0].numel()
        error = mse(x, x_base)
        distortion = recipe.distortion * error
        if recipe.chroma:
            distortion = distortion + recipe.chroma * mse(chroma(x), chroma(x_base))
        out = {"bpp": bpp, "mse": error}
        if perceive and self.perception is not None:
            out["lpips"] = perceive_part(self.perception, x, x_base, recipe.perceptual_crop)
            distortion = distortion + recipe.perceptual * out["lpips"]
        weight = lmbda(q, recipe)
        middle = lmbda(q.new_full((), 0.5), recipe)
        out["loss"] = (bpp + weight * distortion) * (weight / middle) ** -recipe.equalise
        return out
