"""Recipes: functions that return a `Recipe`.  Each header gives command, time and expected score.

A new experiment is a new function (or `dataclasses.replace` on an old one), not a new flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from training.losses import PERCEPTUAL_TERMS, TERMS

Weights = Mapping[str, float]
"""Name of a term of `losses.TERMS` -> its weight, in units of the MSE (RGB, 0..255)."""

FIDELITY: Weights = {"mse": 0.25, "chroma": 0.5, "grid": 20.0, "ms_ssim": 1200.0, "low_frequency": 1.0}


ONE_PART = ("codec", "denoiser")
WHOLE = ("all", "joint")
"""Parts that train both: with losses of x_base and of the sampler's image, or as the paper does."""


@dataclass(frozen=True)
class Recipe:
    """One stage of training.  Fractions are of its time, so that a stage of any length has the same shape."""

    preset: str
    part: Literal["codec", "denoiser", "all", "joint"] = "codec"  # "denoiser": on a frozen codec; see `WHOLE`
    batch: int = 8  # crops a step, on each process
    crop: int = 192  # pixels a side, a multiple of 64
    optimiser: Literal["soap", "adamw"] = "adamw"
    learning_rate: float = 1.2e-3
    warmup: int = 200  # steps
    decay_start: float = 0.6  # where the learning rate begins to fall, linearly to 1 % at the end
    clip: float = 1.0  # of the gradient's norm
    ema: float = 0.999
    lmbda: tuple[float, float] = (0.00015, 0.035)  # at q = 0 and q = 1; log-linear between
    reweight: float = 0.25  # losses are divided by lambda^reweight, lest high rates drown low ones
    base_loss: Weights = field(default_factory=lambda: {"mse": 1.0})  # of x_base
    late_loss: Weights = field(default_factory=dict)  # takes the place of base_loss from there on, if given
    late_from: float = 1.0
    refined_loss: Weights = field(default_factory=dict)  # of what the denoiser makes of it
    rho: float = 0.9  # share of refined_loss in the distortion of part "joint"; the diffusion has the rest
    text: float = 1.0  # factor on squared errors where a crop holds text or line art
    screens: float = 0.0  # share of the crops that are taken from screens
    flat: float = 0.0  # share of the crops that are rendered flat colours and dark gradients
    flat_emphasis: float = 1.0  # factor on squared errors in those
    perceptual_from: float = 0.0  # where perceptual terms come in: from nothing, images must be formed first
    perceptual_crop: int = 128  # perceptual terms see a random part of this size of each crop
    vgg_crops: int = 1  # terms that look through VGG16 see so many crops of a batch; 0: all
    energy: float = 0.0  # of the energy score of two samples, in units of the MSE; for part "denoiser"
    diversity: float = 1.0  # factor on its second term, the samples' distance from one another
    energy_patch: int = 3  # positions a side over which it gathers squared feature distances
    adversary: float = 0.0  # of a critic that is trained along, in units of the MSE; for part "denoiser"
    unroll: tuple[int, ...] = ()  # numbers of steps that the denoiser is trained through; (): one random time
    refined_crop: int = 128  # the denoiser sees a part of this size where it is trained with the codec
    diffusion: dict[str, float | bool] = field(default_factory=dict)  # other than the preset's, for studies
    compile: bool = False

    def __post_init__(self) -> None:
        for weights in (self.base_loss, self.late_loss, self.refined_loss):
            if unknown := sorted(set(weights) - set(TERMS)):
                raise ValueError(f"no such loss: {', '.join(unknown)}; there are {', '.join(TERMS)}")

    def without_perception(self) -> Recipe:
        """The same without the terms that need a metric's network."""
        plain = replace(self, energy=0.0, adversary=0.0, rho=0.0)
        plain = replace(plain, base_loss=_without(self.base_loss), late_loss=_without(self.late_loss))
        return replace(plain, refined_loss=_without(self.refined_loss))

    def at(self, fraction: float) -> Recipe:
        """The recipe as it stands after this fraction of the time."""
        if not self.late_loss or fraction < self.late_from:
            return self
        return replace(self, base_loss=self.late_loss)


def _without(weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if name not in PERCEPTUAL_TERMS}


def small() -> Recipe:
    """The codec of `small` from nothing: rate, squared error and MS-SSIM, then LPIPS in the second half.

    python -m training small --data DIR --screens DIR --metrics DIR --minutes 120 --threads 1 --out runs/small
    """
    return Recipe(
        "small",
        optimiser="soap",
        learning_rate=2.4e-3,
        lmbda=(0.00012, 0.035),
        base_loss={**FIDELITY, "lpips": 300.0},
        text=4.0,
        screens=0.24,
        flat=0.04,
        perceptual_from=0.5,
    )


