"""Studies of contexts, reach and scaling: what is switched off is off, what is counted adds up."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.autoregressive import autoregressive_pass
from sfumato.codec import Codec
from sfumato.weights import read_weights
from studies import contexts, reach, scaling
from studies.knockouts import CONTEXTS, columns, context_off, without
from studies.latents import QUALITIES, EntropyNetworks
from tests.conftest import ship
from training.networks.model import Model
from training.run_weights import load_weights
from training.validation import rounding


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Model("toy")
    with torch.no_grad():  # larger than at initialisation, so that contexts and biases matter
        for chunk in model.prior.chunks:
            chunk.out_projection.weight *= 30
            chunk.global_context.bias.amplitude.fill_(2.0)
    return ship(model, tmp_path_factory.mktemp("contexts") / "toy.safetensors")


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    return load_weights(weights).model


def latents(model: Model, height: int = 32, width: int = 48) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return 3 * torch.randn(1, model.config.latent, height, width, generator=rng)


def parameters_of_last(networks: EntropyNetworks, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(means of the last pass, bits of each section) after rounding all before it."""
    prior = networks.prior
    seen: list[torch.Tensor] = []
    hook = prior.chunks[-1].out_projection.register_forward_hook(lambda layer, x, out: seen.append(out))
    bits = prior(y, networks.h_a(y), torch.tensor([0.5])).bits
    hook.remove()
    return seen[-1], list(bits[0])


@pytest.mark.parametrize("variant", contexts.VARIANTS)
def test_variant_sees_only_its_contexts(variant: str, model: Model) -> None:
    """What the last chunk's parameters follow, before training and after steps of it."""
    used = contexts.VARIANTS[variant]
    networks = contexts.start(variant, model, 0)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=0.01, weight_decay=0.0)
    y = latents(model)
    for step in range(3):
        torch.manual_seed(step)
        networks(y, torch.tensor([0.5])).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    for context in CONTEXTS:
        for number, (chunk, channels) in enumerate(
            zip(networks.prior.chunks, networks.prior.sizes, strict=True)
        ):
            layer, part = columns(context, number, channels)
            weight = getattr(chunk, layer).weight[:, part]
            assert bool((weight != 0).all()) == (context in used) or not weight.numel()
    with torch.inference_mode():
        before, _ = parameters_of_last(networks, y)
        earlier, own = y.clone(), y.clone()
        earlier[:, : model.prior.sizes[0]] += 8.0
        own[:, -model.prior.sizes[-1] :] += 8.0
        h_a = networks.h_a
        fixed = h_a(y)
        networks.h_a = torch.nn.Identity()
        networks.h_a.forward = lambda _: fixed  # changes of y, not of z
        follows = {
            "channel": not torch.equal(parameters_of_last(networks, earlier)[0], before),
            "local": not torch.equal(parameters_of_last(networks, own)[0], before),
        }
        assert follows == {name: name in used for name in ("channel", "local")}
        networks.h_a = h_a
        assert torch.equal(h_a(y), h_a(own)) == ("hyper" not in used)


@torch.inference_mode()
def test_without_side_information_z_costs_nothing(model: Model) -> None:
    networks = contexts.start("none", model, 0)
    y, bits = latents(model), list[torch.Tensor]()
    z = networks.h_a(y)
    autoregressive_pass(networks.prior, rounding(bits), torch.tensor([0.5]), (8, 12), z, y, passes=1)
    assert float(bits[0]) < 0.1
    silent = networks.rounded_bits(y, 0.5)
    assert float(sum(bits)) == pytest.approx(silent, rel=1e-6)
    assert silent != pytest.approx(contexts.start("hyper", model, 0).rounded_bits(y, 0.5), rel=1e-6)


def test_starts_are_the_shipped_weights_or_new_ones(model: Model) -> None:
    y = latents(model)
    shipped = EntropyNetworks(model.h_a, model.prior).rounded_bits(y, 0.5)
    assert contexts.start("all", model, 0).rounded_bits(y, 0.5) == pytest.approx(shipped, rel=1e-6)
    fresh = [contexts.start("all", model, seed, from_nothing=True).rounded_bits(y, 0.5) for seed in (0, 0, 1)]
    assert fresh[0] == fresh[1] != fresh[2] and fresh[0] != pytest.approx(shipped, rel=1e-3)


