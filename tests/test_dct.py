"""The cosine transform against SciPy, on torch and on numpy by both routes, and what the diffusion needs."""

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import sfumato.dct
from sfumato.dct import MATRIX_SIDE, dct, frequencies, idct

SHAPES = [(1, 1), (1, 7), (6, 1), (2, 3), (8, 8), (17, 33), (64, 48), (2, 3, 31, 20)]
LONG = [(2, MATRIX_SIDE + 1), (2502, 3), (MATRIX_SIDE, 2)]


@pytest.fixture(params=["torch", "matrix", "fft"])
def library(request, monkeypatch):
    """How numbers become what is transformed; the FFT is numpy's route for long sides."""
    if request.param == "fft":
        monkeypatch.setattr(sfumato.dct, "MATRIX_SIDE", 0)
    return torch.from_numpy if request.param == "torch" else np.asarray


def photo(*shape, dtype=torch.float64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_scipy(shape, library):
    x = photo(*shape).numpy()
    expected = scipy.fft.dctn(x, axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(dct(library(x)), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(idct(library(expected)), x, rtol=0, atol=1e-12)
    single = dct(library(x.astype(np.float32)))
    assert single.itemsize == 4
    np.testing.assert_allclose(single, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("library", [torch.from_numpy, np.asarray])
def test_long_sides(shape, library):
    x = photo(*shape).numpy()
    expected = scipy.fft.dctn(x, norm="ortho")
    np.testing.assert_allclose(dct(library(x)), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(idct(dct(library(x.astype(np.float32)))), x, rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_orthonormal(height, width, seed):
    """The inverse undoes it, energy is kept, and <DCT x, u> = <x, IDCT u>."""
    x, u = photo(height, width, seed=seed), photo(height, width, seed=seed + 1)
    torch.testing.assert_close(idct(dct(x)), x)
    torch.testing.assert_close(dct(x).square().sum(), x.square().sum())
    torch.testing.assert_close((dct(x) * u).sum(), (x * idct(u)).sum())


def test_constant_image_is_one_coefficient(library):
    u = dct(library(np.full((12, 20), 0.5)))
    assert u[0, 0] == pytest.approx(0.5 * (12 * 20) ** 0.5)
    u[0, 0] = 0
    assert abs(u).max() < 1e-13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_and_half_precision(dtype):
    x = photo(2, 3, 40, 56).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = dct(x)
        back = idct(u)
    assert u.dtype == back.dtype == torch.float32
    np.testing.assert_allclose(u, scipy.fft.dctn(x.double().numpy(), axes=(-2, -1), norm="ortho"), atol=3e-6)
    torch.testing.assert_close(back, x.float(), rtol=0, atol=3e-6)


def test_no_route_through_rounded_products():
    """A user's choice of fast, coarse matrix products must not reach the transform."""
    x = photo(3, 96, 128)
    kept = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        u = dct(x.float())
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = kept
    np.testing.assert_allclose(u, scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"), atol=5e-6)


def test_gradient_is_the_inverse():
    x = photo(2, 5, 6).requires_grad_()
    u = photo(2, 5, 6, seed=1)
    (grad,) = torch.autograd.grad((dct(x) * u).sum(), x)
    torch.testing.assert_close(grad, idct(u))
    (grad,) = torch.autograd.grad((idct(x) * u).sum(), x)
    torch.testing.assert_close(grad, dct(u))


def test_training_after_decoding():
    """A matrix cached in inference mode must not be an inference tensor."""
    with torch.inference_mode():
        dct(photo(3, 43, 41))
    x = photo(3, 43, 41).requires_grad_()
    dct(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


def test_white_noise_stays_white():
    u = dct(torch.from_numpy(np.random.default_rng(3).standard_normal((4000, 3, 7))))
    covariance = np.cov(u.flatten(1).T.numpy())
    assert np.abs(covariance - np.eye(21)).max() < 0.1


@pytest.mark.parametrize("sigma", [2.0, 3.5])
def test_frequencies_give_a_gaussian_blur_in_pixels(sigma):
    """exp(-lambda sigma^2 / 2) is a Gaussian of standard deviation sigma with reflected borders."""
    x = photo(40, 57)
    blurred = idct(torch.from_numpy(np.exp(-frequencies(40, 57) * sigma**2 / 2)) * dct(x))
    expected = scipy.ndimage.gaussian_filter(x.numpy(), sigma, mode="reflect", truncate=10)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_frequencies():
    lambdas = frequencies(4, 6)
    assert lambdas.shape == (4, 6) and lambdas.dtype == np.float64
    assert lambdas[0, 0] == 0
    assert lambdas[3, 2].item() == pytest.approx((np.pi * 3 / 4) ** 2 + (np.pi * 2 / 6) ** 2)
    # the same wave in an image twice as large has twice the index
    np.testing.assert_allclose(frequencies(8, 12)[::2, ::2], lambdas)


@pytest.mark.parametrize("shape", [(5,), (0, 4), (3, 4, 0)])
def test_refuses_shapes(shape):
    with pytest.raises((ValueError, TypeCheckError), match="height, width|Type-check"):
        dct(torch.zeros(shape))


def test_refuses_integers():
    with pytest.raises((TypeError, TypeCheckError), match="uint8|Type-check"):
        idct(torch.zeros(4, 4, dtype=torch.uint8))
