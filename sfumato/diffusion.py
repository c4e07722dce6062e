"""An image, a time and white noise in, the blurred noisy image out: the forward process.

On numpy arrays, and on torch tensors with gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.arrays import Array, at_least_single, double, full_precision, like, namespace
from sfumato.dct import dct, frequencies, idct

if TYPE_CHECKING:
    from jaxtyping import Float

ALPHA_MIN = 1e-6
"""Floor of alpha_t where it divides: an error of epsilon is never amplified more than a million times."""

MAX_RADIUS = 56  # pixels
TAIL = 5e-4
PERIOD = 1 << 12  # pixels of the row on which kernels are made
BLOCK = 128  # pixels


@dataclass(frozen=True)
class Blurring:
    """The blurring diffusion of Hoogeboom & Salimans 2022, "Blurring Diffusion Models" (arXiv 2209.05557).

        u_t = alpha_t u_x + sigma_t u_epsilon,    alpha_t = a_t d_t,    u = DCT(image)

    a_t, sigma_t: the cosine noise schedule.  d_t: the blur, one factor a frequency, that
    removes detail first.  Its unit is the pixel, so a schedule means the same at every image size.

    All methods take times t [B] in [0, 1] (0 the image, 1 nearly pure noise; not checked, which would
    halt a GPU), compute in float64 and return `dtype`, float32 if None, shaped to multiply [B, C, H, W].

    sigma_b_max: standard deviation of the blur at t = 1, in pixels; 0 is ordinary diffusion.
    d_min: what is left of the highest frequencies, so that 1 / alpha_t stays finite.
    logsnr_min, logsnr_max: log(a_t^2 / sigma_t^2) at t = 1 and t = 0.
    blur_power: of the sine by which the blur grows with t; 2 is the paper's, 1 blurs sooner and 4 later.
    local: `blur` with kernels that reach a few pixels, in place of the DCT of the whole image.
    """

    sigma_b_max: float
    d_min: float = 0.001
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    blur_power: int = 2
    local: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_b_max < math.inf:
            raise ValueError(f"sigma_b_max must be finite and not negative, got {self.sigma_b_max}")
        if self.blur_power < 1:
            raise ValueError(f"blur_power must be 1 or more, got {self.blur_power}")
        if not 0 <= self.d_min <= 1:
            raise ValueError(f"d_min must lie in [0, 1], got {self.d_min}")
        if not -math.inf < self.logsnr_min < self.logsnr_max < math.inf:
            raise ValueError(f"need logsnr_min < logsnr_max, got {self.logsnr_min}, {self.logsnr_max}")

    def a(self, t: Float[Array, " b"], dtype: Any = None) -> Float[Array, "b 1 1 1"]:
        """a_t = sqrt(sigmoid(logsnr_t)), the share of the image before it is blurred."""
        return _cast(namespace(t).cos(self._angle(t)), dtype)

    def sigma(self, t: Float[Array, " b"], dtype: Any = None) -> Float[Array, "b 1 1 1"]:
        """sigma_t = sqrt(sigmoid(-logsnr_t)), the standard deviation of the noise; a_t^2 + sigma_t^2 = 1."""
        return _cast(namespace(t).sin(self._angle(t)), dtype)

    def tau(self, t: Float[Array, " b"], dtype: Any = None) -> Float[Array, "b 1 1 1"]:
        """tau_t = sigma_B,t^2 / 2, the time of dissipation in pixels squared; section 4."""
        # sigma_B,t = sigma_B,max sin^blur_power(pi t / 2)
        sine = namespace(t).sin(_exact(t) * (math.pi / 2))
        return _cast((self.sigma_b_max * sine**self.blur_power) ** 2 / 2, dtype)

    def d(self, t: Float[Array, " b"], height: int, width: int, dtype: Any = None) -> Float[Array, "b 1 h w"]:
        """d_t = (1 - d_min) exp(-lambda tau_t) + d_min, the blur's factor on each frequency; section 4."""
        tau = self.tau(t, namespace(t).float64)
        decay = namespace(t).exp(-like(frequencies(height, width), tau) * tau)
        return _cast((1 - self.d_min) * decay + self.d_min, dtype)

    def alpha(
        self, t: Float[Array, " b"], height: int, width: int, dtype: Any = None
    ) -> Float[Array, "b 1 h w"]:
        """alpha_t = a_t d_t, the share of each frequency of the image; section 4."""
        wide = namespace(t).float64
        return _cast(self.a(t, wide) * self.d(t, height, width, wide), dtype)

    def factors(self, t: float) -> tuple[float, float]:
        """(a_t, sigma_t)."""
        at = np.array([t])
        return self.a(at, np.float64).item(), self.sigma(at, np.float64).item()

    def reach(self, t: float) -> int | None:
        """How far a local `blur` looks, in pixels; None where the blur is too wide for that."""
        kernel = self._kernel(t)
        return None if kernel is None else len(kernel) // 2

    def blur(self, x: Float[Array, "b c h w"], t: float) -> Float[Array, "b c h w"]:
        """IDCT(d_t DCT(x)), float32 (float64 for float64); gradients pass.

        Local, it differs from that by a few thousandths for images in [-1, 1], and a part of an image
        gives what the whole gives from `reach(t)` pixels inside its borders on.  Raises ValueError where the
        reach is None or beyond a side.
        """
        x = at_least_single(x)
        if not self.local:
            return idct(like(self.d(np.array([t]), x.shape[-2], x.shape[-1], np.float64), x) * dct(x))
        kernel = self._kernel(t)
        if kernel is None or len(kernel) // 2 > min(x.shape[-2:]):
            raise ValueError(f"no local dissipation to t = {t} in {x.shape[-1]}x{x.shape[-2]} pixels")
        with full_precision(x):
            return (1 - self.d_min) * _convolve(x, kernel) + self.d_min * x

    def _kernel(self, t: float) -> NDArray[np.float64] | None:
        return heat_kernel(self.tau(np.array([t]), np.float64).item())

    def forward(
        self, x: Float[Array, "b c h w"], t: Float[Array, " b"], noise: Float[Array, "b c h w"]
    ) -> Float[Array, "b c h w"]:
        """z_t = IDCT(alpha_t DCT(x)) + sigma_t noise: a draw of q(z_t | x), in pixels, float32.

        `noise` is white and of unit variance; the transform is orthonormal, so it needs none itself.
        """
        blurred = idct(self._alpha(t, x) * dct(x))
        return blurred + self._sigma(t, x) * noise

    def u_x(
        self, u_t: Float[Array, "b c h w"], t: Float[Array, " b"], u_epsilon: Float[Array, "b c h w"]
    ) -> Float[Array, "b c h w"]:
        """u_x = (u_t - sigma_t u_epsilon) / alpha_t, all DCT coefficients; alpha_t is floored at 1e-6."""
        alpha = namespace(u_t).clip(self._alpha(t, u_t), ALPHA_MIN, None)
        return (u_t - self._sigma(t, u_t) * u_epsilon) / alpha

    def u_epsilon(
        self, u_t: Float[Array, "b c h w"], t: Float[Array, " b"], u_x: Float[Array, "b c h w"]
    ) -> Float[Array, "b c h w"]:
        """u_epsilon = (u_t - alpha_t u_x) / sigma_t, all DCT coefficients."""
        return (u_t - self._alpha(t, u_t) * u_x) / self._sigma(t, u_t)

    def x_from_epsilon(
        self, z_t: Float[Array, "b c h w"], t: Float[Array, " b"], epsilon: Float[Array, "b c h w"]
    ) -> Float[Array, "b c h w"]:
        """`u_x` for images: the x that was mixed with `epsilon` to give z_t."""
        return idct(self.u_x(dct(z_t), t, dct(epsilon)))

    def epsilon_from_x(
        self, z_t: Float[Array, "b c h w"], t: Float[Array, " b"], x: Float[Array, "b c h w"]
    ) -> Float[Array, "b c h w"]:
        """`u_epsilon` for images: the noise that was added to the blurred x to give z_t."""
        return idct(self.u_epsilon(dct(z_t), t, dct(x)))

    def _angle(self, t: Array) -> Array:
        # logsnr_t = -2 log tan(angle), the angle linear in t (the cosine schedule of Nichol & Dhariwal 2021
        # cut at both ends); hence sigmoid(logsnr_t) = cos^2(angle) and sigmoid(-logsnr_t) = sin^2(angle).
        first = math.atan(math.exp(-self.logsnr_max / 2))
        last = math.atan(math.exp(-self.logsnr_min / 2))
        return first + (last - first) * _exact(t)

    def _alpha(self, t: Array, x: Array) -> Array:
        x = at_least_single(x)
        return like(self.alpha(t, x.shape[-2], x.shape[-1], namespace(t).float64), x)

    def _sigma(self, t: Array, x: Array) -> Array:
        return like(self.sigma(t, namespace(t).float64), at_least_single(x))


