"""A picture, a time and white noise in, the blurred noisy picture out: the forward process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.dct import dct, frequencies, idct, no_autocast

ALPHA_MIN = 1e-6
"""Floor of alpha_t where it divides: an error of epsilon is never amplified more than a million times."""

REACH_MAX = 56  # pixels
TAIL = 5e-4
PERIOD = 1 << 12  # pixels of the row on which kernels are made
BLOCK = 128  # pixels


@dataclass(frozen=True)
class Blurring:
    """The blurring diffusion of Hoogeboom & Salimans 2022, "Blurring Diffusion Models" (arXiv 2209.05557).

        u_t = alpha_t u_x + sigma_t u_epsilon,    alpha_t = a_t d_t,    u = DCT(picture)

    a_t, sigma_t: the cosine noise schedule.  d_t: the dissipation of heat, one factor a frequency, that
    removes detail first.  Its unit is the pixel, so a schedule means the same at every picture size.

    All methods take times t [B] in [0, 1] (0 the picture, 1 nearly pure noise; not checked, which would
    halt a GPU), compute in float64 and return `dtype`, shaped to multiply [B, C, H, W].

    sigma_b_max: standard deviation of the blur at t = 1, in pixels; 0 is ordinary diffusion.
    d_min: what is left of the highest frequencies, so that 1 / alpha_t stays finite.
    logsnr_min, logsnr_max: log(a_t^2 / sigma_t^2) at t = 1 and t = 0.
    local: `dissipate` with kernels that reach a few pixels, in place of the DCT of the whole picture.
    """

    sigma_b_max: float
    d_min: float = 0.001
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    local: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_b_max < math.inf:
            raise ValueError(f"sigma_b_max must be finite and not negative, got {self.sigma_b_max}")
        if not 0 <= self.d_min <= 1:
            raise ValueError(f"d_min must lie in [0, 1], got {self.d_min}")
        if not -math.inf < self.logsnr_min < self.logsnr_max < math.inf:
            raise ValueError(f"need logsnr_min < logsnr_max, got {self.logsnr_min}, {self.logsnr_max}")

    def a(self, t: Float[Tensor, " b"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b 1 1 1"]:
        """a_t = sqrt(sigmoid(logsnr_t)), the share of the picture before it is blurred."""
        return torch.cos(self._angle(t)).to(dtype)

    def sigma(self, t: Float[Tensor, " b"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b 1 1 1"]:
        """sigma_t = sqrt(sigmoid(-logsnr_t)), the standard deviation of the noise; a_t^2 + sigma_t^2 = 1."""
        return torch.sin(self._angle(t)).to(dtype)

    def tau(self, t: Float[Tensor, " b"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b 1 1 1"]:
        """tau_t = sigma_B,t^2 / 2, the time of dissipation in pixels squared; section 4."""
        # sigma_B,t = sigma_B,max sin^2(pi t / 2)
        sigma_b = self.sigma_b_max * torch.sin(_exact(t) * (math.pi / 2)).square()
        return (sigma_b.square() / 2).to(dtype)

    def d(
        self, t: Float[Tensor, " b"], height: int, width: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "b 1 h w"]:
        """d_t = (1 - d_min) exp(-lambda tau_t) + d_min, the blur's factor on each frequency; section 4."""
        tau = self.tau(t, torch.float64)
        decay = torch.exp(-frequencies(height, width, tau.device) * tau)
        return ((1 - self.d_min) * decay + self.d_min).to(dtype)

    def alpha(
        self, t: Float[Tensor, " b"], height: int, width: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "b 1 h w"]:
        """alpha_t = a_t d_t, the share of each frequency of the picture; section 4."""
        return (self.a(t, torch.float64) * self.d(t, height, width, torch.float64)).to(dtype)

    def reach(self, t: float) -> int | None:
        """How far a local `dissipate` looks, in pixels; None where heat has gone too far for that."""
        kernel = self._kernel(t)
        return None if kernel is None else len(kernel) // 2

    def dissipate(self, x: Float[Tensor, "b c h w"], t: float) -> Float[Tensor, "b c h w"]:
        """IDCT(d_t DCT(x)), float32 (float64 for float64); gradients pass.

        Local, it differs from that by a few thousandths for pictures in [-1, 1], and a part of a picture
        gives what the whole gives from `reach(t)` pixels inside its borders on.  Raises ValueError where the
        reach is None or beyond a side.
        """
        if not self.local:
            times = torch.full((len(x),), t, dtype=torch.float64)
            d = self.d(times, x.shape[-2], x.shape[-1], _float(x))
            return idct(d.to(x.device) * dct(x))
        kernel = self._kernel(t)
        if kernel is None or len(kernel) // 2 > min(x.shape[-2:]):
            raise ValueError(f"no local dissipation to t = {t} in {x.shape[-1]}x{x.shape[-2]} pixels")
        x = x.to(_float(x))
        with no_autocast(x):
            return (1 - self.d_min) * _convolve(x, kernel) + self.d_min * x

    def _kernel(self, t: float) -> Tensor | None:
        return heat_kernel(self.tau(torch.tensor([t], dtype=torch.float64), torch.float64).item())

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """z_t = IDCT(alpha_t DCT(x)) + sigma_t noise: a draw of q(z_t | x), in pixels, float32.

        `noise` is white and of unit variance; the transform is orthonormal, so it needs none itself.
        """
        blurred = idct(self._alpha(t, x) * dct(x))
        return blurred + self._sigma(t, x) * noise

    def u_x(
        self, u_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], u_epsilon: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """u_x = (u_t - sigma_t u_epsilon) / alpha_t, all DCT coefficients; alpha_t is floored at 1e-6."""
        return (u_t - self._sigma(t, u_t) * u_epsilon) / self._alpha(t, u_t).clamp(min=ALPHA_MIN)

    def u_epsilon(
        self, u_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], u_x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """u_epsilon = (u_t - alpha_t u_x) / sigma_t, all DCT coefficients."""
        return (u_t - self._alpha(t, u_t) * u_x) / self._sigma(t, u_t)

    def x_from_epsilon(
        self, z_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], epsilon: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """`u_x` for pictures: the x that was mixed with `epsilon` to give z_t."""
        return idct(self.u_x(dct(z_t), t, dct(epsilon)))

    def epsilon_from_x(
        self, z_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """`u_epsilon` for pictures: the noise that was added to the blurred x to give z_t."""
        return idct(self.u_epsilon(dct(z_t), t, dct(x)))

    def _angle(self, t: Tensor) -> Tensor:
        # logsnr_t = -2 log tan(angle), the angle linear in t (the cosine schedule of Nichol & Dhariwal 2021
        # cut at both ends); hence sigmoid(logsnr_t) = cos^2(angle) and sigmoid(-logsnr_t) = sin^2(angle).
        first = math.atan(math.exp(-self.logsnr_max / 2))
        last = math.atan(math.exp(-self.logsnr_min / 2))
        return first + (last - first) * _exact(t)

    def _alpha(self, t: Tensor, like: Tensor) -> Tensor:
        return self.alpha(t, like.shape[-2], like.shape[-1], _float(like)).to(like.device)

    def _sigma(self, t: Tensor, like: Tensor) -> Tensor:
        return self.sigma(t, _float(like)).to(like.device)


@lru_cache(maxsize=32)
def heat_kernel(tau: float) -> Float[Tensor, " 2*r+1"] | None:
    """What dissipation for a time tau does to one pixel of an endless row; float64, with sum 1.

    It is cut r pixels away, where what is left out moves white noise by less than `TAIL` of its deviation.
    None where r would be more than `REACH_MAX`.
    """
    omega = torch.arange(PERIOD // 2 + 1, dtype=torch.float64) * (2 * math.pi / PERIOD)
    half = torch.fft.irfft(torch.exp(-omega.square() * tau), PERIOD)[: PERIOD // 2]
    beyond = (2 * half.square()).flip(0).cumsum(0).flip(0).sqrt()  # at n: n pixels away and further
    r = max(0, int((beyond >= TAIL).sum()) - 1)
    if r > REACH_MAX:
        return None
    kernel = torch.cat((half[1 : r + 1].flip(0), half[: r + 1]))
    return kernel / kernel.sum()


def _convolve(x: Float[Tensor, "b c h w"], kernel: Float[Tensor, " k"]) -> Float[Tensor, "b c h w"]:
    """The kernel along columns and rows, borders reflected (half-sample, as the DCT-II has it).

    By matrix products of blocks: faster on a CPU than a convolution that long.
    """
    if (r := len(kernel) // 2) == 0:
        return x
    offset = torch.arange(BLOCK + 2 * r)[:, None] - torch.arange(BLOCK)[None, :]
    band = torch.where((offset >= 0) & (offset <= 2 * r), kernel[offset.clamp(0, 2 * r)], 0).to(x)
    height, width = x.shape[-2:]
    x = torch.cat((x[..., :r].flip(-1), x, x[..., width - r :].flip(-1)), -1)
    sides = [(at, min(BLOCK, width - at)) for at in range(0, width, BLOCK)]
    x = torch.cat([x[..., at : at + n + 2 * r] @ band[: n + 2 * r, :n] for at, n in sides], -1)
    x = torch.cat((x[..., :r, :].flip(-2), x, x[..., height - r :, :].flip(-2)), -2)
    sides = [(at, min(BLOCK, height - at)) for at in range(0, height, BLOCK)]
    return torch.cat([band[: n + 2 * r, :n].T @ x[..., at : at + n + 2 * r, :] for at, n in sides], -2)


def _float(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _exact(t: Tensor) -> Float[Tensor, "b 1 1 1"]:
    if t.ndim != 1:
        raise ValueError(f"expected times [B], got the shape {tuple(t.shape)}")
    if t.device.type == "mps":  # has no float64
        t = t.cpu()
    return t.double()[:, None, None, None]