def small_more() -> Recipe:
    """A further stage of `small` from weights: all losses from the first step, a lower learning rate.

    python -m training small_more --init WEIGHTS --data DIR --screens DIR --metrics DIR --minutes 88 --out DIR
    """
    return replace(small(), learning_rate=1e-3, decay_start=0.5, perceptual_from=0.0)


def small_polish() -> Recipe:
    """The last stage of the codec: more LPIPS and squared error, the learning rate falls from the start.

    python -m training small_polish --init NEW --data DIR --screens DIR --metrics DIR --minutes 40 --out DIR
    """
    loss = {**FIDELITY, "mse": 0.35, "ms_ssim": 1000.0, "lpips": 500.0}
    stage = replace(small_more(), base_loss=loss, text=3.0, learning_rate=8e-4, warmup=50)
    return replace(stage, decay_start=0.05)


def small_spend() -> Recipe:
    """From 7b3c9489 on: PSNR is spent on MS-SSIM, LPIPS and text.  Begun, not finished.

    python -m training small_spend --init NEW --data DIR --screens DIR --metrics DIR --minutes 180 --out DIR
    """
    loss = {**FIDELITY, "mse": 0.1, "lpips": 700.0, "wasserstein": 50.0}
    return replace(small_more(), base_loss=loss, text=6.0, learning_rate=1e-3, decay_start=0.4)


def small_long() -> Recipe:
    """From 7b3c9489 on: MS-SSIM, LPIPS and text before PSNR; the learning rate falls for most of it.

    python -m training small_long --init small --data DIR --screens DIR --metrics DIR --minutes 105 --out DIR
    """
    loss = {**FIDELITY, "mse": 0.15, "ms_ssim": 1500.0, "lpips": 700.0, "wasserstein": 50.0}
    return replace(small_more(), base_loss=loss, text=6.0, screens=0.28, learning_rate=1e-3, decay_start=0.3)


def small_text() -> Recipe:
    """From 7de4dd93 on: more of MS-SSIM, text and flat colours; the last quarter spends squared error on it.

    python -m training small_text --init small --data DIR --screens DIR --metrics DIR --minutes 95 --out DIR
    """
    loss = {**small_long().base_loss, "mse": 0.12, "ms_ssim": 1800.0}
    late = {**loss, "mse": 0.05, "ms_ssim": 2200.0, "lpips": 900.0}
    stage = replace(small_long(), base_loss=loss, late_loss=late, late_from=0.75)
    return replace(stage, text=10.0, flat=0.07, flat_emphasis=8.0)


def small_denoiser() -> Recipe:
    """The denoiser of `small` on its frozen codec, one random time a step.  Worse than none: for comparison.

    python -m training small_denoiser --init WEIGHTS --data DIR --metrics DIR --minutes 60 --out runs/denoiser
    """
    return Recipe("small", part="denoiser", refined_loss={"lpips": 300.0})


def small_sampler() -> Recipe:
    """The denoiser of `small` through the 1, 2 and 4 steps that are in use, on its frozen codec.

    python -m training small_sampler --init NEW --denoiser OLD --data DIR --screens DIR --metrics DIR
        --minutes 10 --out DIR
    """
    return Recipe(
        "small",
        part="denoiser",
        batch=6,
        crop=128,
        learning_rate=1e-3,
        decay_start=0.5,
        perceptual_crop=96,
        unroll=(1, 1, 2, 4),
        refined_loss={"mse": 0.1, "grid": 20.0, "lpips": 300.0, "dists": 900.0},
        screens=0.2,
    )


def small_refine() -> Recipe:
    """The denoiser of `small` on its frozen codec as `studies.objectives` found best: energy score and DISTS.

    Without MS-SSIM in its loss it cost 9 % of the rate by that.

    python -m training small_refine --init NEW --denoiser OLD --data DIR --screens DIR --metrics DIR
        --minutes 12 --out DIR
    """
    return replace(
        small_sampler(),
        batch=4,
        crop=192,  # MS-SSIM needs sides over 160
        unroll=(1, 1, 1, 2),
        refined_loss={"mse": 0.1, "grid": 20.0, "dists": 600.0, "ms_ssim": 2500.0},
        energy=100.0,
        diversity=0.3,
        learning_rate=7e-4,
        warmup=50,
        decay_start=0.3,
    )


def small_texture() -> Recipe:
    """The denoiser of `small` after `small_refine`: DISTS foremost, for texture.

    python -m training small_texture --init small --data DIR --screens DIR --metrics DIR
        --minutes 40 --out DIR
    """
    loss = {"mse": 0.1, "grid": 20.0, "dists": 1500.0, "lpips": 300.0, "ms_ssim": 1200.0}
    return replace(small_refine(), refined_loss=loss, energy=50.0, learning_rate=1e-3)


