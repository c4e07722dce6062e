"""Recipes: functions that return a `Recipe`.  Each header gives command, time and expected score.

A new experiment is a new function (or `dataclasses.replace` on an old one), not a new flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from metrics.features import Net


@dataclass(frozen=True)
class Loss:
    """What a decoded picture costs: the weight of each term, in units of the MSE (RGB, 0..255)."""

    mse: float = 1.0
    chroma: float = 0.0  # MSE of the two colour differences, on top
    lattice: float = 0.0  # power of the error that repeats from patch to patch, on top
    lpips: float = 0.0
    dists: float = 0.0  # its VGG16 costs more than all else


@dataclass(frozen=True)
class Recipe:
    """One leg of training.  Fractions are of its time, so that a leg of any length has the same shape."""

    preset: str
    part: str = "codec"  # "codec": all but the denoiser; "denoiser": that alone, on the frozen codec; "all"
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
    certain: Loss = Loss()  # of x_base
    restored: Loss = Loss()  # of what the denoiser makes of it
    perceptual_from: float = 0.5  # where LPIPS and DISTS come in: pictures are formed by then
    perceptual_net: Net = "squeeze"  # not the network that the evaluation uses
    perceptual_crop: int = 128  # LPIPS and DISTS see a random part of this size of each crop
    dists_crops: int = 0  # DISTS sees so many crops of a batch; 0: all
    unroll: tuple[int, ...] = ()  # numbers of steps that the denoiser is trained through; (): one random time
    restored_crop: int = 128  # the denoiser sees a part of this size where it is trained with the codec
    diffusion: dict[str, float] = field(default_factory=dict)  # other than the preset's, for studies
    compile: bool = False

    def without_perception(self) -> Recipe:
        """The same without LPIPS and DISTS."""
        certain, restored = (replace(loss, lpips=0.0, dists=0.0) for loss in (self.certain, self.restored))
        return replace(self, certain=certain, restored=restored)


def small() -> Recipe:
    """The codec of `small`, from nothing, on one CPU core.

    8e498083: LPIPS -40 %, PSNR +4 % of AVIF's rate on Kodak.

    python -m training small --data DIR --metrics DIR --minutes 117 --threads 1 --out runs/small
    """
    return Recipe("small", certain=Loss(chroma=0.5, lpips=300.0))


def small_more() -> Recipe:
    """A further leg of `small` from weights: more LPIPS, from the start, and a lower learning rate.

    1f3c1c5a, from 8e498083: LPIPS -50 %, PSNR +3 % of AVIF's rate on Kodak.

    python -m training small_more --init WEIGHTS --data DIR --metrics DIR --minutes 130 --out runs/more
    """
    loss = Loss(chroma=0.5, lpips=450.0)
    return replace(small(), learning_rate=8e-4, certain=loss, perceptual_from=0.0, tail=0.4)


def small_denoiser() -> Recipe:
    """The denoiser of `small` on its frozen codec, one random time a step.  Worse than none: for comparison.

    python -m training small_denoiser --init WEIGHTS --data DIR --metrics DIR --minutes 60 --out runs/denoiser
    """
    return Recipe("small", part="denoiser", restored=Loss(mse=0.0, lpips=300.0), perceptual_from=0.0)


def small_sampler() -> Recipe:
    """The denoiser of `small` through the 1, 2 and 4 steps that are in use, on one CPU core.

    1bb3b6f2: DISTS -10 %, FD -16 %, PSNR -0.3 dB against steps = 0 on Kodak at 0.1 bpp.

    python -m training small_sampler --init WEIGHTS --data DIR --metrics DIR --minutes 50 --out runs/d
    """
    leg = replace(small_denoiser(), learning_rate=1e-3, batch=6, crop=128, perceptual_crop=96, tail=0.5)
    return replace(leg, unroll=(1, 2, 4), restored=Loss(mse=0.1, lpips=300.0, dists=1500.0))


def small_joint() -> Recipe:
    """All of `small` together, from weights: DISTS comes in, the lattice goes out, the step is judged too.

    python -m training small_joint --init WEIGHTS --data DIR --metrics DIR --minutes 130 --out runs/joint
    """
    leg = replace(small_more(), part="all", learning_rate=6e-4, lmbda=(0.00012, 0.03))
    leg = replace(leg, perceptual_crop=96, dists_crops=4, unroll=(1, 1, 2, 4), restored_crop=128)
    certain = Loss(mse=0.8, chroma=0.5, lattice=20.0, lpips=250.0)
    return replace(leg, certain=certain, restored=Loss(mse=0.3, lattice=20.0, lpips=400.0, dists=900.0))


def base() -> Recipe:
    """The codec of `base`, from nothing, on one GPU.  Not run yet.

    python -m training base --data DIR --metrics DIR --minutes 25 --out runs/base
    """
    loss = Loss(chroma=0.5, lattice=20.0, lpips=300.0)
    return Recipe("base", batch=64, crop=256, certain=loss, perceptual_crop=192, compile=True)


def base_denoiser() -> Recipe:
    """The denoiser of `base` on its frozen codec, through its steps.  Not run yet.

    python -m training base_denoiser --init WEIGHTS --data DIR --metrics DIR --minutes 25 --out runs/denoiser
    """
    loss = Loss(mse=0.1, lattice=20.0, lpips=300.0, dists=1500.0)
    leg = replace(base(), part="denoiser", restored=loss, unroll=(1, 2, 4), perceptual_from=0.0)
    return replace(leg, compile=False)


def paper() -> Recipe:
    """The paper's network with the codec's losses.  Not run yet.

    torchrun --nproc-per-node 8 -m training paper --data DIR --metrics DIR --minutes 600 --out runs/paper
    """
    loss = Loss(lpips=300.0)
    return Recipe("paper", batch=4, crop=256, learning_rate=2e-4, certain=loss, perceptual_crop=256)


def toy() -> Recipe:
    """Two crops a step: what the tests run, for seconds; no score."""
    loss = Loss(lpips=300.0)
    leg = Recipe("toy", batch=2, crop=64, warmup=2, certain=loss, perceptual_crop=64, restored_crop=64)
    return replace(leg, restored=replace(loss, mse=0.0))


ALL = (small, small_more, small_denoiser, small_sampler, small_joint, base, base_denoiser, paper, toy)
RECIPES = {recipe.__name__: recipe for recipe in ALL}
