"""The table of losses: scales, what each term sees and forgives, and agreement with reference code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim as reference_ms_ssim

from metrics.wasserstein import WassersteinDistortion
from tests.conftest import random_dists, random_metric
from training.data import Kind, Mixture
from training.losses import (
    PERCEPTUAL_TERMS,
    PIXEL_TERMS,
    TERMS,
    Distortion,
    chroma,
    grid,
    low_frequency,
    ms_ssim,
    mse,
    text_mask,
)
from training.objective import emphasis
from training.optimiser import is_matrix, make_optimisers, set_rates
from training.recipes import RECIPES, Recipe, toy
from training.synthetic import synthetic_crop


def waves(*shape: int) -> torch.Tensor:
    """Smooth images in [-1, 1]."""
    coarse = torch.rand(shape[0], 3, shape[1] // 12, shape[2] // 12) * 2 - 1
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic").clamp(-1, 1)


def test_distortion_is_on_the_scale_of_bytes_and_chroma_ignores_grey() -> None:
    x = torch.zeros(1, 3, 8, 8)
    assert mse(x, x + 2 / 255).item() == pytest.approx(1.0)
    assert chroma(x, x + 0.1).item() == pytest.approx(0, abs=1e-6)
    assert chroma(x, x + torch.tensor([0.1, 0, 0])[:, None, None]).item() > 1


def test_the_grid_term_is_what_repeats_from_patch_to_patch() -> None:
    x, pattern = torch.rand(2, 3, 64, 96) - 0.5, torch.randn(3, 8, 8) * 0.1
    pattern -= pattern.mean((1, 2), keepdim=True)
    power = pattern.square().mean().item() * 127.5**2
    assert grid(x, x + pattern.repeat(1, 8, 12)).tolist() == pytest.approx([power, power], rel=1e-4)
    assert grid(x, x + 0.2).max() < 1e-6, "a shift of all pixels is no pattern"
    noise = torch.randn_like(x) * pattern.square().mean().sqrt()
    assert 0.5 < grid(x, x + noise).mean() * 8 * 12 / power < 2, "of noise only its mean over the patches"


def test_ms_ssim_agrees_with_the_package_and_has_finite_gradients() -> None:
    x = waves(2, 192, 176)
    x_hat = (x + 0.05 * torch.randn_like(x)).clamp(-1, 1)
    expected = reference_ms_ssim((x + 1) / 2, (x_hat + 1) / 2, data_range=1.0, size_average=False)
    assert (1 - ms_ssim(x, x_hat)).tolist() == pytest.approx(expected.tolist(), abs=2e-5)
    unrelated = (-x).requires_grad_()  # structure is anticorrelated: factors at their bound
    ms_ssim(x, unrelated).sum().backward()
    assert unrelated.grad is not None and torch.isfinite(unrelated.grad).all()
    with pytest.raises(ValueError, match="over 160"):
        ms_ssim(x[..., :160], x_hat[..., :160])


def test_low_frequencies_see_a_tint_that_noise_of_the_same_power_hides() -> None:
    x = torch.zeros(1, 3, 64, 64)
    tint, noise = x + 0.1, 0.1 * torch.randn_like(x)
    assert low_frequency(x, tint).item() == pytest.approx(4 * 0.1 * 127.5, rel=1e-4)
    assert low_frequency(x, noise).item() < 0.3 * low_frequency(x, tint).item()


def test_emphasis_counts_errors_in_text_several_times() -> None:
    x = torch.full((2, 3, 64, 64), 0.9)
    x[0, :, 20:44:4, 16:48] = -0.9  # lines of ink on paper
    weights = emphasis(x, None, replace(toy(), text=4.0))
    assert weights is not None and weights[0].max() == 4 and weights[1].max() == 1
    assert weights[0, 0, 30, 30] == 4 and weights[0, 0, 60, 60] == 1
    x_hat = x + 0.1
    assert mse(x, x_hat, weights)[1] == pytest.approx(mse(x, x_hat)[1].item())
    assert mse(x, x_hat, weights)[0] > 2 * mse(x, x_hat)[0] * 0.5
    assert emphasis(x, None, toy()) is None
    weights = emphasis(x, torch.full((len(x),), Kind.FLAT), replace(toy(), flat_emphasis=8.0))
    assert weights is not None and (weights == 8).all(), "flat crops count as a whole"


def test_soft_texture_is_no_text_but_what_is_rendered_counts_unless_flat() -> None:
    x = waves(2, 96, 96)
    none, known = torch.tensor([False, False]), torch.tensor([True, False])
    assert text_mask(x, none).mean() < 0.05
    masks = text_mask(x, known).mean((1, 2, 3))
    assert masks[0] > 0.5 > masks[1]
    assert text_mask(torch.zeros(1, 3, 64, 64), torch.tensor([True])).max() == 0


def test_wasserstein_distortion_forgives_texture_that_is_moved(tmp_path: Path) -> None:
    metric = WassersteinDistortion(random_metric(tmp_path, "squeeze"))
    grain = 0.5 * torch.randn(1, 3, 128, 128)
    assert metric(grain, grain).item() == pytest.approx(0, abs=1e-6)
    other, smooth = 0.5 * torch.randn_like(grain), torch.zeros_like(grain)
    assert 0 < metric(grain, other).item() < 0.5 * metric(grain, smooth).item()
    x_hat = other.clone().requires_grad_()
    metric(grain, x_hat).sum().backward()
    assert x_hat.grad is not None and torch.isfinite(x_hat.grad).all() and x_hat.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="64 pixels"):
        metric(grain[..., :32, :32], grain[..., :32, :32])


def test_terms_through_vgg_see_a_part_of_the_batch_and_count_for_all_of_it(tmp_path: Path) -> None:
    random_dists(tmp_path)
    x = (torch.rand(1, 3, 64, 64) * 2 - 1).expand(4, -1, -1, -1)
    x_hat = (x + 0.3).clamp(-1, 1)
    sums = [Distortion({"dists"}, tmp_path, 64, n)(x, x_hat, {"dists": 100.0})["distortion"] for n in (0, 1)]
    assert sums[0].mean().item() == pytest.approx(sums[1].mean().item(), rel=1e-4)
    assert sums[1][0] > sums[0][0] > sums[1][1]


def test_the_distortion_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    weights = {"mse": 0.5, "ms_ssim": 1000.0, "low_frequency": 2.0, "chroma": 0.1, "grid": 3.0}
    x = waves(2, 192, 192)
    x_hat = x + 0.05 * torch.randn_like(x)
    out = Distortion(set(weights), None, 64)(x, x_hat, weights)
    expected = sum(weight * PIXEL_TERMS[name](x, x_hat, None) for name, weight in weights.items())
    assert torch.allclose(out["distortion"], expected)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lpips need the folder"):
        Distortion({"lpips"}, None, 64)


def test_recipes_name_terms_of_the_table() -> None:
    with pytest.raises(ValueError, match="no such loss: ms_sim; there are mse"):
        Recipe("small", base_loss={"ms_sim": 1.0})
    for make in RECIPES.values():
        bare = make().without_perception()
        assert not (set(bare.base_loss) | set(bare.refined_loss)) & set(PERCEPTUAL_TERMS)
    assert set(TERMS) == set(PIXEL_TERMS) | set(PERCEPTUAL_TERMS)


def test_synthetic_crops_are_of_eight_bits_and_differ() -> None:
    rng = np.random.default_rng(0)
    crops = torch.cat([synthetic_crop(64, rng) for _ in range(200)])
    assert crops.shape == (200, 3, 64, 64) and crops.min() >= -1 and crops.max() <= 1
    levels = (crops + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3
    flat = (crops.flatten(2).std(2) < 1e-6).all(1)
    assert 0.2 < flat.float().mean() < 0.6, "some fields are flat, some are not"
    saturated = ((crops[flat][:, :, 0, 0].abs() - 1).abs() < 1e-6).all(1)
    assert saturated.float().mean() > 0.2


def test_a_mixture_draws_flat_crops_by_their_share() -> None:
    from training.data import Images

    noise = torch.randint(0, 256, (128 * 128 * 3,), dtype=torch.uint8)
    images = Images(noise, (0,), ((128, 128),))
    x, _ = Mixture(images, flat_share=0.5).batch(100, 64, np.random.default_rng(0))
    smooth = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) < 0.2
    assert 30 < smooth.sum() < 70


def test_soap_takes_the_matrices_and_adamw_the_rest_and_both_descend() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.Conv2d(32, 32, 3, groups=32))
    recipe = Recipe("toy", optimiser="soap", learning_rate=0.05)
    soap, adamw = make_optimisers(net, recipe)
    held = [{id(p) for g in o.param_groups for p in g["params"]} for o in (soap, adamw)]
    assert held[0] == {id(net[0].weight)}, "depthwise kernels and biases are no matrices"
    assert is_matrix(net[0].weight) and not is_matrix(net[1].weight)
    assert held[0] | held[1] == {id(p) for p in net.parameters()}
    target = torch.randn(32, 16 * 9)
    losses = []
    for _ in range(300):  # inputs vary: without noise, a gradient has few directions and moves along those
        loss = ((net[0].weight.flatten(1) - target) @ torch.randn(16 * 9, 32)).square().mean()
        net[0].weight.grad = torch.autograd.grad(loss, net[0].weight)[0]
        soap.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    set_rates([soap, adamw], 0.004)
    assert (soap.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.004, 0.002)
    (alone,) = make_optimisers(net, toy())
    set_rates([alone], 0.004)
    assert alone.param_groups[0]["lr"] == 0.004, "alone it has the whole rate"
