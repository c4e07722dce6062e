"""Losses of the denoiser: per-step, through the sampler, by samples, and against a critic."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.codec import Codec
from sfumato.decode_options import DecodeOptions
from sfumato.distortion import psnr
from sfumato.image import read
from sfumato.transforms import BaseReconstruction
from studies.denoisers import decoded
from studies.objectives import objectives
from tests.conftest import image_of_noise, random_dists, random_metric, shipped_form
from training.adversary import ProjectedAdversary
from training.denoising import DenoisingLoss, JointLoss, SamplerLoss, base_reconstruction
from training.energy import EnergyScore
from training.export import export
from training.loop import choose_parameters
from training.losses import Distortion
from training.networks import model as networks_of_model
from training.networks.denoiser import UNet
from training.networks.model import Model
from training.objective import lmbda, sampled
from training.optimiser import make_optimisers, set_rates
from training.random_weights import calibrated
from training.recipes import RECIPES, toy
from training.run_weights import load_weights, save_weights


def toy_model() -> Model:
    torch.manual_seed(0)
    model = Model("toy")
    model.requires_grad_(False)
    model.denoiser.requires_grad_(True)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1, torch.tensor([0.2, 0.8])


def test_the_epsilon_objective_of_the_paper_trains_too() -> None:
    model = Model("paper")
    model.requires_grad_(False)
    model.denoiser.requires_grad_(True)
    recipe = replace(RECIPES["paper"](), part="denoiser", refined_loss={})
    objective = DenoisingLoss(model, recipe, Distortion(set(), None, 64))
    out = objective(torch.rand(1, 3, 64, 64) * 2 - 1, torch.tensor([0.5]), True)
    out["loss"].mean().backward()
    assert torch.isfinite(out["loss"]).all()
    assert all(p.grad is not None for p in model.denoiser.parameters())
    assert all(p.grad is None for p in model.g_a.parameters())


@pytest.mark.parametrize("preset", ["toy", "paper"])
def test_the_papers_objective_reaches_every_network(preset: str, tmp_path: Path) -> None:
    """Of a network that predicts x and one that predicts epsilon; g_a learns by the diffusion alone."""
    model = Model(preset)
    model.set_diffusion(t0=1.0, without_base=True)
    parameters = choose_parameters(model, "joint")
    recipe = replace(RECIPES["paper"](), refined_loss={"lpips": 1.0}, perceptual_crop=64)
    objective = JointLoss(model, recipe, Distortion({"lpips"}, random_metric(tmp_path, "squeeze"), 64))
    x, q = batch()
    out = objective(x, q, True)
    assert {"bpp", "diffusion", "lpips", "mse", "loss"} == set(out)
    low, high = (
        out["bpp"] + lmbda(q, recipe) * d for d in (0.1 * out["diffusion"], 0.1 * out["diffusion"] + 0.9)
    )
    share = (lmbda(q, recipe) / lmbda(torch.tensor(0.5), recipe)) ** -recipe.reweight
    assert (low * share <= out["loss"] + 1e-4).all() and (out["loss"] <= high * share).all()
    (out["loss"] - out["bpp"]).mean().backward()
    assert all(p.grad is not None for p in model.g_a.parameters())
    assert model.g_a.get_parameter(next(iter(dict(model.g_a.named_parameters())))).grad.abs().sum() > 0
    assert sum(p.grad is not None for p in parameters) > 0.9 * len(parameters)
    plain = replace(recipe, reweight=0.0, lmbda=(1.0, 1.0))
    objective.recipe = plain
    bare = objective(x, q, False)
    assert torch.allclose(bare["loss"], bare["bpp"] + bare["diffusion"]), "rho waits for LPIPS"


def test_a_perfect_network_gives_the_original_whatever_it_predicts() -> None:
    """From noise alone; x and epsilon are two ways to say the same."""
    x, q = batch()
    for preset in ("toy", "paper"):
        model = Model(preset)
        model.set_diffusion(t0=1.0, sigma_b_max=1.0)

        def oracle(z_t: torch.Tensor, t: torch.Tensor, *_: object, m: Model = model) -> torch.Tensor:
            return x if m.denoiser.predicts == "x" else m.schedule.epsilon_from_x(z_t, t, x)

        model.denoise = oracle  # type: ignore[method-assign, assignment]
        base = BaseReconstruction(torch.zeros_like(x), [])
        for eta in (0.0, 1.0):
            assert torch.allclose(sampled(model, base, q, 5, eta=eta), x, atol=2e-3)


def test_the_sampler_trains_through_its_steps(tmp_path: Path) -> None:
    model = toy_model()
    loss = {"mse": 1.0, "lpips": 300.0, "dists": 100.0}
    recipe = replace(toy(), part="denoiser", unroll=(2, 4), refined_loss=loss)
    objective = SamplerLoss(model, recipe, Distortion(set(loss), networks(tmp_path), 64))
    x, q = batch()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(30):
        out = objective(x, q, True)
        optimiser.zero_grad()
        out["loss"].mean().backward()
        optimiser.step()
        losses.append(out["loss"].mean().item())
    assert min(losses[-5:]) < losses[0] and {"mse", "lpips", "dists", "loss"} == set(out)
    assert all(p.grad is not None for p in model.denoiser.parameters())
    assert all(p.grad is None for p in model.g_s.parameters())
    with pytest.raises(ValueError, match="'paper' predicts epsilon"):
        SamplerLoss(Model("paper"), recipe, objective.distortion)


def test_the_energy_score_rewards_samples_that_differ_as_the_original_does_from_them(tmp_path: Path) -> None:
    """0 for three equal images; of two equal samples a distance; less where the samples differ too."""
    score = EnergyScore(random_metric(tmp_path, "squeeze"), diversity=1.0, patch=3)
    x, first, second = torch.rand(3, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nothing = score(x, x, x)
    assert float(nothing["energy"]) == pytest.approx(0, abs=0.02)
    alike, unlike = score(x, first, first), score(x, first, second)
    assert float(unlike["spread"]) > 0.5 > 0.05 > float(alike["spread"])
    assert float(unlike["energy"]) < 0.7 * float(alike["energy"])
    plain = EnergyScore(random_metric(tmp_path, "squeeze"), diversity=0.0, patch=1)
    first.requires_grad_()
    plain(x, first, second)["energy"].sum().backward()
    assert first.grad is not None and first.grad.isfinite().all() and first.grad.abs().sum() > 0


def test_two_seeds_of_the_shipped_step_differ_in_grain_alone(codec: Codec) -> None:
    """Two seeds give two images, little apart."""
    image = read(Path(__file__).parents[1] / "examples" / "chelsea.png")
    first, second = (codec.decode(codec.encode(image, q=0.2, seed=seed), steps=1) for seed in (1, 2))
    assert 35 < psnr(first, second) < 56
    difference = first.astype(float) - second
    blocks = difference[: 16 * (len(image) // 16), : 16 * (image.shape[1] // 16)]
    means = blocks.reshape(len(image) // 16, 16, -1, 16, 3).mean((1, 3))
    assert means.std() < 0.35 * difference.std(), "large areas keep their colour"


def test_energy_and_adversary_train_the_denoiser_and_the_critic_each_by_its_own(tmp_path: Path) -> None:
    """The critic's loss moves no denoiser, the denoiser's no critic; both fall for a while."""
    model = toy_model()
    recipe = replace(objectives()["adversary+energy 0.5"], preset="toy", refined_loss={"mse": 0.1})
    recipe = replace(recipe, perceptual_crop=64)
    loss = SamplerLoss(model, recipe, Distortion(set(), None, 64), random_metric(tmp_path, "squeeze"))
    x, q = batch()
    out = loss(x, q, True)
    assert set(out) >= {"energy", "spread", "adversary", "critic", "loss"}
    critic, denoiser = loss.critic_parameters(), list(model.denoiser.parameters())
    out["critic"].mean().backward(retain_graph=True)
    assert all(p.grad is None for p in denoiser) and all(p.grad is not None for p in critic)
    for p in critic:
        p.grad = None
    out["adversary"].mean().backward()
    assert all(p.grad is None for p in critic)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser)

    optimisers = make_optimisers(model, recipe, critic)
    set_rates(optimisers, 1e-3)
    rates = {group["lr"] for optimiser in optimisers for group in optimiser.param_groups}
    assert rates == {1e-3, 5e-4}
    found = []
    for _ in range(12):
        for p in (*denoiser, *critic):
            p.grad = None
        out = loss(x, q, True)
        out["loss"].mean().backward()
        for optimiser in optimisers:
            optimiser.step()
        found.append(out["critic"].mean().item())
    assert found[-1] < found[0], "the critic learns to tell"


def test_a_critic_warms_up_before_the_decoder_feels_it(tmp_path: Path) -> None:
    critic = ProjectedAdversary(random_metric(tmp_path, "squeeze"))
    x, _ = batch()
    first = critic(x, 0.9 * x, 0.8 * x)["adversary"]
    critic.calls.fill_(1e6)
    later = critic(x, 0.9 * x, 0.8 * x)["adversary"]
    assert torch.allclose(first * 150, later, rtol=1e-4) and later.abs().sum() > 0


def test_losses_by_samples_need_the_networks() -> None:
    for name in ("energy 1", "adversary"):
        recipe = replace(objectives()[name], preset="toy")
        with pytest.raises(ValueError, match="need the folder with the metrics' weights"):
            SamplerLoss(toy_model(), recipe, Distortion(set(), None, 64))
        plain = recipe.without_perception()
        assert not plain.energy and not plain.adversary


def test_a_blurred_base_passes_no_detail_by(tmp_path: Path) -> None:
    """What the denoiser gets of x_base keeps its mean, loses its grain; files of runs keep the choice."""
    model = toy_model()
    x, q = batch()
    with torch.no_grad():
        base = base_reconstruction(model, x, q)
        first = base_reconstruction(model, x[:1], q[:1])
        grain = base._replace(x_base=base.x_base + 0.1 * (-1.0) ** torch.arange(64))
        seen = [model.denoise(x, q, q, part) for part in (base, grain)]
        assert float((seen[0] - seen[1]).abs().max()) > 0.05
        model.set_diffusion(blurred_base=True, sigma_b_max=20.0)
        seen = [model.denoise(x, q, q, part) for part in (base, grain)]
        assert float((seen[0] - seen[1])[..., 20:-20].abs().max()) < 0.003
        assert seen[0].shape == x.shape and decoded(model, first, q[:1], 1, 0).shape == (64, 64, 3)
    model.has_denoiser = True
    run = calibrated(model, image_of_noise())
    save_weights(model, tmp_path / "run.safetensors", run.tables, {})
    assert load_weights(tmp_path / "run.safetensors").model.config.blurred_base
    with pytest.raises(ValueError, match="gets a blurred x_base"):
        export(run)


def networks(folder: Path) -> Path:
    """Random weights for all perceptual terms."""
    for net in ("squeeze", "alex"):
        random_metric(folder, net)
    random_dists(folder)
    return folder


def test_the_papers_networks_code_an_image_from_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained, with a small U-Net; the image follows the seed and stays in range."""
    monkeypatch.setattr(networks_of_model, "UNet", partial(UNet, 8, (1,) * 5))
    torch.manual_seed(0)
    model = Model("paper")
    model.has_denoiser = True
    codec = Codec(shipped_form(model))
    assert codec.default_steps == 200, "one step from noise alone is no image"
    image = (np.random.default_rng(0).random((64, 64, 3)) * 255).astype(np.uint8)
    files = [codec.encode(image, q=0.5, seed=seed) for seed in (1, 2)]
    first, again = (codec.decode(files[0], steps=2) for _ in range(2))
    assert first.shape == image.shape and np.array_equal(first, again)
    assert not np.array_equal(first, codec.decode(files[1], steps=2))
    assert not np.array_equal(first, codec.decode(files[0], steps=2, eta=1.0))
    options = DecodeOptions(steps=3)
    assert np.abs(codec.decode_float(files[0], options)).max() <= 1, "x_hat is clamped as in training"
