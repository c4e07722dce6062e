"""Work in strips: the same as in one piece, for networks of every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato import container, diffusion_decoder, image
from sfumato.codec import Codec
from sfumato.diffusion_decoder import DiffusionOptions, Region, diffusion_decode
from sfumato.strips import strip_height, strips
from sfumato.transforms import Transforms
from sfumato.weights import Weights
from tests.conftest import shipped_form
from training.networks.model import Model


def random_weights(preset: str = "small") -> Weights:
    torch.manual_seed(0)
    model = Model(preset).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    model.has_denoiser = True
    return shipped_form(model)


def latent(weights: Weights, height: int, width: int) -> np.ndarray:
    shape = 1, weights.config.channels, height, width
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_strips_cover_every_row_once() -> None:
    for height, rows, halo in ((64, 64, 0), (640, 64, 128), (100, 30, 20), (7, 100, 3)):
        kept = []
        for wide, keep in strips(height, rows, halo):
            assert 0 <= wide.start and wide.stop <= height
            span = range(height)[wide][keep]
            assert span[0] - wide.start == min(halo, span[0]), "the halo is there, unless the map ends"
            assert wide.stop - 1 - span[-1] == min(halo, height - 1 - span[-1])
            kept += span
        assert kept == list(range(height))
    assert strip_height(1024, 64) == 1024 and strip_height(10**6, 64) == 64


@pytest.mark.parametrize("preset", ["small", "base", "paper"])
def test_a_halo_is_wide_enough(preset: str) -> None:
    """Pixels further away than the halo do not matter; those at the reach do."""
    model = Model(preset).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    halo = -(-max(model.g_a.halo, model.g_s.halo) // 64) * 64
    side, middle = 2 * halo + 64, halo // 16 + 2
    x = torch.randn(1, 3, side, 64).requires_grad_(True)
    model.g_a(x)[:, :, middle].square().sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert touched.min() >= 16 * middle - halo and touched.max() < 16 * (middle + 1) + halo
    y = torch.randn(1, model.config.latent, side // 16, 4).requires_grad_(True)
    q = torch.tensor([0.5])
    model.synthesize(y, q).x_base[:, :, 16 * middle : 16 * middle + 16].square().sum().backward()
    assert y.grad is not None
    touched = y.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert touched.min() >= middle - halo // 16 and touched.max() <= middle + halo // 16


def test_an_image_in_strips_is_the_image_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights()
    codec = Codec(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 70, 3), dtype=np.uint8)
    analyzed = codec.analyze(pixels)
    y, z = codec._latents(analyzed, 0.3)  # without the correction
    header, base = container.Header(70, 300, 128, 0), DiffusionOptions(0)
    decoded = np.concatenate([x for _, _, x in codec._pieces(np.rint(y), header, base)], 2)
    monkeypatch.setattr(strip_height, "__defaults__", (64 * 128,))
    in_strips = codec.analyze(pixels)
    banded, banded_z = codec._latents(in_strips, 0.3)
    correction = analyzed.correction()
    difference = np.abs(correction - in_strips.correction())  # of images rounded to grey levels
    assert difference.max() < 0.05 * np.abs(correction).max()
    assert y.shape == banded.shape == (1, weights.config.channels, 20, 8)
    assert np.abs(y - banded).max() < 1e-4 and np.abs(z - banded_z).max() < 1e-4
    again = np.concatenate([x for _, _, x in codec._pieces(np.rint(y), header, base)], 2)
    assert decoded.shape == (1, 3, 320, 128)
    assert np.abs(decoded - again).max() <= 1 / 127.5
    whole = codec._transforms.analyze(image.pad(image.to_x(pixels), 64)) * codec._transforms.gain(0.3)
    assert np.abs(y - whole).max() < 1e-4


@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (3, 0.0), (2, 1.0)])
def test_the_steps_in_strips_are_those_of_the_whole_image(
    monkeypatch: pytest.MonkeyPatch, steps: int, eta: float
) -> None:
    """Network and blur with their surroundings, against the frequencies of the whole image."""
    weights = random_weights()
    transforms, config = Transforms(weights), weights.config
    frame, chosen = Region(1024, 128), DiffusionOptions(steps, eta=eta)
    base = transforms.synthesize(latent(weights, 64, 8), 0.5)
    around = diffusion_decoder.halo(config, chosen)
    assert (around is None) == (eta > 0)
    rows = 320 if around is None else around
    parts = [base.part(slice(at, min(at + rows, 1024))) for at in range(0, 1024, rows)]
    monkeypatch.setattr(strip_height, "__defaults__", (64 * 128,))
    banded = np.concatenate(list(diffusion_decode(transforms, config, parts, 0.5, 1, chosen, frame)), 2)
    monkeypatch.undo()
    monkeypatch.setattr(diffusion_decoder, "halo", lambda *_: None)  # by the DCT
    whole = np.concatenate(list(diffusion_decode(transforms, config, [base], 0.5, 1, chosen, frame)), 2)
    assert np.abs(whole - base.x_base).mean() > 0.02, "the steps do something"
    assert np.abs(whole - banded).max() < 0.01 and np.abs(whole - banded).mean() < 5e-4


def test_a_part_is_restored_as_in_the_whole() -> None:
    weights, chosen = random_weights(), DiffusionOptions(1)
    transforms, config = Transforms(weights), weights.config
    around = diffusion_decoder.halo(config, chosen)
    assert around == 64
    base = transforms.synthesize(latent(weights, 24, 24), 0.5)
    (whole,) = diffusion_decode(transforms, config, [base], 0.5, 1, chosen, Region(384, 384))
    part = base.part(slice(64, 320), slice(128, 320))
    (found,) = diffusion_decode(transforms, config, [part], 0.5, 1, chosen, Region(384, 384, 64, 128))
    inner = (..., slice(around, -around), slice(around, -around))
    assert np.abs(whole[..., 64:320, 128:320][inner] - found[inner]).max() < 1e-5


@pytest.mark.parametrize("preset", ["small", "base"])
def test_the_denoiser_sees_no_further_than_its_reach(preset: str) -> None:
    model = Model(preset).eval()
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    reach = int(model.denoiser.halo)
    middle = -(-reach // 64) * 64 + 64
    z_t = torch.randn(1, 3, 2 * middle, 64).requires_grad_(True)
    half = torch.tensor([0.5])
    with torch.no_grad():
        base = model.synthesize(torch.randn(1, model.config.latent, 2 * middle // 16, 4), half)
    x_hat = model.denoiser(z_t, half, half, *base)
    x_hat[:, :, middle].square().sum().backward()
    assert z_t.grad is not None
    touched = z_t.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert middle - reach <= touched.min() and touched.max() <= middle + reach
    assert touched.max() - touched.min() > reach, "and not much less far"


@pytest.mark.parametrize("steps", [0, 2])
def test_a_wide_image_in_windows_of_columns_is_the_image_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    codec = Codec(random_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (70, 1400, 3), dtype=np.uint8)
    y, _ = codec._latents(codec.analyze(pixels), 0.5)
    header, chosen = container.Header(1400, 70, 128, 0), DiffusionOptions(steps)

    def decoded() -> tuple[np.ndarray, set[int]]:
        out = np.empty((3, 128, 1408), np.float32)
        pieces = list(codec._pieces(np.rint(y), header, chosen))
        for top, left, x in pieces:
            out[:, top : top + x.shape[2], left : left + x.shape[3]] = x[0]
        return out, {left for _, left, _ in pieces}

    whole, columns = decoded()
    assert columns == {0}
    monkeypatch.setattr("sfumato.synthesis.WIDE", 512)
    monkeypatch.setattr("sfumato.synthesis.WINDOW", 256)
    windows, columns = decoded()
    assert columns == set(range(0, 1408, 256))
    assert np.abs(whole - windows).max() <= 1 / 127.5
