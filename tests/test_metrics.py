"""metrics: values against the reference code, gradients, precision, missing weights.

Tests with real weights need the folder of `sfumato.lpips.weights_folder`, and its folder check/.
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

from metrics import efficientnet, features, text
from metrics.distortion import ms_ssim, psnr
from metrics.dists import DISTS, HEADS
from metrics.frechet import Frechet, KernelDistance, crops
from metrics.lpips import load_lpips
from metrics.ssimulacra2 import reference, score, ssimulacra2
from sfumato import lpips as product_lpips
from sfumato.image import to_x
from tests.conftest import random_dists, random_metric


def metrics_file(name: str) -> Path:
    """A file of the metrics folder; the test is skipped where the folder or the file is absent."""
    folder = product_lpips.weights_folder()
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in {folder}: set SFUMATO_METRICS to the folder with the metric weights")
    return folder / name


def photo(path: Path) -> torch.Tensor:
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
    weights = metrics_file(features.BACKBONES[net][1]).parent
    x, p0, p1 = (photo(metrics_file(f"check/ex_{name}.png")) for name in ("ref", "p0", "p1"))
    distance = load_lpips(net, weights)(torch.cat([x, x]), torch.cat([p0, p1]))
    assert distance.tolist() == pytest.approx([far, near], abs=6e-5)


def test_lpips_is_frozen_and_only_x_hat_gets_a_gradient(net: features.Net, folder: Path) -> None:
    lpips = load_lpips(net, folder)
    assert not lpips.training
    assert not any(p.requires_grad for p in lpips.parameters())
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    x_hat = torch.rand(1, 3, 32, 32, requires_grad=True)
    lpips(x, x_hat).sum().backward()
    assert x.grad is None
    assert x_hat.grad is not None and x_hat.grad.abs().sum() > 0


def test_lpips_gradient_matches_a_difference_quotient(net: features.Net, folder: Path) -> None:
    lpips = load_lpips(net, folder)
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
    build, name = features.BACKBONES[net]
    save_file({key: torch.zeros_like(value) for key, value in build().state_dict().items()}, tmp_path / name)
    heads = f"lpips_{net}_v0.1_heads.safetensors"
    (tmp_path / heads).write_bytes((folder / heads).read_bytes())
    x_hat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance = load_lpips(net, tmp_path)(torch.rand(1, 3, 32, 32), x_hat)
    distance.sum().backward()
    assert distance.item() == 0
    assert x_hat.grad is not None and x_hat.grad.isfinite().all()


def test_lpips_under_bfloat16_stays_close_and_returns_float32(net: features.Net, folder: Path) -> None:
    lpips = load_lpips(net, folder)
    torch.manual_seed(2)
    x, x_hat = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    exact = lpips(x, x_hat)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(f.dtype == torch.float32 for f in lpips.reference(x))
        rough = lpips(x, x_hat)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.1)


def test_equal_images_and_the_smallest_of_each_backbone(net: features.Net, folder: Path) -> None:
    lpips = load_lpips(net, folder)
    side = lpips.backbone.minimum
    assert lpips(torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)).isfinite().all()
    x = torch.rand(2, 3, 40, 33) * 2 - 1
    assert lpips(x, x).tolist() == [0, 0]
    with pytest.raises(ValueError, match="in x, "):
        lpips(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64))
    small = torch.zeros(1, 3, side, side - 1)
    with pytest.raises(ValueError, match=f"at least {side} pixels are needed, got {side - 1}x{side}"):
        lpips(small, small)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vgg16_features\.safetensors: no such file"):
        load_lpips("vgg", tmp_path)
    with pytest.raises((ValueError, TypeError), match="resnet"):
        load_lpips("resnet", tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(31, 31), (75, 130)])
def test_the_product_s_lpips_is_that_of_the_torch_network(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFUMATO_METRICS", str(random_metric(tmp_path, "alex")))
    monkeypatch.setattr(product_lpips, "PRODUCT", 1 << 14)  # several strips a convolution
    rng = np.random.default_rng(0)
    x, x_hat = rng.integers(0, 256, (2, *size, 3), np.uint8)
    expected = load_lpips("alex", tmp_path)(*(torch.from_numpy(to_x(image)) for image in (x, x_hat)))
    assert product_lpips.distance(x, x_hat) == pytest.approx(expected.item(), rel=1e-5)
    assert product_lpips.distance(x, x) == 0
    with pytest.raises(ValueError, match="images of equal size are needed"):
        product_lpips.distance(x, x_hat[:-1])


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


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> DISTS:
    """DISTS with random weights."""
    return random_dists(tmp_path_factory.mktemp("dists"))


def test_dists_gives_the_value_of_the_reference_code() -> None:
    dists = DISTS(metrics_file(HEADS).parent if metrics_file(features.BACKBONES["vgg"][1]) else Path())
    r0, r1 = (photo(metrics_file(f"check/dists_{name}.png")) for name in ("r0", "r1"))
    assert dists(r0, r1).item() == pytest.approx(0.3347, abs=6e-5)


def test_dists_is_zero_for_equal_images_and_symmetric(dists: DISTS) -> None:
    torch.manual_seed(1)
    x, y = torch.rand(2, 2, 3, 40, 33) * 2 - 1
    assert dists(x, x).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert dists(x, y).tolist() == pytest.approx(dists(y, x).tolist(), abs=1e-6)
    assert (dists(x, y) > 0).all()


def test_dists_gradient_goes_to_x_hat_and_matches_a_difference_quotient(dists: DISTS) -> None:
    torch.manual_seed(2)
    x, x_hat = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    x.requires_grad_()
    before = dists.reference(x)
    assert not any(f.requires_grad for f in before)
    moving = x_hat.clone().requires_grad_()
    dists.distance(before, moving).sum().backward()
    assert x.grad is None and moving.grad is not None
    direction = moving.grad / moving.grad.norm()
    ahead, behind = (dists.distance(before, x_hat + s * direction).item() for s in (0.02, -0.02))
    assert (ahead - behind) / 0.04 == pytest.approx(moving.grad.norm().item(), rel=0.05)
    assert not any(p.requires_grad for p in dists.parameters())


def test_dists_gradient_is_finite_on_flat_images(dists: DISTS) -> None:
    x_hat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    dists(torch.zeros(1, 3, 16, 16), x_hat).sum().backward()
    assert x_hat.grad is not None and x_hat.grad.isfinite().all()
    with pytest.raises(ValueError, match="at least 16 pixels are needed, got 15x16"):
        dists(torch.zeros(1, 3, 16, 15), torch.zeros(1, 3, 16, 15))
    with pytest.raises(ValueError, match="in x, "):
        dists(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 32, 32))


def test_l2_pooling_keeps_a_constant_and_halves() -> None:
    pooled = features.L2Pool(2)(torch.full((1, 2, 9, 8), 3.0))
    assert pooled.shape == (1, 2, 5, 4)
    assert torch.allclose(pooled[..., 1:-1, 1:], torch.tensor(3.0))


def flat(side: int, level: int) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def pattern(name: str) -> np.ndarray:
    """64x64 pixels: a horizontal ramp, or noise of Knuth's linear congruential generator."""
    if name == "ramp":
        return np.broadcast_to((np.arange(64) * 255 // 63)[None, :, None], (64, 64, 3)).astype(np.uint8)
    state, values = 42, []
    for _ in range(64 * 64 * 3):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 255)
    return np.array(values, np.uint8).reshape(64, 64, 3)


# Scores of the reference program (libjxl's ssimulacra2), as published with imazen/ssimulacra2@1599595,
# src/reference_data.rs.  On flat images it shows the rounding of its own float32 filter, most where they
# differ little.
@pytest.mark.parametrize(
    ("x", "x_hat", "published", "tolerance"),
    [
        (pattern("ramp"), flat(64, 128), -64.56872148, 0.005),
        (pattern("noise"), flat(64, 128), -47.33572558, 0.005),
        (flat(64, 128), flat(64, 178), -8.75942256, 0.05),
        (flat(128, 128), flat(128, 178), -9.82383315, 0.05),
        (flat(256, 128), flat(256, 178), -0.39085784, 0.05),
        (flat(128, 128), flat(128, 148), 54.27883917, 0.15),
        (flat(64, 128), flat(64, 148), 56.05855584, 0.15),
        (flat(256, 128), flat(256, 148), 59.77892918, 0.15),
    ],
)
def test_ssimulacra2_gives_the_scores_of_the_reference_program(
    x: np.ndarray, x_hat: np.ndarray, published: float, tolerance: float
) -> None:
    assert ssimulacra2(x, x_hat) == pytest.approx(published, abs=tolerance)


def test_ssimulacra2_of_equal_images_is_100_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(60, 190, (75, 67, 3), np.uint8)
    once = reference(x)
    scores = [
        score(once, np.clip(x + rng.normal(0, s, x.shape), 0, 255).astype(np.uint8)) for s in (0, 3, 30)
    ]
    assert scores[0] == 100 and 100 > scores[1] > scores[2]
    with pytest.raises(ValueError, match=r"differ in size: \[75, 67\] and \[67, 67\]"):
        score(once, x[:67])
    with pytest.raises(ValueError, match=r"sides of at least 8, got uint8 \[7, 67, 3\]"):
        ssimulacra2(x[:7], x[:7])
    with pytest.raises(ValueError, match="got float64"):
        ssimulacra2(x.astype(float), x)


def test_efficientnet_sees_the_macaws() -> None:
    net = efficientnet.load(metrics_file(efficientnet.FILE).parent)
    kodak = Path(os.environ.get("SFUMATO_KODAK", ""))
    if not (kodak / "kodim23.png").is_file():
        pytest.skip("set SFUMATO_KODAK to the folder with the 24 Kodak images")
    with Image.open(kodak / "kodim23.png") as whole:
        square = whole.convert("RGB").crop((128, 0, 640, 512)).resize((224, 224), Image.Resampling.BICUBIC)
    probabilities = net.probabilities(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])[0]
    assert probabilities.argmax() == 88  # "macaw"
    assert probabilities[88].item() == pytest.approx(0.929, abs=0.01)


