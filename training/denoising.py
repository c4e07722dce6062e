"""Losses of the blurring diffusion decoder on a frozen codec: crops in, one number to descend out.

Two kinds.  `Denoising` asks for the picture at one random time, as every diffusion is trained.  `Unrolled`
runs the sampler as it is used, a few steps from x_base, and judges what comes out: per-step training alone
never sees the sampler's own inputs, and leaves noise where texture should be.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metrics.dists import DISTS
from sfumato import diffusion
from sfumato.lpips import LPIPS
from sfumato.model import Model
from sfumato.transform import Synthesised
from training.objective import Distortion, restored
from training.recipes import Recipe


@torch.no_grad()
def decoded(model: Model, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]) -> Synthesised:
    """What the frozen codec makes of a picture."""
    return model.synthesise(model.prior(*model.analyse(x, q), q).y_hat, q)


class Denoising(nn.Module):
    """One random time; t favours small values, `recipe.restored` judges the predicted picture.

    x-prediction: SNR weights per frequency, clipped; epsilon-prediction: the L1 of Yang & Mandt 2023; both
    times 127.5^2, in place of the plain MSE.
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
        model, schedule = self.model, self.model.schedule
        base = decoded(model, x, q)
        t = diffusion.sample_t(x.shape[0], model.config.t0).to(x.device)
        epsilon = torch.randn_like(x)
        z_t = schedule.forward(x, t, epsilon)
        prediction = model.denoiser(z_t, t, q, base.x_base, base.features).float()
        if model.denoiser.predicts == "epsilon":
            x_hat = schedule.x_from_epsilon(z_t, t, prediction).clamp(-1, 1)
            denoising = diffusion.epsilon_loss(epsilon, prediction)
        else:
            x_hat, denoising = prediction, diffusion.x_loss(x, prediction, t, schedule)
        out = self.distortion(x, x_hat, self.recipe.restored, perceive)
        out["diffusion"] = denoising
        out["loss"] = out.pop("distortion") + denoising * 127.5**2
        return out


class Unrolled(nn.Module):
    """The sampler's own 1, 2 or 4 steps from the noisy x_base; `recipe.restored` judges what comes out."""

    def __init__(
        self, model: Model, recipe: Recipe, perception: LPIPS | None, dists: DISTS | None = None
    ) -> None:
        super().__init__()
        if model.denoiser.predicts != "x":
            raise ValueError(f"preset {model.preset!r} predicts {model.denoiser.predicts}; x is needed here")
        self.model, self.recipe = model, recipe
        self.distortion = Distortion(recipe, perception, dists)

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS and DISTS in."""
        x_hat = restored(self.model, decoded(self.model, x, q), q, self.recipe.unroll)
        out = self.distortion(x, x_hat, self.recipe.restored, perceive)
        out["loss"] = out.pop("distortion")
        return out
