"""Images in, cosine coefficients out, and back: the orthonormal 2-D DCT-II, [..., H, W] to [..., H, W].

On numpy arrays, and on torch tensors with gradients.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato.arrays import Array, at_least_single, full_precision, like, namespace

if TYPE_CHECKING:
    from jaxtyping import Float

MATRIX_SIDE = 2048
"""Longest side of a numpy array that is transformed by a matrix product; longer ones go through the FFT."""


def dct(x: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Orthonormal DCT-II over the last two axes (Ahmed et al. 1974), sides of any length.

        u_n = c_n sum_j x_j cos(pi n (2 j + 1) / (2 N)),    c_0 = sqrt(1 / N), c_n = sqrt(2 / N)

    It diagonalises the Laplacian with reflecting borders, which is what blurring by the heat equation needs
    (Rissanen et al. 2022, section 3), and keeps white noise white.

    The result is float64 for float64 input and float32 otherwise, autocast or not: in half precision
    the rounding of the low frequencies, hundreds of times larger, would bury the high ones.

    Raises ValueError for fewer than two axes or an empty side, TypeError for integer input.
    """
    return _transform(x, inverse=False)


def idct(u: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """The inverse of `dct`, and its transpose, as the transform is orthonormal.  Same types, same errors."""
    return _transform(u, inverse=True)


def frequencies(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """lambda_{n,m} = (pi n / H)^2 + (pi m / W)^2, minus the eigenvalues of the Laplacian; float64.

    In radians a pixel, squared: a blur of sigma_B pixels is exp(-lambda sigma_B^2 / 2) whatever the
    size of the image (Rissanen et al. 2022, section 3; Hoogeboom & Salimans 2022, section 3).
    """
    omega_n = np.arange(height) * (math.pi / height)
    omega_m = np.arange(width) * (math.pi / width)
    found: NDArray[np.float64] = omega_n[:, None] ** 2 + omega_m[None, :] ** 2
    return found


def _transform(x: Array, inverse: bool) -> Array:
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"expected [..., height, width] with sides of at least 1, got {tuple(x.shape)}")
    if not (x.dtype.kind == "f" if isinstance(x, np.ndarray) else x.is_floating_point()):
        raise TypeError(f"expected floating point values, got {x.dtype}")
    x = at_least_single(x)
    with full_precision(x):
        for _ in range(2):  # along the rows, then along the columns
            if isinstance(x, np.ndarray) and x.shape[-1] > MATRIX_SIDE:
                x = _idct_by_fft(x) if inverse else _dct_by_fft(x)
            else:
                x = _product(x, _matrix(x.shape[-1]) if inverse else _matrix(x.shape[-1]).T)
            x = x.swapaxes(-1, -2)
        return x


def _product(x: Array, matrix: NDArray[np.float64]) -> Array:
    if isinstance(x, np.ndarray) or not _rounds_products(x):
        return x @ like(matrix, x)
    return (x.double() @ like(matrix, x.double())).float()


def _rounds_products(x: Array) -> bool:
    """Whether torch's float32 matrix products may use fewer bits here (TF32, bfloat16)."""
    backends = namespace(x).backends
    backend = backends.cuda.matmul if x.is_cuda else backends.mkldnn.matmul
    return backend.fp32_precision in ("tf32", "bf16")


@lru_cache(maxsize=8)
def _matrix(side: int) -> NDArray[np.float64]:
    """Row k is the k-th cosine; orthonormal."""
    k, j = np.arange(side)[:, None], np.arange(side)[None, :]
    quarter_turns = k * (2 * j + 1) % (4 * side)  # integers: the argument is reduced without rounding
    rows: NDArray[np.float64] = np.cos(quarter_turns * (math.pi / (2 * side))) * math.sqrt(2 / side)
    rows[0] *= math.sqrt(0.5)
    return rows


# The FFT route, N log N (Makhoul 1980): with v = x_0 x_2 x_4 ... x_5 x_3 x_1 and V its Fourier transform,
#     exp(-i pi k / 2N) V_k = C_k - i C_{N-k},    C the unscaled DCT-II, C_N = 0.


def _dct_by_fft(x: NDArray) -> NDArray:
    side = x.shape[-1]
    v = np.concatenate((x[..., ::2], x[..., 1::2][..., ::-1]), -1)
    half = np.fft.rfft(v) * _twiddle(side).conj()
    c = np.concatenate((half.real, -half.imag[..., 1 : (side + 1) // 2][..., ::-1]), -1)
    return (c * _scale(side)).astype(x.dtype)


def _idct_by_fft(u: NDArray) -> NDArray:
    side = u.shape[-1]
    c = u / _scale(side)
    mirrored = np.concatenate((np.zeros_like(c[..., :1]), c[..., ::-1]), -1)  # C_{N-k}, k = 0 .. N
    half = c[..., : side // 2 + 1] - 1j * mirrored[..., : side // 2 + 1]
    v = np.fft.irfft(half * _twiddle(side), side)
    x = np.empty_like(u)
    x[..., ::2] = v[..., : (side + 1) // 2]
    x[..., 1::2] = v[..., (side + 1) // 2 :][..., ::-1]
    return x


def _twiddle(side: int) -> NDArray[np.complex128]:
    """exp(i pi k / 2N), k = 0 .. N/2."""
    value: NDArray[np.complex128] = np.exp(1j * np.arange(side // 2 + 1) * (math.pi / (2 * side)))
    return value


def _scale(side: int) -> NDArray[np.float64]:
    scale = np.full(side, math.sqrt(2 / side))
    scale[0] = math.sqrt(1 / side)
    return scale
