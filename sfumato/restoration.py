"""What the main decoder made, band by band, in; the restored picture out: the blurring diffusion of a file.

Frequencies are restored over the whole picture; the network works in bands of it, with as many rows around
them as it sees, so memory is bounded and no seam can arise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato import bands, sampler
from sfumato.model import Model
from sfumato.transform import HYPER_STRIDE, Synthesised


@dataclass(frozen=True)
class Restoration:
    """What the reader of a file may choose; ValueError for what is out of range.

    steps     of the diffusion, each one evaluation of the denoiser; 0 leaves the certain picture x_base
    realism   0 .. 1, the share of what the diffusion adds to x_base.  The straight line from the most
              faithful picture to one of natural statistics is the best trade of squared error against
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


def restore(
    model: Model,
    certain: Synthesised,
    q: Float[Tensor, " 1"],
    seed: int,
    chosen: Restoration,
    progress: Callable[[int], None],
) -> Float[Tensor, "1 3 h w"]:
    """The picture [1, 3, H, W] after the steps, in [-1, 1], not clamped; sides are multiples of 64.

    The same seed gives the same picture, to the rounding of float32.  `progress` hears the steps done.
    """
    x_base, t0 = certain.x_base, model.config.t0
    start = sampler.noise(x_base.shape, seed)
    if t0 < 1:
        start = sampler.late_start(x_base, t0, start, model.schedule)
    f = _by_bands(model, certain, q)
    if model.denoiser.predicts == "epsilon":
        f = sampler.from_epsilon(f, model.schedule)
    times = sampler.times(t0, chosen.steps, model.config.times_power)
    x_hat = sampler.ancestral(f, start, times, model.schedule, seed, chosen.eta, lambda k, _: progress(k))
    return torch.lerp(x_base, x_hat, chosen.realism)


def joined(parts: Iterable[Synthesised]) -> Synthesised:
    """Bands, from top to bottom, as one."""
    x_base, *features = (
        torch.cat(maps, 2) for maps in zip(*((p.x_base, *p.features) for p in parts), strict=True)
    )
    return Synthesised(x_base, tuple(features))


def _by_bands(model: Model, certain: Synthesised, q: Tensor) -> sampler.Denoiser:
    """The denoiser as a function of z_t and t alone."""
    height, width = certain.x_base.shape[2:]
    reach: int | None = model.denoiser.reach  # type: ignore[assignment]
    rows = height if reach is None else bands.rows_of(width, HYPER_STRIDE)
    halo = 0 if reach is None else -(-reach // HYPER_STRIDE) * HYPER_STRIDE

    def f(z_t: Tensor, t: Tensor) -> Tensor:
        def network(span: slice) -> Tensor:
            part = certain.part(span)
            return model.denoiser(z_t[:, :, span], t, q, part.x_base, part.features)

        return torch.cat(list(bands.in_bands(network, height, rows, halo)), 2)

    return f