def test_efficientnet_takes_any_size_and_refuses_other_weights(tmp_path: Path) -> None:
    state = {k: v for k, v in efficientnet.EfficientNetLite0().state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / efficientnet.FILE)
    net = efficientnet.load(tmp_path)
    assert sum(p.numel() for p in net.parameters()) == 4_652_008  # as published for 1000 classes
    for size in ((1, 1), (64, 64), (33, 70)):
        found = net.features(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
        assert found.shape == (2, 1280) and found.isfinite().all() and not found.requires_grad
    save_file({**state, "fc.bias": torch.zeros(10)}, tmp_path / efficientnet.FILE)
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        efficientnet.load(tmp_path)


def test_padding_is_that_of_tensorflow() -> None:
    # side 4, kernel 3, stride 2: one pixel is missing, and it goes to the right and bottom
    conv = efficientnet.SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert conv(x)[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]


def test_crops_are_two_grids() -> None:
    x = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    tiles = crops(x, 2)
    assert tiles.shape == (2 * 3 + 2 * 3, 3, 2, 2)
    assert (tiles[0].permute(1, 2, 0).numpy() == x[:2, :2]).all()
    assert (tiles[6].permute(1, 2, 0).numpy() == x[1:3, 1:3]).all()
    assert crops(x, 6).shape == (0, 3, 6, 6)


def test_frechet_distance_of_gaussians_is_the_formulas() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (40_000, 3))
    b = rng.normal(0, 1, (40_000, 3)) * [1, 2, 3] + [0, 0, 2]
    # |mu|^2 + sum (sigma - sigma_hat)^2 for covariances that commute
    assert Frechet(a).distance(b) == pytest.approx(4 + 1 + 4, rel=0.05)
    assert Frechet(a).distance(a) == pytest.approx(0, abs=1e-6)
    rotated = b @ np.linalg.qr(rng.normal(0, 1, (3, 3)))[0]
    assert Frechet(b).distance(rotated) == pytest.approx(Frechet(rotated).distance(b), rel=1e-6)


