"""A picture, a time and white noise in, the blurred noisy picture out: the forward process and its losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.dct import dct, frequencies, idct

ALPHA_MIN = 1e-6
"""Floor of alpha_t where it divides: an error of epsilon is never amplified more than a million times."""


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
    """

    sigma_b_max: float
    d_min: float = 0.001
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

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


def x_loss(
    x: Float[Tensor, "b c h w"],
    x_hat: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    schedule: Blurring,
    w_min: float = 0.05,
    w_max: float = 5.0,
) -> Float[Tensor, " b"]:
    """Squared error of a predicted picture, each frequency weighted by its signal-to-noise ratio at t.

        sum_f clip(alpha_t,f^2 / sigma_t^2, w_min, w_max) (u_x - u_x_hat)_f^2 / (C H W)

    Unclipped this is the squared error of epsilon (Hoogeboom & Salimans 2022), which hardly
    sees detail except at small t; w_min gives detail a voice, w_max = 5 is that of Yang & Mandt's CDC.
    Returns one value a picture, in squared units of x; with w_min = w_max = 1 it is the plain MSE.
    """
    weight = (schedule._alpha(t, x) / schedule._sigma(t, x)).square().clamp(w_min, w_max)
    return (weight * dct(x - x_hat).square()).mean((1, 2, 3))


def epsilon_loss(
    epsilon: Float[Tensor, "b c h w"], epsilon_hat: Float[Tensor, "b c h w"], power: float = 1.0
) -> Float[Tensor, " b"]:
    """mean |epsilon - epsilon_hat|^power, one value a picture.

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


def _float(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _exact(t: Tensor) -> Float[Tensor, "b 1 1 1"]:
    if t.ndim != 1:
        raise ValueError(f"expected times [B], got the shape {tuple(t.shape)}")
    if t.device.type == "mps":  # has no float64
        t = t.cpu()
    return t.double()[:, None, None, None]
