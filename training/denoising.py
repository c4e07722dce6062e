"""Losses of the blurring diffusion decoder on a frozen codec: crops in, one number to descend out.

`DenoisingLoss` asks for the image at one random time, as every diffusion is trained.  `UnrolledLoss` runs the
sampler as it is used, a few steps from x_base, and compares its output: per-step training alone never sees
the sampler's own inputs, and leaves noise where texture should be.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.dct import dct
from sfumato.diffusion import Blurring
from sfumato.transforms import BaseReconstruction
from training.energy import EnergyScore
from training.losses import Distortion, random_part
from training.networks.model import Model
from training.objective import ImageLoss, Terms, refined
from training.recipes import Recipe


@torch.no_grad()
def base_reconstruction(
    model: Model, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]
) -> BaseReconstruction:
    """What the frozen codec makes of an image."""
    return model.synthesize(model.prior(*model.analyze(x, q), q).y_hat, q)


def check_prediction(model: Model) -> None:
    """ValueError unless the denoiser predicts x, which an unrolled sampler needs."""
    if model.denoiser.predicts != "x":
        raise ValueError(f"preset {model.preset!r} predicts {model.denoiser.predicts}; x is needed here")


class DenoisingLoss(ImageLoss):
    """One random time; t favours small values, `recipe.refined_loss` is of the predicted image.

    x-prediction: SNR weights per frequency, clipped; epsilon-prediction: the L1 of Yang & Mandt 2023; both
    times 127.5^2, in place of the plain MSE.
    """

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        model, schedule = self.model, self.model.schedule
        base = base_reconstruction(model, x, q)
        t = sample_t(x.shape[0], model.config.t0).to(x.device)
        epsilon = torch.randn_like(x)
        z_t = schedule.forward(x, t, epsilon)
        prediction = model.denoiser(z_t, t, q, base.x_base, base.features).float()
        if model.denoiser.predicts == "epsilon":
            x_hat = schedule.x_from_epsilon(z_t, t, prediction).clamp(-1, 1)
            denoising = epsilon_loss(epsilon, prediction)
        else:
            x_hat, denoising = prediction, x_loss(x, prediction, t, schedule)
        out = self.distortion(x, x_hat, self.recipe.refined_loss, use_perceptual, weight_map)
        out["diffusion"] = denoising
        out["loss"] = out.pop("distortion") + denoising * 127.5**2
        return out


class UnrolledLoss(ImageLoss):
    """The sampler's own 1, 2 or 4 steps from the noisy x_base; `recipe.refined_loss` is of the outcome."""

    def __init__(self, model: Model, recipe: Recipe, distortion: Distortion) -> None:
        super().__init__(model, recipe, distortion)
        check_prediction(model)

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        x_hat = refined(self.model, base_reconstruction(self.model, x, q), q, self.recipe.unroll)
        out = self.distortion(x, x_hat, self.recipe.refined_loss, use_perceptual, weight_map)
        out["loss"] = out.pop("distortion")
        return out


class EnergyLoss(ImageLoss):
    """Two samples of the sampler in use; their energy score, and `recipe.refined_loss` of the first."""

    def __init__(self, model: Model, recipe: Recipe, distortion: Distortion, metrics: Path) -> None:
        super().__init__(model, recipe, distortion)
        check_prediction(model)
        self.score = EnergyScore(metrics, recipe.diversity, recipe.energy_patch)

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        recipe = self.recipe
        base = base_reconstruction(self.model, x, q)
        first, second = (refined(self.model, base, q, recipe.unroll) for _ in range(2))
        out = self.distortion(x, first, recipe.refined_loss, use_perceptual, weight_map)
        part = (..., *random_part(x, recipe.perceptual_crop))
        out |= self.score(x[part], first[part], second[part])
        out["loss"] = out.pop("distortion") + recipe.energy * out["energy"]
        return out


def x_loss(
    x: Float[Tensor, "b c h w"],
    x_hat: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    schedule: Blurring,
    w_min: float = 0.05,
    w_max: float = 5.0,
) -> Float[Tensor, " b"]:
    """Squared error of a predicted image, each frequency weighted by its signal-to-noise ratio at t.

        sum_f clip(alpha_t,f^2 / sigma_t^2, w_min, w_max) (u_x - u_x_hat)_f^2 / (C H W)

    Unclipped this is the squared error of epsilon (Hoogeboom & Salimans 2022), which hardly
    sees detail except at small t; w_min gives detail a voice, w_max = 5 is that of Yang & Mandt's CDC.
    Returns one value a image, in squared units of x; with w_min = w_max = 1 it is the plain MSE.
    """
    weight = (schedule.alpha(t, *x.shape[-2:]) / schedule.sigma(t)).square().clamp(w_min, w_max).to(x.device)
    return (weight * dct(x - x_hat).square()).mean((1, 2, 3))


def epsilon_loss(
    epsilon: Float[Tensor, "b c h w"], epsilon_hat: Float[Tensor, "b c h w"], power: float = 1.0
) -> Float[Tensor, " b"]:
    """mean |epsilon - epsilon_hat|^power, one value a image.

    power 1: Yang & Mandt 2023 (CDC) and the released settings of Khoshkhahtinat et al. 2024;
    power 2: Hoogeboom & Salimans 2022, section 4.
    """
    return (epsilon - epsilon_hat).float().abs().pow(power).mean((1, 2, 3))


def sample_t(n: int, t0: float = 1.0, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
    """n random times t = t0 u^2, u uniform on [0, 1): small t is favoured, where a codec's detail is decided.

    The same density as the quadratic times of the sampler.  On the generator's device.
    """
    if not 0 < t0 <= 1:
        raise ValueError(f"t0 must lie in (0, 1], got {t0}")
    device = generator.device if generator is not None else "cpu"
    return t0 * torch.rand(n, generator=generator, device=device).square()