def test_frechet_distance_agrees_with_scipys_square_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, (50, 6)) @ rng.normal(0, 1, (6, 6))
    b = rng.normal(0, 1, (60, 6)) @ rng.normal(0, 1, (6, 6)) + 0.5
    c, d = np.cov(a.T), np.cov(b.T)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c + d - 2 * np.real(sqrtm(c @ d)))
    assert Frechet(a).distance(b) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        Frechet(a[:1])
    with pytest.raises(ValueError, match="6 and 5 dimensions"):
        Frechet(a).distance(b[:, :5])


def test_kid_is_the_sum_over_pairs_and_unbiased() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 1, (7, 4)), rng.normal(0.5, 1, (5, 4))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 4 + 1) ** 3)

    within = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j)
        / len(s)
        / (len(s) - 1)
        for s in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / 35
    assert KernelDistance(x).distance(y) == pytest.approx(sum(within) - 2 * across, rel=1e-9)
    same = [KernelDistance(rng.normal(0, 1, (30, 4))).distance(rng.normal(0, 1, (20, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20 and min(same) < 0 < max(same)
    big = rng.normal(0, 1, (1500, 4)).astype(np.float32)  # more than one block
    assert KernelDistance(big).distance(big[:700]) == pytest.approx(
        KernelDistance(big.astype(float)).distance(big[:700].astype(float)), abs=1e-4
    )
    with pytest.raises(ValueError, match="cannot compare"):
        KernelDistance(x).distance(y[:, :3])


def test_character_errors_are_counted_in_edits() -> None:
    pytest.importorskip("rapidfuzz")
    assert text.character_error_rate("0123456789", "0123456789") == 0
    assert text.character_error_rate("0123456789", "012x45678") == pytest.approx(0.2)
    assert text.character_error_rate("0123456789", "") == 1
    assert not text.has_text("--- . 12345678 ---") and text.has_text("a b c d e f g h i j")
    with pytest.raises(ValueError, match="'short' is too little text"):
        text.character_error_rate("short", "short")


def lettering() -> np.ndarray:
    from PIL import ImageDraw, ImageFont

    page = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(page).text((20, 30), "Sharpened last 2026", "black", ImageFont.load_default(48))
    return np.array(page)


@pytest.mark.filterwarnings("ignore")  # of the reader's own packages
@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
def test_text_is_read(name: str) -> None:
    import importlib.util
    import shutil

    if name == "rapidocr" and importlib.util.find_spec("rapidocr_onnxruntime") is None:
        pytest.skip("rapidocr-onnxruntime is not installed")
    if name == "tesseract" and shutil.which("tesseract") is None:
        pytest.skip("tesseract is not installed")
    read = {"rapidocr": text.read_rapidocr, "tesseract": text.read_tesseract}[name]
    assert read(lettering()) == "Sharpenedlast2026"
    assert not text.has_text(read(np.full((120, 200, 3), 200, np.uint8)))
    reader = text.find_reader()
    assert reader is not None and any(character.isdigit() for character in reader.name)
