"""Presets within their budgets, transforms of the right shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfumato.errors import WeightsError
from training.grow import grow_denoiser, grown
from training.interpolate import between
from training.networks import quantise
from training.networks.costs import costs
from training.networks.denoiser import LightDenoiser
from training.networks.layers import DepthBlock, QualityEmbedding
from training.networks.model import PRESETS, Model

BUDGETS = {  # decisions: kMAC/pixel of analysis, entropy path, main decoder, denoiser step; parameters in all
    "base": {"g_a": 60, "prior": 16, "g_s": 60, "denoiser": 40},
}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, float]]:
    return {name: {c.part: c.kmac_per_pixel for c in costs(name)} for name in PRESETS}


def test_base_is_within_its_budget(counted: dict[str, dict[str, float]]) -> None:
    assert all(counted["base"][part] <= limit for part, limit in BUDGETS["base"].items())
    assert sum(c.parameters for c in costs("base", 64)) <= 18e6


def test_small_is_within_its_budget(counted: dict[str, dict[str, float]]) -> None:
    k = counted["small"]
    assert k["g_a"] + k["h_a"] + k["prior"] <= 20
    assert k["prior"] + k["g_s"] + k["denoiser"] <= 20
    assert sum(c.parameters for c in costs("small", 64)) <= 4e6


def test_paper_has_the_published_sizes(counted: dict[str, dict[str, float]]) -> None:
    k = counted["paper"]
    assert 780 <= k["denoiser"] <= 1000
    parameters = {c.part: c.parameters for c in costs("paper", 64)}
    assert parameters["denoiser"] == pytest.approx(39.9e6, rel=0.01)
    assert parameters["g_a"] == pytest.approx(3.05e6, rel=0.01)
    assert PRESETS["paper"].chunks == (16, 16, 32, 64, 256 - 128)


@pytest.mark.parametrize("preset", ["small", "base", "paper"])
def test_shapes_of_the_signal_path(preset: str) -> None:
    with torch.device("meta"):
        model = Model(preset)
        x, q = torch.empty(2, 3, 128, 192), torch.empty(2)
        y, z = model.analyze(x, q)
        assert y.shape == (2, model.config.latent, 8, 12)
        assert z.shape == (2, model.config.z_channels, 2, 3)
        estimate = model.prior(y, z, q)
        assert estimate.y_hat.shape == y.shape and estimate.bits.shape == (2, 6)
        base = model.synthesize(estimate.y_hat, q)
        assert base.x_base.shape == x.shape
        assert model.denoiser(x, q, q, base.x_base, base.features).shape == x.shape


def test_a_grown_model_codes_alike_and_learns_in_its_new_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = PRESETS["toy"]
    wider = {"encoder": ((24, 20, 0), (2, 3, 0)), "decoder": ((24, 20, 12), (2, 1, 2))}
    monkeypatch.setitem(PRESETS, "wider", replace(toy, **wider))
    torch.manual_seed(0)
    old = Model("toy")
    with torch.no_grad():
        for p in old.parameters():
            p.add_(0.05 * torch.randn_like(p))  # else blocks are the identity in both
    new = grown(old, "wider")
    x, q = torch.rand(2, 3, 64, 128) * 2 - 1, torch.tensor([0.3, 0.7])
    with torch.no_grad():
        y, z = old.analyze(x, q)
        y_new, z_new = new.analyze(x, q)
        x_base = [m.synthesize(y.round(), q).x_base for m in (old, new)]
    assert torch.allclose(y, y_new, atol=1e-5) and torch.allclose(z, z_new, atol=1e-5)
    assert torch.allclose(*x_base, atol=1e-5) and float(x_base[0].std()) > 0.01
    trained = Model("wider")
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.05 * torch.randn_like(p))
        other = grown(old, "wider", trained)
        assert torch.allclose(other.synthesize(y.round(), q).x_base, x_base[0], atol=1e-5)
        assert torch.equal(other.g_a.stem.weight[16:], trained.g_a.stem.weight[16:])  # type: ignore[union-attr, index]
        middle = between(old, trained, 0.5).g_a.stem.weight  # type: ignore[union-attr]
        assert torch.allclose(middle[16:], trained.g_a.stem.weight[16:])  # type: ignore[union-attr, index]
    optimiser = torch.optim.SGD(new.parameters(), 0.1)
    for _ in range(3):
        base = new.synthesize(new.analyze(x, q)[0], q)
        loss = (base.x_base - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for network in (new.g_a, new.g_s):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert new.g_a.stem.weight.grad[16:].abs().sum() > 0, "rows that nothing listened to at first"
    for broken in ({"z_channels": 8}, {"decoder": ((24, 12, 12), (1, 1, 1))}):
        monkeypatch.setitem(PRESETS, "other", replace(toy, **broken))
        with pytest.raises(ValueError, match="it cannot grow"):
            grown(old, "other")


def test_a_grown_denoiser_predicts_alike_and_refuses_to_shrink() -> None:
    old = LightDenoiser((8, 12, 0), (2, 1, 0), (12, 8))
    for p in old.parameters():
        torch.nn.init.normal_(p, std=0.1)  # else blocks are the identity in both
    new = LightDenoiser((12, 16, 20), (4, 4, 2), (20, 10))
    grow_denoiser(old, new)
    z_t, x_base = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    t, q = torch.tensor([[0.1, 0.3], [0.2, 0.7]])
    features = [torch.randn(2, 20, 8, 8), torch.randn(2, 10, 16, 16)]
    with torch.no_grad():
        expected = old(z_t, t, q, x_base, [features[0][:, :12], features[1][:, :8]])
        assert torch.allclose(new(z_t, t, q, x_base, features), expected, atol=1e-4)
    assert float((expected - x_base).std()) > 0.01
    new(z_t, t, q, x_base, features).square().sum().backward()
    assert new.grow[1].weight.grad.abs().sum() > 0, "the new scale learns"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="cannot become"):
        grow_denoiser(new, LightDenoiser((12, 12, 20), (4, 4, 2), (20, 10)))


def test_gain_rises_with_quality_and_rounds_finer() -> None:
    gain = quantise.Gain(3, 2.0)
    low, middle, high = gain(torch.tensor([0.0, 0.5, 1.0]))[:, 0, 0, 0].tolist()
    assert low == pytest.approx(1.0) and high == pytest.approx(2.718281828**2, rel=1e-5)
    assert low < middle < high


def test_curve_interpolates_between_knots() -> None:
    curve = QualityEmbedding(2, knots=5)
    with torch.no_grad():
        curve.embedding.copy_(torch.tensor([[0, 0], [1, 10], [4, 40], [9, 90], [16, 160]]).float())
    values = curve(torch.tensor([0.0, 0.125, 0.25, 1.0]))[:, 0, 0, 0]
    assert values.tolist() == pytest.approx([0, 0.5, 1, 16])


def test_a_new_block_is_the_identity() -> None:
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(DepthBlock(8)(x), x)


def test_straight_through_and_grid() -> None:
    x = torch.tensor([0.4, 1.6, -2.5], requires_grad=True)
    y = quantise.straight_through(x)
    y.sum().backward()
    assert y.tolist() == [0, 2, -2] and x.grad is not None and x.grad.tolist() == [1, 1, 1]
    assert quantise.quantize_mean(torch.tensor([0.1])).item() == 26 / 256
    noisy = quantise.noise(torch.zeros(10000))
    assert noisy.abs().max() <= 0.5 and noisy.var().item() == pytest.approx(1 / 12, rel=0.05)


def test_unknown_presets_are_named() -> None:
    with pytest.raises(WeightsError, match="no preset 'huge'"):
        Model("huge")