def small_noise() -> Recipe:
    """The denoiser of `small` after `small_texture`: the same, with its noise won back by the energy score.

    python -m training small_noise --init small --data DIR --screens DIR --metrics DIR --minutes 60 --out DIR
    """
    return replace(small_texture(), energy=200.0, diversity=0.5)


def small_further() -> Recipe:
    """From 3c334885 on, by two processes: all losses, text and screens foremost, at half the learning rate.

    torchrun --nproc-per-node 2 -m training small_further --init small --data DIR --screens DIR --metrics DIR
        --minutes 62 --out DIR
    """
    loss = {**small_text().base_loss, "mse": 0.08, "ms_ssim": 2000.0, "lpips": 800.0}
    stage = replace(small_text(), base_loss=loss, late_loss={}, late_from=1.0, text=12.0, screens=0.32)
    return replace(stage, learning_rate=5e-4, warmup=100, decay_start=0.15)


def base() -> Recipe:
    """The codec of `base`, grown from that of `small`; higher rates at the top.

    python -m training base --init small --data DIR --screens DIR --metrics DIR --minutes 130 --out runs/base
    """
    stage = replace(small_text(), preset="base", optimiser="adamw", learning_rate=4e-4)
    return replace(stage, lmbda=(0.00012, 0.05), decay_start=0.25)


def base_more() -> Recipe:
    """A further stage of `base`: the losses of its last quarter, a low learning rate that falls at once.

    python -m training base_more --init WEIGHTS --data DIR --screens DIR --metrics DIR --minutes 60 --out DIR
    """
    stage = replace(base(), base_loss=base().late_loss, late_loss={}, late_from=1.0)
    return replace(stage, learning_rate=1.2e-4, decay_start=0.1)


def base_soap() -> Recipe:
    """As `base_more`, with SOAP.

    python -m training base_soap --init WEIGHTS --data DIR --screens DIR --metrics DIR --minutes 85 --out DIR
    """
    return replace(base_more(), optimiser="soap", learning_rate=2.4e-4, warmup=100)


def base_denoiser() -> Recipe:
    """The denoiser of `base` on its frozen codec, grown from that of `small`.

    python -m training base_denoiser --init NEW --denoiser small --data DIR --screens DIR --metrics DIR
        --minutes 15 --out D
    """
    return replace(small_refine(), preset="base")


def paper_warmup() -> Recipe:
    """The paper's network, first at a rate that hardly counts: at the wanted one it gives grey images.

    torchrun --nproc-per-node 8 -m training paper_warmup --data DIR --minutes 600 --out runs/paper
    """
    return Recipe(
        "paper",
        part="joint",
        batch=4,
        crop=256,
        learning_rate=1e-4,
        decay_start=1.0,
        lmbda=(1e6, 1e6),  # beta = 1e-6 (Yang & Mandt's)
        rho=0.0,
    )


def paper() -> Recipe:
    """The paper's network by the paper's objective; the q of one network stand for its models of one rate.

    torchrun --nproc-per-node 8 -m training paper --init WARM --data DIR --metrics DIR --minutes 600 --out DIR
    """
    return replace(
        paper_warmup(),
        decay_start=0.6,
        lmbda=(250.0, 2000.0),  # beta from 0.004 to 0.0005, the range of Yang & Mandt's code
        rho=0.9,
        refined_loss={"lpips_vgg": 1.0},
        perceptual_crop=256,
        vgg_crops=0,
    )


def paper_trial() -> Recipe:
    """`paper` from nothing on crops that a CPU can take: shows that the loss falls, and no more.

    python -m training paper_trial --data DIR --metrics DIR --minutes 5 --held-out 1 --save-every 9 --out DIR
    """
    return replace(paper(), batch=2, crop=64, perceptual_crop=64, warmup=20)


def toy() -> Recipe:
    """Two crops a step: what the tests run, for seconds; no score."""
    base = {"mse": 1.0, "lpips": 300.0}
    return Recipe(
        "toy",
        batch=2,
        crop=64,
        warmup=2,
        base_loss=base,
        refined_loss={"lpips": 300.0},
        perceptual_from=0.5,
        perceptual_crop=64,
        refined_crop=64,
    )


ALL = (
    small,
    small_more,
    small_polish,
    small_spend,
    small_long,
    small_text,
    small_denoiser,
    small_sampler,
    small_refine,
    small_texture,
    small_noise,
    small_further,
    base,
    base_more,
    base_soap,
    base_denoiser,
    paper_warmup,
    paper,
    paper_trial,
    toy,
)
RECIPES = {recipe.__name__: recipe for recipe in ALL}
