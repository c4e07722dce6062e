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
from sfumato import diffusion, sampler
from sfumato.lpips import LPIPS
from sfumato.model import Model
from sfumato.transform import Synthesised
from training.objective import mse, perceive_part
from training.recipes import Recipe


@torch.no_grad()
def decoded(model: Model, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]) -> Synthesised:
    """What the frozen codec makes of a picture."""
    return model.synthesise(model.prior(*model.analyse(x, q), q).y_hat, q)


class Denoising(nn.Module):
    """One random time; t favours small values, LPIPS judges the predicted picture.

    x-prediction: SNR weights per frequency, clipped; epsilon-prediction: the L1 of Yang & Mandt 2023; both
    times 127.5^2.
    """

    def __init__(self, model: Model, recipe: Recipe, perception: LPIPS | None) -> None:
        super().__init__()
        self.model, self.recipe, self.perception = model, recipe, perception

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS in."""
        model, recipe, schedule = self.model, self.recipe, self.model.schedule
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
        out = {"mse": mse(x, x_hat), "diffusion": denoising, "loss": denoising * 127.5**2}
        if perceive and self.perception is not None:
            out["lpips"] = perceive_part(self.perception, x, x_hat, recipe.perceptual_crop)
            out["loss"] = out["loss"] + recipe.perceptual * out["lpips"]
        return out


class Unrolled(nn.Module):
    """The sampler's own 1, 2 or 4 steps from the noisy x_base, with gradients through all of them.

    Each batch draws its number of steps.  A random part of what comes out is judged by
    LPIPS and DISTS; the MSE holds it to the original.
    """

    def __init__(
        self, model: Model, recipe: Recipe, perception: LPIPS | None, dists: DISTS | None = None
    ) -> None:
        super().__init__()
        if model.denoiser.predicts != "x":
            raise ValueError(f"preset {model.preset!r} predicts {model.denoiser.predicts}; x is needed here")
        self.model, self.recipe, self.perception, self.dists = model, recipe, perception, dists

    def forward(
        self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"], perceive: bool
    ) -> dict[str, Tensor]:
        """The loss of each picture and the terms that it is made of; `perceive` brings LPIPS in."""
        model, recipe, schedule = self.model, self.recipe, self.model.schedule
        base = decoded(model, x, q)
        steps = recipe.unroll[int(torch.randint(len(recipe.unroll), ()))]
        noise = torch.randn_like(x)
        start = sampler.late_start(base.x_base.float(), model.config.t0, noise, schedule)

        def network(z_t: Tensor, t: Tensor) -> Tensor:
            return model.denoiser(z_t, t, q, base.x_base, base.features).float()

        x_hat = sampler.deterministic(network, start, sampler.times(model.config.t0, steps), schedule)
        out = {"mse": mse(x, x_hat)}
        out["loss"] = recipe.distortion * out["mse"]
        if perceive and self.perception is not None:
            size = recipe.perceptual_crop
            top, left = (int(torch.randint(side - size + 1, ())) for side in x.shape[2:])
            part = (..., slice(top, top + size), slice(left, left + size))
            out["lpips"] = self.perception(x[part], x_hat[part])
            out["loss"] = out["loss"] + recipe.perceptual * out["lpips"]
            if self.dists is not None:
                out["dists"] = self.dists(x[part], x_hat[part])
                out["loss"] = out["loss"] + recipe.dists * out["dists"]
        return out
