"""Energy by frequency: what blurring takes and noise adds is seen, in the right octave."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from studies.spectrum import OCTAVES, radial_power, recovered


def noise(deviation: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(128, deviation, (96, 128, 1)).repeat(3, 2)
    return values.clip(0, 255).astype(np.uint8)


def test_an_image_has_all_its_own_energy() -> None:
    assert np.allclose(recovered(noise(30), noise(30)), 1)
    assert len(recovered(noise(30), noise(30))) == len(OCTAVES)


def test_blur_takes_the_fine_octaves_first() -> None:
    sharp = noise(40)
    shares = recovered(sharp, np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(1.5))))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.8 and shares[-1] < 0.05
    # a Gaussian blur of 1.5 pixels leaves exp(-(1.5 w)^2) of the energy at w radians a pixel
    assert abs(shares[1] - np.mean(np.exp(-np.square(1.5 * np.pi * np.linspace(1 / 8, 1 / 4, 50))))) < 0.1


def test_white_noise_is_flat_and_adds_up() -> None:
    power = radial_power(noise(20), 16)
    assert power.shape == (16,) and np.allclose(power[4:], 400, rtol=0.2), (
        "few coefficients are in the first rings"
    )
    louder = recovered(noise(20), noise(40, seed=1))
    assert np.allclose(louder[2:], 4, rtol=0.1)
