"""Recipes: functions that return a `Recipe`.  Each header gives command, time and expected score.

A new experiment is a new function (or `dataclasses.replace` on an old one), not a new flag.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from metrics.features import Net


@dataclass(frozen=True)
class Recipe:
    """One leg of training.  Fractions are of its time, so that a leg of any length has the same shape."""

    preset: str
    part: str = "codec"  # "codec": all but the denoiser; "denoiser": that alone, on the frozen codec
    batch: int = 8  # crops a step, on each process
    crop: int = 192  # pixels a side, a multiple of 64
    learning_rate: float = 1.2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 200  # steps
    tail: float = 0.6  # where the learning rate begins to fall, linearly to 1 % at the end
    clip: float = 1.0  # of the gradient's norm
    ema: float = 0.999
    lmbda: tuple[float, float] = (0.00015, 0.035)  # at q = 0 and q = 1; log-linear between
    equalise: float = 0.25  # losses are divided by lambda^equalise, lest high rates drown low ones
    distortion: float = 1.0  # weight of the MSE (RGB, 0..255)
    chroma: float = 0.0  # weight of the MSE of the two colour differences, on top
    perceptual: float = 0.0  # weight of LPIPS, in units of MSE
    perceptual_from: float = 0.5  # where LPIPS comes in: pictures are formed by then
    perceptual_net: Net = "squeeze"  # not the network that the evaluation uses
    perceptual_crop: int = 128  # LPIPS sees a random part of this size of each crop
    unroll: tuple[int, ...] = ()  # numbers of steps that the denoiser is trained through; (): one random time
    dists: float = 0.0  # weight of DISTS, whose VGG16 costs more than all else, in units of MSE
    diffusion: tuple[float, float] | None = None  # (sigma_B,max, t0) other than the preset's, for studies
    compile: bool = False


def small() -> Recipe:
    """The codec of `small`, from nothing, on one CPU core.

    8e498083: LPIPS -40 %, PSNR +4 % of AVIF's rate on Kodak.

    python -m training small --data DIR --metrics DIR --minutes 117 --threads 1 --out runs/small
    """
    return Recipe("small", perceptual=300.0, chroma=0.5)


def small_more() -> Recipe:
    """A further leg of `small` from weights: more LPIPS, from the start, and a lower learning rate.

    1f3c1c5a, from 8e498083: LPIPS -50 %, PSNR +3 % of AVIF's rate on Kodak.

    python -m training small_more --init WEIGHTS --data DIR --metrics DIR --minutes 130 --out runs/more
    """
    return replace(small(), learning_rate=8e-4, perceptual=450.0, perceptual_from=0.0, tail=0.4)


def small_denoiser() -> Recipe:
    """The denoiser of `small` on its frozen codec, one random time a step.  Worse than none: for comparison.

    python -m training small_denoiser --init WEIGHTS --data DIR --metrics DIR --minutes 60 --out runs/denoiser
    """
    return Recipe("small", part="denoiser", perceptual=300.0, perceptual_from=0.0)


def small_sampler() -> Recipe:
    """The denoiser of `small` through the 1, 2 and 4 steps that are in use, on one CPU core.

    1bb3b6f2: DISTS -10 %, FD -16 %, PSNR -0.3 dB against steps = 0 on Kodak at 0.1 bpp.

    python -m training small_sampler --init WEIGHTS --data DIR --metrics DIR --minutes 50 --out runs/d
    """
    leg = replace(small_denoiser(), learning_rate=1e-3, batch=6, crop=128, perceptual_crop=96, tail=0.5)
    return replace(leg, unroll=(1, 2, 4), distortion=0.1, dists=1500.0)


def base() -> Recipe:
    """The codec of `base`, from nothing, on one GPU.  Not run yet.

    python -m training base --data DIR --metrics DIR --minutes 25 --out runs/base
    """
    return Recipe("base", batch=64, crop=256, perceptual=300.0, chroma=0.5, perceptual_crop=192, compile=True)


def base_denoiser() -> Recipe:
    """The denoiser of `base` on its frozen codec.  Not run yet.

    python -m training base_denoiser --init WEIGHTS --data DIR --metrics DIR --minutes 25 --out runs/denoiser
    """
    return replace(base(), part="denoiser", perceptual_from=0.0, compile=False)


def paper() -> Recipe:
    """The paper's network with the codec's losses.  Not run yet.

    torchrun --nproc-per-node 8 -m training paper --data DIR --metrics DIR --minutes 600 --out runs/paper
    """
    return Recipe("paper", batch=4, crop=256, learning_rate=2e-4, perceptual=300.0, perceptual_crop=256)


def toy() -> Recipe:
    """Two crops a step: what the tests run, for seconds; no score."""
    return Recipe("toy", batch=2, crop=64, warmup=2, perceptual=300.0, perceptual_crop=64)


ALL = (small, small_more, small_denoiser, small_sampler, base, base_denoiser, paper, toy)
RECIPES = {recipe.__name__: recipe for recipe in ALL}
