"""Strips of what the main decoder made in; the refined image out: the blurring diffusion of a file.

Network and blur look only so far, so each strip is computed with as many rows around it as they see: memory
is bounded, no seam can arise, and a part of an image costs its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sfumato import sampler
from sfumato.strips import concat_strips, map_strips, strip_height, with_halo
from sfumato.transforms import HYPER_STRIDE, BaseReconstruction, Transforms
from sfumato.weights import Config

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class DiffusionOptions:
    """What the reader of a file may choose; ValueError for what is out of range.

    steps     of the diffusion, each one evaluation of the denoiser; 0 leaves the base reconstruction x_base
    realism   0 .. 1, the share of what the diffusion adds to x_base.  The straight line from the most
              faithful image to one of natural statistics is the best trade of squared error against
              realism there can be (Freirich et al. 2021, "A theory of the distortion-perception
              tradeoff in Wasserstein space").
    eta       0 .. 1, fresh noise at each step: 0 is deterministic, 1 draws from the posterior
    """

    steps: int = 0
    realism: float = 1.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.realism <= 1 or not 0 <= self.eta <= 1:
            given = f"{self.steps}, {self.realism} and {self.eta}"
            raise ValueError(f"need steps >= 0, realism in 0..1 and eta in 0..1, got {given}")


class Region(NamedTuple):
    """Where a part of an image lies, in pixels; all are multiples of 64."""

    height: int  # of the whole image
    width: int
    top: int = 0  # of the part
    left: int = 0


def halo(config: Config, chosen: DiffusionOptions) -> int | None:
    """Pixels around a part of the image that the steps look at, a multiple of 64; None: all of them.

    Fresh noise, a wide blur, and a network that looks at everything need the whole image.
    """
    if not chosen.steps:
        return 0
    times = sampler.times(config.t0, chosen.steps, config.times_power)
    reach, schedule = config.halos["denoiser"], config.schedule
    blurs = [schedule.reach(t) for t in times[:-1]]
    if chosen.eta > 0 or reach is None or config.t0 == 1 or None in blurs:
        return None
    total = blurs[0] + sum(reach + blur for blur in blurs[:-1]) + reach  # type: ignore[operator, misc]
    return -(-total // HYPER_STRIDE) * HYPER_STRIDE


def diffusion_decode(
    transforms: Transforms,
    config: Config,
    parts: Iterable[BaseReconstruction],
    q: float,
    seed: int,
    chosen: DiffusionOptions,
    frame: Region,
) -> Iterator[Float[np.ndarray, "1 3 h w"]]:
    """The image after the steps, in [-1, 1], not clamped: strips [1, 3, h, W], from top to bottom.

    `parts` are strips of what the main decoder made, each at least `halo` rows high but the last.  The same
    seed gives the same image, to the rounding of float32.
    """
    around = halo(config, chosen)
    if around == 0:
        yield from (part.x_base for part in parts)
        return
    schedule, t0 = config.schedule, config.t0
    if around is None:
        whole = concat_strips(parts)
        windows = iter([(whole, slice(0, whole.x_base.shape[2]))])
    else:
        schedule, windows = replace(schedule, local=True), with_halo(parts, around)
    times = sampler.times(t0, chosen.steps, config.times_power)
    row = frame.top
    for window, keep in windows:
        start = _noise(window, seed, frame._replace(top=row - keep.start))
        if t0 < 1:
            start = sampler.partial_noise_start(window.x_base, t0, start, schedule)
        f = _network(transforms, config, window, q, whole=around is None)
        if config.predicts == "epsilon":
            f = sampler.from_epsilon(f, schedule)
        x_hat = sampler.ancestral(f, start, times, schedule, seed, chosen.eta)
        if chosen.realism < 1:
            x_hat = window.x_base + np.float32(chosen.realism) * (x_hat - window.x_base)
        yield x_hat[:, :, keep]
        row += keep.stop - keep.start


def _noise(part: BaseReconstruction, seed: int, frame: Region) -> Float[np.ndarray, "1 3 h w"]:
    """The part of the image's noise that lies over this part of it."""
    height, width = part.x_base.shape[2:]
    planes = (
        sampler.noise((height, frame.width), seed, start=(channel * frame.height + frame.top) * frame.width)
        for channel in range(3)
    )
    return np.stack([plane[:, frame.left : frame.left + width] for plane in planes])[None]


def _network(
    transforms: Transforms, config: Config, part: BaseReconstruction, q: float, whole: bool
) -> sampler.Denoiser:
    """The denoiser as a function of z_t and t alone; over a whole image it works in strips."""
    height, width = part.x_base.shape[2:]
    reach = config.halos["denoiser"]
    rows, around = height, 0
    if whole and reach is not None:
        rows, around = strip_height(width, HYPER_STRIDE), -(-reach // HYPER_STRIDE) * HYPER_STRIDE

    def f(z_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        def network(span: slice) -> np.ndarray:
            return transforms.denoise(z_t[:, :, span], t, q, part.part(span))

        return map_strips(network, height, rows, around)

    return f
