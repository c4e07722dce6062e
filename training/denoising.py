"""Losses of the blurring diffusion decoder: crops in, one number to descend out.

On a frozen codec `DenoisingLoss` asks for the image at one random time, as every diffusion is trained, and
`SamplerLoss` runs the sampler as it is used, a few steps from x_base, and judges its output: per-step
training alone never sees the sampler's own inputs, and leaves noise where texture should be.  `JointLoss`
trains codec and denoiser together, as the paper does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.dct import dct
from sfumato.diffusion import Blurring
from sfumato.transforms import BaseReconstruction
from training.adversary import ProjectedAdversary
from training.energy import EnergyScore
from training.losses import Distortion, random_part
from training.networks.model import Model
from training.objective import ImageLoss, Terms, one_of, rate_distortion, sampled
from training.recipes import Recipe


@torch.no_grad()
def base_reconstruction(
    model: Model, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]
) -> BaseReconstruction:
    """What the frozen codec makes of an image."""
    return model.synthesize(model.prior(*model.analyze(x, q), q).y_hat, q)


def denoised(
    model: Model,
    x: Float[Tensor, "b 3 h w"],
    t: Float[Tensor, " b"],
    q: Float[Tensor, " b"],
    base: BaseReconstruction,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
    """(the image that is predicted at time t, the diffusion's own error), with fresh noise.

    x-prediction: SNR weights per frequency, clipped; epsilon-prediction: the L1 of Yang & Mandt 2023.
    """
    schedule, epsilon = model.schedule, torch.randn_like(x)
    z_t = schedule.forward(x, t, epsilon)
    prediction = model.denoise(z_t, t, q, base)
    if model.denoiser.predicts == "epsilon":
        return schedule.x_from_epsilon(z_t, t, prediction).clamp(-1, 1), epsilon_loss(epsilon, prediction)
    return prediction, x_loss(x, prediction, t, schedule)


class DenoisingLoss(ImageLoss):
    """One random time; t favours small values, `recipe.refined_loss` is of the predicted image.

    The diffusion's own error (`denoised`) counts times 127.5^2, in place of the plain MSE.
    """

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        base = base_reconstruction(self.model, x, q)
        t = sample_t(x.shape[0], self.model.config.t0).to(x.device)
        x_hat, denoising = denoised(self.model, x, t, q, base)
        out = self.distortion(x, x_hat, self.recipe.refined_loss, use_perceptual, weight_map)
        out["diffusion"] = denoising
        out["loss"] = out.pop("distortion") + denoising * 127.5**2
        return out


class JointLoss(ImageLoss):
    """The paper's objective: codec and denoiser as one, gradients of the diffusion into g_a.

        beta R + (1 - rho) |epsilon - epsilon_hat| + rho LPIPS(x, x_hat),    t uniform

    (Khoshkhahtinat et al. 2024, after Yang & Mandt 2023), over beta = 1 / lambda(q).  `recipe.refined_loss`
    stands for LPIPS.  Networks that predict x have the error of `denoised` in the middle.
    """

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        model, recipe = self.model, self.recipe
        y, z = model.analyze(x, q)
        estimate = model.prior(y, z, q)
        base = model.synthesize(estimate.y_hat, q)
        t = model.config.t0 * torch.rand(len(x), device=x.device)
        x_hat, error = denoised(model, x, t, q, base)
        out = self.distortion(x, x_hat, recipe.refined_loss, use_perceptual, weight_map)
        rho = recipe.rho if use_perceptual else 0.0
        distortion = (1 - rho) * error + rho * out.pop("distortion")
        bpp = estimate.bits.sum(1) / x[0, 0].numel()
        loss = rate_distortion(bpp, distortion, q, recipe)
        return out | {"diffusion": error, "bpp": bpp, "loss": loss}


class SamplerLoss(ImageLoss):
    """The sampler as it is used, `recipe.unroll` steps from the noisy x_base; losses of what comes out.

    `recipe.refined_loss` compares it with the original.  With `recipe.energy` a second sample is drawn, and
    the two are judged by their energy score; with `recipe.adversary` a critic that is trained along judges
    the first.  `metrics` is the folder that both need.
    """

    def __init__(
        self, model: Model, recipe: Recipe, distortion: Distortion, metrics: Path | None = None
    ) -> None:
        super().__init__(model, recipe, distortion)
        if model.denoiser.predicts != "x":
            raise ValueError(f"preset {model.preset!r} predicts {model.denoiser.predicts}; x is needed here")
        self.score: EnergyScore | None = None
        self.adversary: ProjectedAdversary | None = None
        if metrics is None:
            if recipe.energy or recipe.adversary:
                raise ValueError("energy score and adversary need the folder with the metrics' weights")
            return
        if recipe.energy:
            self.score = EnergyScore(metrics, recipe.diversity, recipe.energy_patch)
        if recipe.adversary:
            self.adversary = ProjectedAdversary(metrics)

    def critic_parameters(self) -> list[nn.Parameter]:
        return [] if self.adversary is None else list(self.adversary.heads.parameters())

    def compute(self, x: Tensor, q: Tensor, use_perceptual: bool, weight_map: Tensor | None) -> Terms:
        recipe = self.recipe
        base = base_reconstruction(self.model, x, q)
        steps = one_of(recipe.unroll)
        x_hat = sampled(self.model, base, q, steps)
        out = self.distortion(x, x_hat, recipe.refined_loss, use_perceptual, weight_map)
        loss = out.pop("distortion")
        part = (..., *random_part(x, recipe.perceptual_crop))
        if self.score is not None:
            second = sampled(self.model, base, q, steps)
            out |= self.score(x[part], x_hat[part], second[part])
            loss = loss + recipe.energy * out["energy"]
        if self.adversary is not None:
            out |= self.adversary(x[part], x_hat[part], base.x_base[part].float())
            loss = loss + recipe.adversary * out["adversary"] + out["critic"]
        out["loss"] = loss
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
