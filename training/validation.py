"""A model and held-out crops in, figures at five qualities out; and the scales of its integers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metrics.perceptual import LPIPS
from sfumato.autoregressive import SymbolCoder, autoregressive_pass
from sfumato.transforms import BaseReconstruction
from training.calibration import Calibration
from training.data import Images
from training.losses import MS_SSIM_WEIGHTS, MS_SSIM_WINDOW, ms_ssim, mse
from training.networks import quantise
from training.networks.model import Model
from training.networks.prior import index_to_scale
from training.objective import sampled

CROP = 256
QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCH = 4
STEPS_FROM_NOISE = 17  # enough for Yang & Mandt 2023, section 4


def crop_side(held: Images) -> int:
    """Side of the crops that all held-out images have, a multiple of 64, at most `CROP`."""
    return min(CROP, min(min(s) for s in held.shapes) // 64 * 64)


@torch.no_grad()
def calibrate(model: Model, held: Images) -> dict[str, Tensor]:
    """Fixed-point fractions of the entropy model, from held-out images at `QUALITIES`."""
    crops = held.centres(crop_side(held))
    with Calibration(model.prior) as calibration:
        for value in QUALITIES:
            for x in crops.split(BATCH):
                q = x.new_full((len(x),), value)
                y, z = model.analyze(x, q)
                model.prior(y, z, q)
    return calibration.fractions()


def rounded(mu: Tensor, index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(values rounded as the coder does, their bits), elementwise; `index` is a real scale index."""
    mu = quantise.quantize_mean(mu)
    symbols = torch.round(value - mu)
    return mu + symbols, quantise.gaussian_bits(symbols, index_to_scale(torch.round(index)))


def rounding(bits: list[Tensor]) -> SymbolCoder:
    """A coding pass that rounds like the coder and notes the bits; noise would overstate low rates."""

    def code(section: int, is_last: bool, mu: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        y_hat, cost = rounded(mu, index, value)
        bits.append(cost.flatten(1).sum(1))
        return y_hat

    return code


def round_trip(
    model: Model, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]
) -> tuple[BaseReconstruction, Float[Tensor, " b"]]:
    """What comes back from rounded symbols, and their bits by the entropy model's estimate."""
    y, z = model.analyze(x, q)
    bits: list[Tensor] = []
    y_hat, _ = autoregressive_pass(model.prior, rounding(bits), q, (z.shape[2], z.shape[3]), z, y)
    return model.synthesize(y_hat, q), torch.stack(bits).sum(0)


@torch.no_grad()
def validate(model: Model, held: Images, metric: LPIPS | None) -> list[dict[str, float]]:
    """Rate (estimated, rounded), PSNR, MS-SSIM and LPIPS-Alex of x_base on held-out images, at `QUALITIES`.

    With a denoiser, the same of the image after one step as well ("_refined"), or after
    `STEPS_FROM_NOISE` where it starts from noise alone.
    """
    was_training = model.training
    model.eval()
    steps = STEPS_FROM_NOISE if model.config.t0 == 1 else 1
    crops = held.centres(crop_side(held))
    large_enough = crops.shape[2] > (MS_SSIM_WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
    rows = []
    for value in QUALITIES:
        found_in_all: list[dict[str, Tensor]] = []
        for x in crops.split(BATCH):
            q = x.new_full((len(x),), value)
            base, bits = round_trip(model, x, q)
            found = {"bpp": bits / x[0, 0].numel()}
            images = {"": base.x_base.float()}
            if model.has_denoiser:
                images["_refined"] = sampled(model, base, q, steps)
            for suffix, x_hat in images.items():
                x_hat = x_hat.clamp(-1, 1)
                found[f"psnr{suffix}"] = 10 * (255**2 / mse(x, x_hat).clamp_min(1e-3)).log10()
                if large_enough:
                    found[f"ms_ssim{suffix}"] = 1 - ms_ssim(x, x_hat)
                if metric is not None:
                    found[f"lpips{suffix}"] = metric(x, x_hat)
            found_in_all.append(found)
        means = {k: torch.cat([found[k] for found in found_in_all]).mean().item() for k in found_in_all[0]}
        rows.append({"q": value} | {name: round(mean, 4) for name, mean in means.items()})
    model.train(was_training)
    return rows
