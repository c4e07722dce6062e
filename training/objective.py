"""Rate-distortion-perception loss: crops in, one number to descend and the figures to log out.

L = bpp + lambda(q) (w_d MSE + w_c MSE of chroma + w_p LPIPS), with q drawn uniformly for each crop and
log lambda linear in q, so lambda is log-uniform (decisions: one model, every rate).
Khoshkhahtinat et al. 2024 and CDC (Yang & Mandt 2023) weight the same three terms.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metrics.lpips import LPIPS
from sfumato import diffusion
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


class Objective(nn.Module):
    """The model with its loss, as one module, so that data-parallel wrappers see one forward."""

    def __init__(self, model: Model, recipe: Recipe, perception: LPIPS | None) -> None:
        super().__init__()
        self.model, self.recipe, self.perception = model, recipe, perception

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS in."""
        if self.recipe.part == "denoiser":
            return self._denoise(x, q)
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
            out["lpips"] = self._perceive(self.perception, x, x_base)
            distortion = distortion + recipe.perceptual * out["lpips"]
        weight = lmbda(q, recipe)
        middle = lmbda(q.new_full((), 0.5), recipe)
        out["loss"] = (bpp + weight * distortion) * (weight / middle) ** -recipe.equalise
        return out

    def _perceive(self, perception: LPIPS, x: Tensor, x_hat: Tensor) -> Float[Tensor, " b"]:
        size = self.recipe.perceptual_crop
        top, left = (int(torch.randint(side - size + 1, ())) for side in x.shape[2:])
        part = (..., slice(top, top + size), slice(left, left + size))
        return perception.distance(perception.reference(x[part]), x_hat[part])

    def _denoise(self, x: Tensor, q: Tensor) -> dict[str, Tensor]:
        """The denoiser on the frozen codec; t favours small values, LPIPS judges the predicted picture.

        x-prediction: SNR weights per frequency, clipped; epsilon-prediction: CDC's L1; both times 127.5^2.
        """
        model, recipe, schedule = self.model, self.recipe, self.model.schedule
        with torch.no_grad():
            base = model.synthesise(model.prior(*model.analyse(x, q), q).y_hat, q)
        t = diffusion.sample_t(x.shape[0], model.config.t0).to(x.device)
        epsilon = torch.randn_like(x)
        z_t = schedule.forward(x, t, epsilon)
        prediction = model.denoiser(z_t, t, q, base.x_base, base.features).float()
        if model.denoiser.predicts == "epsilon":
            x_hat = schedule.x_from_epsilon(z_t, t, prediction).clamp(-1, 1)
            denoising = diffusion.epsilon_loss(epsilon, prediction)
        else:
            x_hat, denoising = prediction, diffusion.x_loss(x, prediction, t, schedule)
        out = {"mse": mse(x, x_hat), "diffusion": denoising, "loss": denoising * 127.5**2}
        if self.perception is not None:
            out["lpips"] = self._perceive(self.perception, x, x_hat)
            out["loss"] = out["loss"] + recipe.perceptual * out["lpips"]
        return out
