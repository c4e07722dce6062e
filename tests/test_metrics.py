"""metrics: values against the reference code, gradients, precision, missing weights.

Tests with real weights need the folder that SFUMATO_METRICS names, or ../shared/weights from the repository.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from metrics import features
from metrics.distortion import ms_ssim, psnr
from metrics.lpips import LPIPS
from tests.conftest import random_metric

ROOT = Path(__file__).resolve().parents[1]


def metrics_file(name: str) -> Path:
    """A file of the metrics folder; the test is skipped where the folder or the file is absent."""
    folder = Path(os.environ.get("SFUMATO_METRICS", ROOT.parent / "shared" / "weights"))
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in {folder}: set SFUMATO_METRICS to the folder with the metric weights")
    return folder / name


def picture(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.fixture(scope="module", params=["alex", "vgg", "squeeze"])
def net(request: pytest.FixtureRequest) -> features.Net:
    return request.param


@pytest.fixture(scope="module")
def folder(net: features.Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return random_metric(tmp_path_factory.mktemp("metrics"), net)


@pytest.mark.parametrize(
    ("net", "far", "near"), [("alex", 0.7219, 0.1376), ("vgg", 0.5686, 0.4217), ("squeeze", 0.7110, 0.1479)]
)
def test_lpips_gives_the_values_of_the_reference_code(net: features.Net, far: float, near: float) -> None:
    weights = metrics_file(features.TRUNKS[net][1]).parent
    x, p0, p1 = (picture(metrics_file(f"check/ex_{name}.png")) for name in ("ref", "p0", "p1"))
    distance = LPIPS(net, weights)(torch.cat([x, x]), torch.cat([p0, p1]))
    assert distance.tolist() == pytest.approx([far, near], abs=6e-5)


def test_lpips_of_equal_pictures_is_zero(net: features.Net, folder: Path) -> None:
    x = torch.rand(2, 3, 40, 33) * 2 - 1
    assert LPIPS(net, folder)(x, x).tolist() == [0, 0]


def test_lpips_is_frozen_and_only_x_hat_gets_a_gradient(net: features.Net, folder: Path) -> None:
    lpips = LPIPS(net, folder)
    assert not lpips.training
    assert not any(p.requires_grad for p in lpips.parameters())
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    x_hat = torch.rand(1, 3, 32, 32, requires_grad=True)
    lpips(x, x_hat).sum().backward()
    assert x.grad is None
    assert x_hat.grad is not None and x_hat.grad.abs().sum() > 0


def test_lpips_gradient_matches_a_difference_quotient(net: features.Net, folder: Path) -> None:
    lpips = LPIPS(net, folder)
    torch.manual_seed(1)
    x, x_hat = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    reference = lpips.reference(x)
    moving = x_hat.clone().requires_grad_()
    lpips.distance(reference, moving).sum().backward()
    assert moving.grad is not None
    direction = moving.grad / moving.grad.norm()
    step = 0.02
    ahead, behind = (lpips.distance(reference, x_hat + s * direction).item() for s in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(moving.grad.norm().item(), rel=0.05)


def test_lpips_gradient_is_finite_at_zero_features(net: features.Net, folder: Path, tmp_path: Path) -> None:
    build, name = features.TRUNKS[net]
    save_file({key: torch.zeros_like(value) for key, value in build().state_dict().items()}, tmp_path / name)
    heads = f"lpips_{net}_v0.1_heads.safetensors"
    (tmp_path / heads).write_bytes((folder / heads).read_bytes())
    x_hat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance = LPIPS(net, tmp_path)(torch.rand(1, 3, 32, 32), x_hat)
    distance.sum().backward()
    assert distance.item() == 0
    assert x_hat.grad is not None and x_hat.grad.isfinite().all()


def test_lpips_under_bfloat16_stays_close_and_returns_float32(net: features.Net, folder: Path) -> None:
    lpips = LPIPS(net, folder)
    torch.manual_seed(2)
    x, x_hat = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    exact = lpips(x, x_hat)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(f.dtype == torch.float32 for f in lpips.reference(x))
        rough = lpips(x, x_hat)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.1)


def test_smallest_picture_of_each_trunk(net: features.Net, folder: Path) -> None:
    lpips = LPIPS(net, folder)
    side = lpips.trunk.minimum
    assert lpips(torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)).isfinite().all()
    small = torch.zeros(1, 3, side, side - 1)
    with pytest.raises(ValueError, match=f"at least {side} pixels are needed, got {side - 1}x{side}"):
        lpips(small, small)


def test_pictures_of_two_sizes_are_refused(net: features.Net, folder: Path) -> None:
    with pytest.raises(ValueError, match="in x, "):
        LPIPS(net, folder)(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vgg16_features\.safetensors: no such file"):
        LPIPS("vgg", tmp_path)
    with pytest.raises(ValueError, match="net must be one of alex, vgg, squeeze, got 'resnet'"):
        LPIPS("resnet", tmp_path)  # type: ignore[arg-type]


def test_psnr() -> None:
    x = np.zeros((4, 5, 3), np.uint8)
    y = x.copy()
    y[0, 0, 0] = 255
    assert psnr(x, x) == math.inf
    assert psnr(x, y) == pytest.approx(10 * math.log10(60))
    assert psnr(x, np.full_like(x, 255)) == 0
    with pytest.raises(ValueError, match="differ in size"):
        psnr(x, x[:3])
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got float64"):
        psnr(x, x.astype(float))


def test_ms_ssim() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (161, 170, 3), np.uint8)
    y = np.clip(x + rng.normal(0, 20, x.shape), 0, 255).astype(np.uint8)
    assert ms_ssim(x, x) == pytest.approx(1, abs=1e-6)
    assert 0.9 < ms_ssim(x, y) < 1
    with pytest.raises(ValueError, match="needs sides of 161 pixels, got 170x160"):
        ms_ssim(x[:160], y[:160])