@lru_cache(maxsize=32)
def heat_kernel(tau: float) -> Float[np.ndarray, " 2*r+1"] | None:
    """What dissipation for a time tau does to one pixel of an endless row; float64, with sum 1.

    It is cut r pixels away, where what is left out moves white noise by less than `TAIL` of its deviation.
    None where r would be more than `MAX_RADIUS`.
    """
    omega = np.arange(PERIOD // 2 + 1) * (2 * math.pi / PERIOD)
    half = np.fft.irfft(np.exp(-(omega**2) * tau), PERIOD)[: PERIOD // 2]
    beyond = np.sqrt((2 * half**2)[::-1].cumsum()[::-1])  # at n: n pixels away and further
    r = max(0, int((beyond >= TAIL).sum()) - 1)
    if r > MAX_RADIUS:
        return None
    kernel: NDArray[np.float64] = np.concatenate((half[1 : r + 1][::-1], half[: r + 1]))
    return kernel / kernel.sum()


def _convolve(x: Float[Array, "b c h w"], kernel: Float[np.ndarray, " k"]) -> Float[Array, "b c h w"]:
    """The kernel along columns and rows, borders reflected (half-sample, as the DCT-II has it).

    By matrix products of blocks: faster on a CPU than a convolution that long.
    """
    if (r := len(kernel) // 2) == 0:
        return x
    offset = np.arange(BLOCK + 2 * r)[:, None] - np.arange(BLOCK)[None, :]
    band = np.where((offset >= 0) & (offset <= 2 * r), kernel[np.clip(offset, 0, 2 * r)], 0)
    along, down = like(band, x), like(band.T.copy(), x)
    xp, (height, width) = namespace(x), x.shape[-2:]
    x = xp.concatenate((xp.flip(x[..., :r], (-1,)), x, xp.flip(x[..., width - r :], (-1,))), -1)
    sides = [(at, min(BLOCK, width - at)) for at in range(0, width, BLOCK)]
    x = xp.concatenate([x[..., at : at + n + 2 * r] @ along[: n + 2 * r, :n] for at, n in sides], -1)
    x = xp.concatenate((xp.flip(x[..., :r, :], (-2,)), x, xp.flip(x[..., height - r :, :], (-2,))), -2)
    sides = [(at, min(BLOCK, height - at)) for at in range(0, height, BLOCK)]
    return xp.concatenate([down[:n, : n + 2 * r] @ x[..., at : at + n + 2 * r, :] for at, n in sides], -2)


def _cast(x: Array, dtype: Any) -> Array:
    dtype = dtype or namespace(x).float32
    return x.astype(dtype) if isinstance(x, np.ndarray) else x.to(dtype)


def _exact(t: Array) -> Float[Array, "b 1 1 1"]:
    if t.ndim != 1:
        raise ValueError(f"expected times [B], got the shape {tuple(t.shape)}")
    return double(t)[:, None, None, None]
