"""A denoiser and a noisy image in, a clean image out: the reverse process, as functions without state.

A denoiser is any f(z_t [B, C, H, W], t [B]) -> x_hat [B, C, H, W]: the guess of the image behind z_t.
On numpy arrays, and on torch tensors, where gradients pass through every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.arrays import Array, at_least_single, like, namespace
from sfumato.dct import dct, idct
from sfumato.diffusion import Blurring

if TYPE_CHECKING:
    from jaxtyping import Float

Denoiser = Callable[[Array, Array], Array]
Progress = Callable[[int, Array], None]
"""Called after each evaluation of the denoiser with the number of evaluations so far and the latest x_hat."""


def times(t0: float, steps: int, power: float = 2.0) -> tuple[float, ...]:
    """The steps + 1 times t0 (1 - k / steps)^power from t0 down to 0, dense near 0, where detail is decided.

    Raises ValueError unless 0 < t0 <= 1, steps >= 1 and power > 0.
    """
    if not 0 < t0 <= 1:
        raise ValueError(f"t0 must lie in (0, 1], got {t0}")
    if steps < 1 or power <= 0:
        raise ValueError(f"need steps >= 1 and power > 0, got {steps} and {power}")
    return tuple(t0 * (1 - k / steps) ** power for k in range(steps + 1))


def noise(shape: Sequence[int], seed: int, step: int = 0, start: int = 0) -> Float[np.ndarray, ...]:
    """White Gaussian noise, float32 numpy: the same for the same (seed, step) on every machine.

    Philox 4x64-10 (Salmon et al. 2011) with the key (seed, step) and the counter from 0 gives one 64-bit
    word for two values; its halves make two uniform numbers, and those two normal ones (Box & Muller 1958).
    No value is ever rejected, so a rounding in log or cos moves one value by one unit in the last place
    and never shifts those after it.  A longer draw begins with the shorter one.  `start`, an even number,
    leaves out so many values.

    By convention step 0 is the start and step k the noise that the k-th step of `ancestral` adds.
    Raises ValueError unless 0 <= seed, step < 2^64 and start is even.
    """
    for name, value in (("seed", seed), ("step", step)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} must lie in [0, 2^64), got {value}")
    if start < 0 or start % 2:
        raise ValueError(f"start must be even, got {start}")
    count = int(np.prod(shape, dtype=np.int64))
    generator = np.random.Philox(key=np.array([seed, step], dtype=np.uint64))
    counter, word = divmod(start // 2, 4)  # four words a count
    words = generator.advance(counter).random_raw(word + (count + 1) // 2)[word:]
    u_1 = ((words >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32  # in (0, 1), both ends excluded
    u_2 = ((words & np.uint64(0xFFFFFFFF)).astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2 * np.log(u_1))
    pairs = np.stack((radius * np.cos(2 * np.pi * u_2), radius * np.sin(2 * np.pi * u_2)), axis=-1)
    return pairs.reshape(-1)[:count].astype(np.float32).reshape(shape)


def partial_noise_start(
    x_base: Float[Array, "b c h w"],
    t0: float,
    noise: Float[Array, "b c h w"],
    schedule: Blurring,
) -> Float[Array, "b c h w"]:
    """z_t0 = IDCT(alpha_t0 DCT(x_base)) + sigma_t0 noise: begin from the base reconstruction.

    For small t0 the synthesis only restores what the blur takes from x_base.  `noise` as from `noise()`.
    """
    a, sigma = schedule.factors(t0)
    blurred = schedule.blur(x_base, t0)
    return a * blurred + sigma * like(noise, blurred)


def from_epsilon(g: Denoiser, schedule: Blurring) -> Denoiser:
    """The denoiser made of a network g(z_t, t) -> epsilon_hat (Khoshkhahtinat et al. 2024).

    x_hat is clamped to [-1, 1], as in training: near t = 1 it is an error of epsilon a thousand times over.
    """

    def f(z_t: Array, t: Array) -> Array:
        return namespace(z_t).clip(schedule.x_from_epsilon(z_t, t, g(z_t, t)), -1, 1)

    return f


def deterministic(
    f: Denoiser,
    z: Float[Array, "b c h w"],
    ts: Sequence[float],
    schedule: Blurring,
    progress: Progress | None = None,
) -> Float[Array, "b c h w"]:
    """From z at time ts[0] to an image at time ts[-1] = 0, without fresh noise.

        u_s = alpha_s u_x_hat + sigma_s epsilon_hat,    epsilon_hat = (u_t - alpha_t u_x_hat) / sigma_t

    DDIM with eta = 0 (Song et al. 2021, equation 12), one alpha a frequency.  The last step returns x_hat.
    Calls f len(ts) - 1 times.  Raises ValueError unless 1 >= ts[0] > ts[1] > ... > ts[-1] = 0.
    """
    return _sampling_loop(f, z, ts, schedule, 0.0, 0, progress)


def ancestral(
    f: Denoiser,
    z: Float[Array, "b c h w"],
    ts: Sequence[float],
    schedule: Blurring,
    seed: int,
    eta: float = 1.0,
    progress: Progress | None = None,
) -> Float[Array, "b c h w"]:
    """As `deterministic`, but each step draws from q(u_s | u_t, u_x_hat), the posterior of each frequency.

    eta = 1 is the denoising of Hoogeboom & Salimans 2022, section 4; eta between 0 and 1 adds less fresh
    noise (Song et al. 2021, equation 16).  The k-th step uses noise(z.shape, seed, k), k from 1, as DCT
    coefficients; the last step adds none and returns x_hat.
    Raises ValueError as `deterministic` does, and unless 0 <= eta <= 1.
    """
    return _sampling_loop(f, z, ts, schedule, eta, seed, progress)


class StepCoefficients(NamedTuple):
    """One reverse step: u_s = keep u_t + pull u_x_hat + spread n, each frequency by itself; n white."""

    keep: Float[np.ndarray, "1 1 #h #w"]
    pull: Float[np.ndarray, "1 1 h w"]
    spread: Float[np.ndarray, "1 1 h w"]


def step_coefficients(
    schedule: Blurring, t: float, s: float, height: int, width: int, eta: float = 0.0
) -> StepCoefficients:
    """The factors of the step from t to s < t, float64 numpy.

        alpha_ts = alpha_t / alpha_s,    sigma2_ts = sigma_t^2 - alpha_ts^2 sigma_s^2
        sigma2_den = 1 / (1 / sigma_s^2 + alpha_ts^2 / sigma2_ts) = sigma_s^2 sigma2_ts / sigma_t^2
        spread = eta sqrt(sigma2_den)
        keep = sqrt(sigma_s^2 - spread^2) / sigma_t
        pull = alpha_s - alpha_t keep

    For eta = 1 keep and pull are the weights of the posterior mean, alpha_ts sigma2_den / sigma2_ts and
    alpha_s sigma2_den / sigma_s^2.  Written this way nothing is divided by a small number, and at every
    eta a true x leads from the marginal at t to the marginal at s.
    """
    alpha_t, alpha_s = (schedule.alpha(np.array([at]), height, width, np.float64) for at in (t, s))
    sigma_t, sigma_s = (schedule.sigma(np.array([at]), np.float64) for at in (t, s))
    # not negative: a_t / sigma_t and d_t both fall with t; the clamps only catch rounding
    alpha_ts = alpha_t / np.maximum(alpha_s, 1e-12)
    sigma2_ts = np.maximum(sigma_t**2 - alpha_ts**2 * sigma_s**2, 0)
    sigma2_den = sigma_s**2 * sigma2_ts / sigma_t**2
    spread = eta * np.sqrt(sigma2_den)
    keep = np.sqrt(np.maximum(sigma_s**2 - spread**2, 0)) / sigma_t
    return StepCoefficients(keep, alpha_s - alpha_t * keep, spread)


def _sampling_loop(
    f: Denoiser,
    z: Array,
    ts: Sequence[float],
    schedule: Blurring,
    eta: float,
    seed: int,
    progress: Progress | None,
) -> Array:
    if len(ts) < 2 or ts[-1] != 0 or ts[0] > 1 or any(s >= t for t, s in pairwise(ts)):
        raise ValueError(f"times must fall from at most 1 to 0, got {tuple(ts)}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    z = at_least_single(z)
    u = dct(z) if eta > 0 else z
    for k, (t, s) in enumerate(pairwise(ts[:-1]), start=1):
        x_hat = at_least_single(f(z, _batch(t, z)))
        if progress is not None:
            progress(k, x_hat)
        if eta > 0:
            weights = step_coefficients(schedule, t, s, z.shape[-2], z.shape[-1], eta)
            keep, pull, spread = (like(w, u) for w in weights)
            u = keep * u + pull * dct(x_hat)
            # drawn as coefficients: DCT(white noise) is white
            u = u + spread * like(noise(u.shape, seed, k), u)
            z = idct(u)
        else:  # keep is one number, and pull u_x_hat two dissipations of x_hat
            (a_t, sigma_t), (a_s, sigma_s) = schedule.factors(t), schedule.factors(s)
            share = sigma_s / sigma_t
            pulled = a_s * schedule.blur(x_hat, s) - share * a_t * schedule.blur(x_hat, t)
            z = share * z + pulled
    x_hat = at_least_single(f(z, _batch(ts[-2], z)))
    if progress is not None:
        progress(len(ts) - 1, x_hat)
    return x_hat


def _batch(t: float, z: Array) -> Float[Array, " b"]:
    times: NDArray[np.float32] = np.full(z.shape[0], t, np.float32)
    return times if isinstance(z, np.ndarray) else like(times, z.float())
