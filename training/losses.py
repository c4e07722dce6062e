"""The terms of the loss, in one table: (x, x_hat) in, one value for each image out.

Images are [B, 3, H, W], sRGB in [-1, 1].  Every term is scaled so that a weight near 1 makes it count about
as much as the MSE on 0..255 (MS-SSIM, LPIPS, DISTS and Wasserstein distortion lie in 0..1: weights of
hundreds).  `TERMS` is the table; a new term is a function or a metric here, and a line there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metrics.dists import DISTS
from metrics.lpips import load_lpips
from metrics.perceptual import PerceptualMetric
from metrics.wasserstein import WassersteinDistortion

PATCH = 8  # pixels: the coarsest patches that the light decoder puts together
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
MS_SSIM_WINDOW = 11
MS_SSIM_SIGMA = 1.5
POOLINGS = (2, 4, 8, 16)  # of the low-frequency term

PixelTerm = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def mse(x: Tensor, x_hat: Tensor, emphasis: Tensor | None = None) -> Float[Tensor, " b"]:
    """Mean square error on the scale 0..255; `emphasis` [B, 1, H, W] multiplies it pixel by pixel."""
    error = (x - x_hat).square()
    if emphasis is not None:
        error = error * emphasis
    return error.flatten(1).mean(1) * 127.5**2


def colour_difference(x: Tensor) -> Float[Tensor, "b 2 h w"]:
    """Blue and red difference (BT.601, unscaled range)."""
    r, g, b = x.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return torch.stack([(b - luma) * 0.564, (r - luma) * 0.713], 1)


def chroma(x: Tensor, x_hat: Tensor, emphasis: Tensor | None = None) -> Float[Tensor, " b"]:
    """Mean square error of the two colour differences, 0..255."""
    error = colour_difference(x - x_hat)  # it is linear
    return mse(error, torch.zeros_like(error), emphasis)


def grid(x: Tensor, x_hat: Tensor, emphasis: Tensor | None = None) -> Float[Tensor, " b"]:
    """Power of the error that repeats from patch to patch, 0..255 squared; sides are multiples of 8.

    The mean error at each place of a patch, over all patches, less the mean of all: a decoder that builds
    images of patches can add one and the same pattern to each.  It costs little squared error, and LPIPS
    and DISTS take it for texture; the eye sees a grid.
    """
    error = (x_hat - x).unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    pattern = error.mean((2, 4))
    return (pattern - pattern.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)) * 127.5**2


def low_frequency(x: Tensor, x_hat: Tensor, emphasis: Tensor | None = None) -> Float[Tensor, " b"]:
    """Mean absolute error of images pooled 2, 4, 8 and 16 times, 0..255, summed over the four."""
    error = x_hat - x
    total = torch.zeros(len(x), device=x.device)
    for _ in POOLINGS:
        error = F.avg_pool2d(error, 2)
        total = total + error.abs().flatten(1).mean(1) * 127.5
    return total


def _window(side: int, like: Tensor) -> Float[Tensor, "side valid"]:
    """The Gaussian window of SSIM as a matrix that filters a row: only whole windows."""
    offsets = torch.arange(MS_SSIM_WINDOW, device=like.device) - MS_SSIM_WINDOW // 2
    taps = torch.exp(-(offsets.double() ** 2) / (2 * MS_SSIM_SIGMA**2))
    taps = (taps / taps.sum()).to(like.dtype)
    valid = side - MS_SSIM_WINDOW + 1
    matrix = like.new_zeros(side, valid)
    for k in range(MS_SSIM_WINDOW):
        matrix.diagonal(-k)[:valid] = taps[k]
    return matrix


def ms_ssim(x: Tensor, x_hat: Tensor, emphasis: Tensor | None = None) -> Float[Tensor, " b"]:
    """1 - MS-SSIM (Wang et al. 2003): five scales, on RGB, mean over channels; sides over 160 pixels.

    The factors are bounded from below by 1e-4, since the power of a factor at 0 has no finite gradient.
    The filters are matrix products, which a CPU does faster than depthwise convolutions of 11 taps.
    """
    with torch.autocast(x.device.type, enabled=False):
        a, b = (x.float() + 1) / 2, (x_hat.float() + 1) / 2
        if min(a.shape[2:]) <= (MS_SSIM_WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1):
            raise ValueError(f"MS-SSIM needs sides over 160 pixels, got {list(a.shape[2:])}")
        c1, c2 = 0.01**2, 0.03**2
        out = torch.ones(len(a), a.shape[1], device=a.device)
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            rows, columns = _window(a.shape[2], a), _window(a.shape[3], a)

            def smooth(v: Tensor, rows: Tensor = rows, columns: Tensor = columns) -> Tensor:
                return rows.mT @ (v @ columns)

            mu_a, mu_b = smooth(a), smooth(b)
            var_a, var_b = smooth(a * a) - mu_a * mu_a, smooth(b * b) - mu_b * mu_b
            covariance = smooth(a * b) - mu_a * mu_b
            factor = (2 * covariance + c2) / (var_a + var_b + c2)
            if scale == len(MS_SSIM_WEIGHTS) - 1:
                factor = factor * (2 * mu_a * mu_b + c1) / (mu_a.square() + mu_b.square() + c1)
            out = out * factor.mean((2, 3)).clamp_min(1e-4) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return 1 - out.mean(1)


PIXEL_TERMS: dict[str, PixelTerm] = {
    "mse": mse,
    "chroma": chroma,
    "grid": grid,
    "low_frequency": low_frequency,
    "ms_ssim": ms_ssim,
}
PERCEPTUAL_TERMS: dict[str, Callable[[Path], PerceptualMetric]] = {
    "lpips": lambda folder: load_lpips("squeeze", folder),  # not the network that the evaluation uses
    "lpips_vgg": lambda folder: load_lpips("vgg", folder),
    "dists": DISTS,
    "wasserstein": WassersteinDistortion,
}
VGG_TERMS = {"lpips_vgg", "dists"}  # each crop costs more than the codec's step
TERMS = (*PIXEL_TERMS, *PERCEPTUAL_TERMS)


class Distortion(nn.Module):
    """D(x, x_hat): weighted sums of the terms of the table.

    Perceptual terms see one random part of `perceptual_crop` pixels a side, the same for the whole batch;
    those through VGG16 of the first `vgg_crops` images only (0: of all), at a weight that makes up for it.
    `metrics` is the folder with the networks' weights; without it recipes must hold no perceptual term.
    """

    def __init__(
        self, terms: set[str], metrics: Path | None, perceptual_crop: int, vgg_crops: int = 0
    ) -> None:
        super().__init__()
        wanted = sorted(terms & set(PERCEPTUAL_TERMS))
        if wanted and metrics is None:
            raise ValueError(f"{', '.join(wanted)} need the folder with the metrics' weights")
        self.networks = nn.ModuleDict({name: PERCEPTUAL_TERMS[name](metrics) for name in wanted if metrics})
        self.perceptual_crop, self.vgg_crops = perceptual_crop, vgg_crops

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        x_hat: Float[Tensor, "b 3 h w"],
        weights: Mapping[str, float],
        use_perceptual: bool = True,
        emphasis: Float[Tensor, "b 1 h w"] | None = None,
    ) -> dict[str, Tensor]:
        """Terms of each image, and their weighted sum as "distortion"; perceptual ones on request.

        The logged "mse" knows no emphasis, so that logs of different recipes can be compared.
        """
        out: dict[str, Tensor] = {"mse": mse(x, x_hat)}
        total = torch.zeros(len(x), device=x.device)
        for name, weight in weights.items():
            if name in PIXEL_TERMS:
                value = PIXEL_TERMS[name](x, x_hat, emphasis)
                out.setdefault(name, value)
                total = total + weight * value
        if use_perceptual and any(name in PERCEPTUAL_TERMS for name in weights):
            part = (..., *random_part(x, self.perceptual_crop))
            x, x_hat = x[part], x_hat[part]
            for name in (name for name in weights if name in PERCEPTUAL_TERMS):
                n = (self.vgg_crops or len(x)) if name in VGG_TERMS else len(x)
                found = self.networks[name](x[:n], x_hat[:n])
                out[name] = found.mean().expand(len(x))
                share = torch.cat([found * (len(x) / n), found.new_zeros(len(x) - n)])
                total = total + weights[name] * share
        return out | {"distortion": total}


def random_part(x: Tensor, size: int, step: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a random part of `size` pixels a side, from multiples of `step`."""
    top, left = (int(torch.randint((side - size) // step + 1, ())) * step for side in x.shape[2:])
    return slice(top, top + size), slice(left, left + size)


def text_mask(x: Float[Tensor, "b 3 h w"], rendered: Tensor) -> Float[Tensor, "b 1 h w"]:
    """1 where an image holds text or line art, else 0, in blocks of 8 pixels; sides are multiples of 8.

    Of an image that is known to be rendered (`rendered`, [B] bool) every block counts that is not flat.
    Elsewhere a block counts whose luma spans 64 levels while most of its pixels lie close to its darkest or
    its brightest: a palette of two.  The eight neighbours of such a block count too.
    """
    with torch.no_grad():
        r, g, b = ((x.float() + 1) * 127.5).unbind(1)
        luma = (0.299 * r + 0.587 * g + 0.114 * b)[:, None]
        high, low = F.max_pool2d(luma, PATCH), -F.max_pool2d(-luma, PATCH)
        high_up, low_up = (F.interpolate(v, scale_factor=PATCH, mode="nearest") for v in (high, low))
        between = F.avg_pool2d(torch.minimum(high_up - luma, luma - low_up), PATCH)
        span = high - low
        two_tone = (span >= 64) & (between < 0.12 * span)
        drawn = (span >= 16) & rendered[:, None, None, None]
        mask = F.max_pool2d((two_tone | drawn).float(), 3, stride=1, padding=1)
        return F.interpolate(mask, scale_factor=PATCH, mode="nearest")