def test_switched_off_alike_in_both_arithmetics(weights: Path, model: Model) -> None:
    """`knockouts` zeroes integers, `contexts` reals: nearly the same bits."""
    file = read_weights(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    for context in CONTEXTS:
        exact = sum(without(file, context_off(context, file.config.chunks)).estimate_bits(pixels, q=0.5))
        prior = copy.deepcopy(model.prior)
        contexts.switch_off(prior, [context], hold=False)
        y = model.g_a(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
        y = y * model.gain(torch.tensor([128 / 255]))
        assert EntropyNetworks(model.h_a, prior).rounded_bits(y, 128 / 255) == pytest.approx(exact, rel=0.01)


@torch.inference_mode()
def test_attention_adds_up_and_follows_the_bias(model: Model) -> None:
    y, q = latents(model), torch.tensor([0.5])
    with reach.attention(model.prior) as found:
        reach.coded_chunks(model.prior, y, model.h_a(y), q)
    assert len(found) == 3 * len(model.prior.sizes)
    for (kind, _), parts in found.items():
        assert len(parts) == 2, "a plain and a shifted window"
        for mass in parts:
            assert float(mass.sum()) == pytest.approx(1, abs=1e-5) and not mass[1::2].any(), kind
    alike, biased = found[reach.ATTENTION[2], 1][0], found[reach.ATTENTION[1], 1][0]
    assert float(alike[0]) == pytest.approx(1 / 32), "itself, of the 32 non-anchors of a window"
    assert biased[0] > 1.5 * alike[0] and biased[14] < alike[14]


@torch.inference_mode()
def test_redrawn_anchor_is_seen_within_reach_and_no_farther(model: Model) -> None:
    y, q = latents(model), torch.tensor([0.5])
    coded = reach.coded_chunks(model.prior, y, model.h_a(y), q)
    extra, cells = reach.redraw(coded[1], 3, torch.Generator().manual_seed(0))
    assert not extra[::2].any() and not cells[::2].any(), "no non-anchor lies an even distance away"
    assert cells[1] <= 3 * 4 and cells[3] <= 3 * 12 and abs(extra[1]) > 1e-3
    one = coded[1]
    still = one._replace(sigma=torch.zeros_like(one.sigma), mu=one.anchors)
    assert not reach.redraw(still, 3, torch.Generator().manual_seed(0)).extra.any(), "the same anchors"
    anchors = one.anchors.clone()
    anchors[0, :, 16, 12] += 20.0  # cell (16, 24)
    changed = (one.bits(anchors) != one.bits(one.anchors))[0].nonzero()
    assert (changed[:, 0] - 16).abs().max() in range(3, 17), "beyond the local context, within the windows"
    total = sum(
        float(chunk.bits(chunk.anchors).sum())
        for chunk in reach.coded_chunks(model.prior, y, model.h_a(y), q)
    )
    assert 0 < total < EntropyNetworks(model.h_a, model.prior).rounded_bits(y, 0.5)


def test_repeated_textures_are_self_similar() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (320, 320, 3))
    tile = rng.integers(0, 256, (45, 38, 3))
    fence = np.tile(tile, (8, 9, 1))[:320, :320]
    distance = np.add.outer(np.arange(320), 0.37 * np.arange(320)) - 220  # of a soft, slanted edge
    edge = (127.5 + 127.5 * np.tanh(distance / 4))[..., None].repeat(3, 2)
    values = [reach.self_similarity(kind.astype(np.uint8)) for kind in (noise, edge, fence)]
    assert values[0] < 0.1 and values[1] < 0.4 and values[2] > 0.9


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a = rng.normal(size=20)
    b = a + rng.normal(size=20)
    assert reach.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert 0.05 < reach.interval_of_correlation(a, b) < 0.5


def test_tables_of_reach_and_scaling(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
        coarse.resize((384, 320), Image.Resampling.BICUBIC).save(tmp_path / "images" / f"{number}.png")

    reach.main(tmp_path / "images", tmp_path / "reach.csv", str(weights), anchors=2)
    rows = table(tmp_path / "reach.csv")
    for kind in reach.ATTENTION:
        for chunk in "12345":
            shares = [float(row["value"]) for row in rows if (row["what"], row["chunk"]) == (kind, chunk)]
            assert sum(shares) == pytest.approx(len(QUALITIES), abs=1e-4)
    gains = {
        row["image"]: float(row["value"]) for row in rows if row["what"] == reach.GAIN and row["q"] == "0.5"
    }
    mean = gains.pop("all")
    assert len(gains) == 3 and mean == pytest.approx(sum(gains.values()) / 3, abs=1e-3)
    assert (tmp_path / "reach.svg").stat().st_size > 1000

    monkeypatch.setattr(scaling, "tiled_image", lambda paths: rng.integers(0, 256, (512, 512, 3), np.uint8))
    scaling.main(
        tmp_path / "images", tmp_path / "scaling.csv", str(weights), 1, (0.5, 1.0), ((64, 64), (512, 512)), 1
    )
    rows = table(tmp_path / "scaling.csv")
    pixels = np.asarray(Image.open(tmp_path / "images" / "0.png"))
    bits = sum(Codec(read_weights(weights)).estimate_bits(pixels, q=0.8)) / pixels[..., 0].size
    found = {row["section"]: float(row["value"]) for row in rows if key(row) == (scaling.RATE, "1", "0.8")}
    assert found.pop("all") == pytest.approx(bits, abs=1e-4)
    assert sum(found.values()) == pytest.approx(bits, abs=1e-4) and len(found) == 6
    assert {row["scale"] for row in rows if row["what"] == scaling.SAVED} == {"0.5", "1"}
    peaks = [float(row["value"]) for row in rows if (row["what"], row["section"]) == (scaling.PEAK, "encode")]
    assert len(peaks) == 2 and peaks[1] > peaks[0] > 20
    assert all(float(row["value"]) > 0 for row in rows if row["what"] == scaling.TIME)
    assert (tmp_path / "scaling.svg").stat().st_size > 1000


def key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["what"], row["scale"], row["q"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
