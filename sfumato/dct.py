"""Pictures in, cosine coefficients out, and back: the orthonormal 2-D DCT-II, [..., H, W] to [..., H, W]."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

MATRIX_SIDE = 2048
"""Longest side that is transformed by a matrix product; longer ones go through the FFT."""

PLANE = 1 << 21
"""Values above which the planes of [..., H, W] are transformed one by one: the FFT needs room."""


def dct(x: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """Orthonormal DCT-II over the last two axes (Ahmed et al. 1974), sides of any length.

        u_n = c_n sum_j x_j cos(pi n (2 j + 1) / (2 N)),    c_0 = sqrt(1 / N), c_n = sqrt(2 / N)

    It diagonalises the Laplacian with reflecting borders, which is what heat dissipation needs
    (Rissanen et al. 2022, section 3), and keeps white noise white.

    The result is float64 for float64 input and float32 otherwise, autocast or not: in half precision
    the rounding of the low frequencies, hundreds of times larger, would bury the high ones.

    Raises ValueError for fewer than two axes or an empty side, TypeError for integer input.
    """
    return _transform(x, _dct_by_matrix, _dct_by_fft)


def idct(u: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """The inverse of `dct`, and its transpose, as the transform is orthonormal.  Same types, same errors."""
    return _transform(u, _idct_by_matrix, _idct_by_fft)


def frequencies(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "h w"]:
    """lambda_{n,m} = (pi n / H)^2 + (pi m / W)^2, minus the eigenvalues of the Laplacian; float64.

    In radians a pixel, squared: a blur of sigma_B pixels is exp(-lambda sigma_B^2 / 2) whatever the
    size of the picture (Rissanen et al. 2022, section 3; Hoogeboom & Salimans 2022, section 3).
    """
    omega_n = torch.arange(height, dtype=torch.float64, device=device) * (math.pi / height)
    omega_m = torch.arange(width, dtype=torch.float64, device=device) * (math.pi / width)
    return omega_n[:, None].square() + omega_m[None, :].square()


Axis = Callable[[Tensor], Tensor]  # a transform over the last axis


def _transform(x: Tensor, by_matrix: Axis, by_fft: Axis) -> Tensor:
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"expected [..., height, width] with sides of at least 1, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"expected floating point values, got {x.dtype}")
    if x.dtype != torch.float64:
        x = x.float()
    if x[..., 0, 0].numel() > 1 and x.shape[-1] * x.shape[-2] > PLANE:
        return torch.stack([_transform(plane, by_matrix, by_fft) for plane in x.unbind()])
    with no_autocast(x):
        for _ in range(2):  # along the rows, then along the columns
            matrix = x.shape[-1] <= MATRIX_SIDE and not _rounds_products(x)
            x = (by_matrix if matrix else by_fft)(x).transpose(-1, -2)
        return x


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """What is done inside keeps its precision, on the device of x."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _rounds_products(x: Tensor) -> bool:
    """Whether float32 matrix products may use fewer bits here (TF32, bfloat16); the FFT has no such mode."""
    backend = torch.backends.cuda.matmul if x.is_cuda else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return x.dtype == torch.float32 and backend.fp32_precision in ("tf32", "bf16")


@lru_cache(maxsize=8)
def _matrix(side: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "k j"]:
    """Row k is the k-th cosine; orthonormal."""
    with torch.inference_mode(False):  # a matrix first made while decoding must serve training as well
        k = torch.arange(side, device="cpu")[:, None]
        j = torch.arange(side, device="cpu")[None, :]
        quarter_turns = k * (2 * j + 1) % (4 * side)  # integers: the argument is reduced without rounding
        rows = torch.cos(quarter_turns.double() * (math.pi / (2 * side))) * math.sqrt(2 / side)
        rows[0] *= math.sqrt(0.5)
        return rows.to(dtype).to(device)


def _dct_by_matrix(x: Tensor) -> Tensor:
    return x @ _matrix(x.shape[-1], x.dtype, x.device).T


def _idct_by_matrix(u: Tensor) -> Tensor:
    return u @ _matrix(u.shape[-1], u.dtype, u.device)


# The FFT route, N log N (Makhoul 1980): with v = x_0 x_2 x_4 ... x_5 x_3 x_1 and V its Fourier transform,
#     exp(-i pi k / 2N) V_k = C_k - i C_{N-k},    C the unscaled DCT-II, C_N = 0.


def _dct_by_fft(x: Tensor) -> Tensor:
    side = x.shape[-1]
    v = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1)
    half = torch.fft.rfft(v) * _twiddle(side, x).conj()
    c = torch.cat((half.real, -half.imag[..., 1 : (side + 1) // 2].flip(-1)), -1)
    return c * _scale(side, x)


def _idct_by_fft(u: Tensor) -> Tensor:
    side = u.shape[-1]
    c = u / _scale(side, u)
    mirrored = torch.cat((torch.zeros_like(c[..., :1]), c.flip(-1)), -1)  # C_{N-k}, k = 0 .. N
    half = torch.complex(c[..., : side // 2 + 1], -mirrored[..., : side // 2 + 1])
    v = torch.fft.irfft(half * _twiddle(side, u), side)
    x = torch.empty_like(v)
    x[..., ::2] = v[..., : (side + 1) // 2]
    x[..., 1::2] = v[..., (side + 1) // 2 :].flip(-1)
    return x


def _twiddle(side: int, like: Tensor) -> Tensor:
    """exp(i pi k / 2N), k = 0 .. N/2."""
    angle = torch.arange(side // 2 + 1, dtype=torch.float64) * (math.pi / (2 * side))
    values = torch.polar(torch.ones_like(angle), angle)
    return values.to(torch.complex128 if like.dtype == torch.float64 else torch.complex64).to(like.device)


def _scale(side: int, like: Tensor) -> Tensor:
    scale = torch.full((side,), math.sqrt(2 / side), dtype=like.dtype, device=like.device)
    scale[0] = math.sqrt(1 / side)
    return scale
