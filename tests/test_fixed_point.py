"""The entropy model on numpy: the integers of the torch implementation, bit by bit, and layers by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sfumato import exact, fixed_point
from sfumato.autoregressive import Array, autoregressive_pass
from sfumato.model import load_weights
from sfumato.prior import Prior
from tests.test_prior import latents, make_prior
from training.export import integers


def named(prior: Prior, fractions: torch.Tensor) -> dict[str, int]:
    names = [name for name, _ in exact._calibrated_layers(prior)]
    return dict(zip(names, fractions.tolist(), strict=True))


class Recorder:
    """Codes like the encoder and keeps every mean and scale index, unrounded."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, section: int, is_last: bool, mu: Array, index: Array, value: Array) -> Array:
        self.seen += np.asarray(mu).copy(), np.asarray(index).copy()
        mu = (mu * 256).round() / 256
        return mu + (value - mu).round()


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 4)])
@pytest.mark.parametrize("shipped", [True, False])
def test_numpy_computes_what_torch_computes(shipped: bool, size: tuple[int, int], q: float) -> None:
    """Every mean and scale index of every pass, before it is rounded, is the same float64 number."""
    if shipped:
        weights = load_weights("small")
        prior, fractions = weights.model.prior, weights.tables["fractions"]
    else:
        prior = make_prior()
        for parameter in prior.parameters():
            parameter.copy_(parameter.half())
        with exact.Calibration(prior) as calibration:
            prior(*latents(), torch.tensor([0.4], dtype=torch.float64))
        fractions = calibration.fractions()
    generator = torch.Generator().manual_seed(3)
    z = 4 * torch.randn(1, prior.z_mu.rows.shape[1], *size, generator=generator, dtype=torch.float64)
    height, width = 4 * size[0], 4 * size[1]
    y = 6 * torch.randn(1, sum(prior.sizes), height, width, generator=generator, dtype=torch.float64)
    ours, theirs = Recorder(), Recorder()
    with torch.inference_mode():
        by_torch = exact.convert(prior, fractions)
        expected, _ = by_torch.walk(theirs, torch.tensor([q], dtype=torch.float64), size, z, y)
    layers = fixed_point.from_arrays(integers(prior, named(prior, fractions)))
    y_hat, _ = autoregressive_pass(layers, ours, q, size, z.numpy(), y.numpy())
    assert len(ours.seen) == len(theirs.seen) == 2 * (1 + 2 * len(prior.sizes))
    for a, b in zip(ours.seen, theirs.seen, strict=True):
        assert a.dtype == np.float64 and np.array_equal(a, b)
    assert np.array_equal(y_hat, expected.numpy())


def test_layers_without_an_exact_form_are_refused_by_name() -> None:
    prior = make_prior()
    fractions = dict.fromkeys(named(prior, torch.zeros(999)[: len(list(exact._calibrated_layers(prior)))]), 8)
    prior.chunks[1].middle = nn.Sequential(prior.chunks[1].middle, nn.BatchNorm2d(16))
    fractions["chunks.1.middle.0"] = fractions.pop("chunks.1.middle")
    with pytest.raises(ValueError, match=r"layer chunks\.1\.middle\.1 has no exact form: BatchNorm2d"):
        integers(prior, fractions)
    prior.chunks[1].middle = nn.Tanh()
    with pytest.raises(ValueError, match=r"layer chunks\.1\.middle has no exact form: Tanh"):
        integers(prior, fractions)
