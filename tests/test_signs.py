"""Signs that are drawn into photographs for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.signs import sign_crop

torch.set_num_threads(1)


def grey(side: int = 96) -> torch.Tensor:
    return torch.full((1, 3, side, side), 1 / 255)


@pytest.mark.parametrize("side", [64, 192])
def test_signs_are_of_eight_bits_repeatable_and_differ(side: int) -> None:
    signs = [sign_crop(grey(side), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    levels = (torch.cat(signs) + 1) * 127.5
    assert levels.shape == (3, 3, side, side) and levels.min() >= 0 and levels.max() <= 255
    assert (levels - levels.round()).abs().max() < 1e-3
    assert torch.equal(signs[0], signs[1]) and not torch.equal(signs[0], signs[2])


def test_a_sign_covers_part_of_the_photograph_and_holds_lettering() -> None:
    signs = torch.cat([sign_crop(grey(), np.random.default_rng(seed)) for seed in range(40)])
    untouched = ((signs - grey()).abs() < 1e-6).all(1).float().mean((1, 2))
    assert 0.05 < untouched.mean() < 0.6 and untouched.max() < 0.95
    luma = (signs * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1) * 127.5
    spans = luma.flatten(1).quantile(0.98, 1) - luma.flatten(1).quantile(0.02, 1)
    assert (spans > 50).float().mean() > 0.9, "lettering stands out from its plate"
