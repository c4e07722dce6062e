"""Studies of the entropy model on toy networks: paired, resumable, their summary that of their rows."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.curves import Curve
from evaluation.metrics import METRICS
from sfumato.autoregressive import hyper_synthesis
from sfumato.codec import load
from sfumato.latents import quality
from studies import (
    blur,
    blur_rate,
    contexts,
    correction,
    denoisers,
    grouping,
    grouping_cost,
    positions,
    raster,
    seeds,
    variants,
)
from studies.latents import CPU, QUALITIES, Base, EntropyNetworks, Schedule, interpolated, train
from tests.conftest import image_of_noise, ship
from training.data import Images
from training.loop import Run
from training.networks.model import PRESETS, Model, entropy_model
from training.random_weights import calibrated
from training.recipes import Recipe
from training.run_weights import load_weights, save_weights


@dataclass(frozen=True)
class Place:
    """Toy weights, two photographs to train on and one to count bits of."""

    folder: Path
    weights: Path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """For the main function of a study of two seeds."""
        data = {"data": [self.folder / "data"], "test": self.folder / "test"}
        small = {"seeds": 2, "steps": 8, "windows": 2, "smallest": 256, "model": str(self.weights)}
        return {**data, "latents": self.folder / "latents", **small, **changes}

    def base(self) -> Base:
        model = load_weights(self.weights).model
        images, test = (Images.load([self.folder / name], CPU, 64) for name in ("data", "test"))
        return Base.load(model, images, 2, test, self.folder / "latents")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    for name, count, shape in (("data", 2, (300, 340)), ("test", 1, (128, 192))):
        (folder / name).mkdir()
        for number in range(count):
            noise = rng.normal(size=(shape[0] // 20 + 1, shape[1] // 20 + 1, 3)) * 60 + 128
            coarse = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            coarse.resize(shape[::-1], Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
    torch.manual_seed(0)
    return Place(folder, ship(Model("toy"), folder / "toy.safetensors"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


STUDIES = (
    (positions, ("none", "laplacian", "no g_gs"), "laplacian"),
    (grouping, ("five uneven", "ten even, one pass", "two"), "five uneven"),
    (contexts, ("hyper, channel", "channel, local, global", "all"), "all"),
)
OPTIONS = {positions: variants.StartOptions, grouping: grouping.FromNothing, contexts: contexts.Contexts}


@pytest.mark.parametrize(("study", "names", "reference"), STUDIES)
def test_study_goes_on_where_it_was_cut(
    study: Any, names: tuple[str, ...], reference: str, place: Place, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output = tmp_path / "table.csv"

    def options(**changes: Any) -> variants.Options:
        return OPTIONS[study](**place.arguments(**changes))

    # so fast that a few steps change rounded values
    fast = partial(Schedule, warmup=1)
    monkeypatch.setattr(variants, "Schedule", lambda steps, windows, rate: fast(steps, windows, rate=1e-2))
    study.main(output, options(only=names, minutes=0.0))
    assert not output.exists() or not rows(output)
    study.main(output, options(only=names))
    whole = rows(output)
    # seeds in the outer loop: cut anywhere, the numbers of seeds differ by one at most
    order = [n for n in dict.fromkeys(row["variant"] for row in whole)]
    assert set(order) == set(names)
    assert [(row["variant"], row["seed"]) for row in whole] == [(n, s) for s in "01" for n in order]
    assert all(float(row[f"bpp_at_q{q:g}"]) > 0 for row in whole for q in QUALITIES)
    assert len({row["bpp_at_q0.8"] for row in whole}) == len(whole), "no two are alike"

    trained = []
    original = variants.train
    monkeypatch.setattr(variants, "train", lambda *args: trained.append(args[-1]) or original(*args))
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:3] + lines[4:]))
    study.main(output, options(only=names))
    assert len(trained) == 1
    again = {(row["variant"], row["seed"]): row | {"cpu_s": ""} for row in rows(output)}
    assert again == {(row["variant"], row["seed"]): row | {"cpu_s": ""} for row in whole}

    table = variants.read(output)
    summary = {(row["variant"], row["q"]): row for row in rows(tmp_path / "table-summary.csv")}
    assert len(summary) == 2 * len(QUALITIES) and (tmp_path / "table.svg").stat().st_size > 1000
    for name in set(names) - {reference}:
        a, b = (
            100 * (float(table[name, s]["bpp_at_q0.5"]) / float(table[reference, s]["bpp_at_q0.5"]) - 1)
            for s in (0, 1)
        )
        row = summary[name, "0.5"]
        assert float(row["bits_percent"]) == pytest.approx((a + b) / 2, abs=1e-3)
        assert float(row["interval_percent"]) == pytest.approx(12.706 * abs(a - b) / 2, abs=1e-3)

    with pytest.raises(SystemExit, match="steps"):
        study.main(output, options(only=names, steps=3))


def test_training_learns_and_repeats_itself(place: Place) -> None:
    base = place.base()
    model = base.model
    before = base.bpp(EntropyNetworks(model.h_a, model.prior))
    schedule = Schedule(40, 2, rate=5e-3)
    after = base.bpp(train(positions.start("laplacian", model, 0), base, schedule, 0))
    assert sum(after) < 0.9 * sum(before)
    short = Schedule(3, 2)
    found = [base.bpp(train(positions.start("none", model, s), base, short, s)) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert base.bpp(EntropyNetworks(model.h_a, model.prior)) == before, "the weights are not trained along"


def test_latents_are_those_of_the_network_and_are_kept(place: Place) -> None:
    base, again = place.base(), place.base()
    images = Images.load([place.folder / "test"], CPU, 64)
    y = base.model.g_a(images.image(0).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    assert torch.equal(base.test.image(0), y.half()) and torch.equal(again.test.values, base.test.values)
    assert base.train.shapes == ((16, 20), (16, 20)) and base.pixels == 128 * 192
    pairs = [base.train.windows(3, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(pairs[0], pairs[1]) and not torch.equal(pairs[0], pairs[2])


def test_every_start_is_near_the_shipped_model(place: Place) -> None:
    """A bias that can be the Laplacian is it before training; chunks of other studies start anew."""
    model = load_weights(place.weights).model
    with torch.no_grad():
        for chunk in model.prior.chunks:
            chunk.global_context.bias.amplitude.fill_(2.0)
            chunk.global_context.bias.sigma.fill_(2.5)
    goal = positions.centred(model.prior.biases()[0]())
    distance = {}
    for name in positions.VARIANTS:
        networks = positions.start(name, model, 0)
        bias = positions.centred(networks.prior.biases()[0]().detach())
        distance[name] = float((bias - goal).abs().max())
    for name in ("laplacian", "laplacian_shared", "laplacian_per_head", "swin_table"):
        assert distance[name] < 0.02, name
    for name in ("gaussian", "linear", "diamond_scalar"):
        assert distance[name] < 0.7 * distance["none"], name
    own = grouping.start("one chunk", model, 0).prior.state_dict()
    shipped = model.prior.state_dict()
    assert torch.equal(own["h_s.head.weight"], shipped["h_s.head.weight"])
    assert own["chunks.0.out_projection.weight"].shape == (28, 8, 1, 1)


def test_what_starts_from_nothing_keeps_the_hyper_networks_alone(place: Place) -> None:
    model = load_weights(place.weights).model
    shipped = model.prior.state_dict()
    for start, name in ((positions.start, "laplacian"), (contexts.start, "all")):
        first, again, other = (start(name, model, s, from_nothing=True).prior.state_dict() for s in (0, 0, 1))
        for key, value in first.items():
            assert torch.equal(value, again[key])
            if not key.startswith("chunks."):
                assert torch.equal(value, shipped[key])
        key = "chunks.1.out_projection.weight"
        assert not torch.equal(first[key], shipped[key]) and not torch.equal(first[key], other[key])


def test_intervals_are_students() -> None:
    from scipy.stats import t

    values = [1.0, 2.0, 4.0, 4.5]
    low, high = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert variants.half_interval(values) == pytest.approx((high - low) / 2, rel=1e-3)
    assert math.isnan(variants.half_interval([1.0]))
    knots = torch.tensor([0.0, 1.0, 4.0])
    assert interpolated(knots, torch.tensor([0.0, 0.25, 0.75, 1.0])).tolist() == [0, 0.5, 2.5, 4]


def test_every_entropy_model_decodes_what_it_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping_cost, "LARGE", 64 * 128)
    grouping_cost.main(tmp_path / "cost.csv", "toy", 1, ((64, 64), (64, 128)))
    found = rows(tmp_path / "cost.csv")
    first = [f"first {n} channels" for n in (2, 4, 6, 10)]
    small, large = found[:13], found[13:]
    assert [row["entropy_model"] for row in small] == [*grouping.GROUPINGS, *first, "raster scan"]
    assert [int(row["sections"]) for row in small] == [5, 5, 10, 10, 5, 1, 2, 5, 1, 2, 3, 4, 1]
    assert [int(row["steps"]) for row in small] == [10, 10, 20, 10, 5, 2, 4, 10, 2, 4, 6, 8, 16]
    assert {row["entropy_model"]: int(row["steps"]) for row in large} == {
        "five uneven": 10, "five even": 10, "ten even": 20, "five uneven, one pass": 5, "one chunk": 2,
        "raster scan": 32,
    }  # fmt: skip


def test_one_pass_counts_no_parameters_of_the_spatial_context() -> None:
    names = "five uneven, one pass", "five uneven"
    one, two = (grouping.config_of(name, PRESETS["toy"]) for name in names)
    spatial = [
        p.numel()
        for chunk in entropy_model(two).chunks
        for module in (chunk.local, chunk.global_context, chunk.in_projection_spatial)
        for p in module.parameters()
    ]
    counts = [grouping_cost.EntropyCoder(*pair).parameters for pair in zip(names, (one, two), strict=True)]
    assert counts[0] == counts[1] - sum(spatial)


def test_a_raster_scan_sees_the_twelve_positions_before() -> None:
    """What it codes with, position by position, is what the masked convolution gives at once."""
    coder = grouping_cost.EntropyCoder("raster scan", grouping_cost.configs(PRESETS["toy"])["raster scan"])
    y, z, header = coder.latents(128, 128)
    sections, y_hat = coder.encode(y, z, header)
    assert np.array_equal(coder.decode(sections, header), y_hat) and np.abs(y_hat - y).max() <= 0.51
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def code(section: int, last: bool, mu: Any, index: Any, value: Any) -> Any:
        if section == 0:
            return np.rint(value)
        seen.append((mu, index))
        return y_hat[0, :, (len(seen) - 1) // 8, (len(seen) - 1) % 8]

    q = quality(header)
    _, z_hat = raster.raster_scan(coder.prior, code, q, (2, 2), z, y)
    psi_h = hyper_synthesis(coder.prior.h_s, z_hat, q)

    def at_once(y_hat: np.ndarray) -> np.ndarray:
        return np.concatenate(raster.parallel(coder.prior, y_hat, psi_h), 1)

    serial = np.stack([np.concatenate(pair) for pair in seen], 1).reshape(1, -1, 8, 8)
    assert np.array_equal(serial, at_once(y_hat))
    changed = y_hat.copy()
    changed[:, :, 3, 4] += 5
    found = (at_once(changed) != serial).any((0, 1))
    ahead = {(3, 5), (3, 6)} | {(row, column) for row in (4, 5) for column in range(2, 7)}
    assert {(int(row), int(column)) for row, column in np.argwhere(found)} == ahead


def test_a_study_of_denoisers_goes_on_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[float, int]] = []

    class TestSet:
        def __init__(self, *_: object) -> None: ...

        def metric_values(self, model: Model, q: float, steps: int) -> dict[str, float]:
            return {"bpp": q, **dict.fromkeys(denoisers.FIGURES, model.config.sigma_b_max + q)}

    def train_one(recipe: Recipe, run: Run) -> Path:
        trained.append((float(recipe.diffusion["sigma_b_max"]), run.seed))
        model = Model("toy")
        model.set_diffusion(**recipe.diffusion)
        found = calibrated(model, image_of_noise())
        save_weights(found.model, run.out.with_suffix(".safetensors"), found.tables, {"steps": "7"})
        return run.out.with_suffix(".safetensors")

    monkeypatch.setattr(denoisers, "TestSet", TestSet)
    monkeypatch.setattr(denoisers, "train", train_one)
    options = denoisers.Options(
        [], tmp_path, metrics=tmp_path, init=ship(Model("toy"), tmp_path / "toy.safetensors")
    )
    output = tmp_path / "blur.csv"
    rows = denoisers.run(tmp_path, output, options, blur.variants((0.0, 5.0)))
    assert trained == [(0.0, 0), (5.0, 0)] and len(rows) == 2 * 2 + 2 * 2
    rows = denoisers.run(tmp_path, output, replace(options, seeds=2), blur.variants((0.0, 5.0)))
    assert trained[2:] == [(0.0, 1), (5.0, 1)], "the first seed is there already"
    assert {row["dists"] for row in rows if row["variant"] == "5"} == {"5.2", "5.5"}
    blur.draw(tmp_path / "blur.svg", rows)
    assert "DISTS" in (tmp_path / "blur.svg").read_text()


def test_rates_at_equal_quality_are_compared_seed_by_seed() -> None:
    """A variant whose images are as good at 0.9 times the rate, each seed at rates of its own."""
    found = [
        {
            "variant": variant,
            "seed": str(seed),
            "steps": "17",
            "q": str(q),
            "bpp": str(rate * factor * (1 + seed)),
        }
        | {"psnr_db": str(25 + 5 * q), "lpips_alex": str(0.4 - 0.1 * q), "dists": str(0.2 - 0.1 * q)}
        for variant, factor in (("0", 1.0), ("5", 0.9))
        for seed in range(3)
        for q, rate in enumerate((0.1, 0.3, 0.8))
    ]
    start = {"variant": "start", "seed": "0", "steps": "1", "q": "0", "bpp": "0.1"}
    lines = list(blur_rate.rate_differences([start, *found]))
    assert [line[:4] for line in lines] == [("5", "17", m, "3") for m in blur_rate.METRICS]
    assert all(float(line[4]) == pytest.approx(-10) and float(line[5]) == 0 for line in lines)
    assert not list(blur_rate.rate_differences([row for row in found if row["variant"] == "5"]))
    recipes = blur_rate.variants((0.0, 20.0))
    assert [recipes[name].diffusion["sigma_b_max"] for name in ("0", "20", "5, late")] == [0.0, 20.0, 5.0]
    for recipe in recipes.values():  # fields that there are, and a diffusion that can be
        Model("toy").set_diffusion(**recipe.diffusion)
    assert all(r.diffusion["without_base"] and r.diffusion["t0"] == 1 for r in recipes.values())


def test_the_spread_of_seeds_separates_noise_from_what_all_samples_share() -> None:
    """Samples at base + 0.1 + noise of 0.01: in levels 12.75 and 1.275."""
    rng = np.random.default_rng(0)
    base = np.zeros((3, 64, 64))
    samples = [base + 0.1 + 0.01 * rng.normal(size=base.shape) for _ in range(16)]
    two, sample_base, mean_base, sample_mean = seeds.spread(base, samples)
    assert two == pytest.approx(20 * math.log10(255 / (1.275 * math.sqrt(2))), abs=0.1)
    assert sample_base == pytest.approx(20 * math.log10(255 / 12.75), abs=0.1)
    assert mean_base == pytest.approx(sample_base, abs=0.1)
    assert sample_mean == pytest.approx(two + 10 * math.log10(2 / (1 - 1 / 16)), abs=0.1)


def test_rates_of_corrected_images_are_compared_image_by_image() -> None:
    """Each image as good at 0.9 times its rate."""
    curves = {
        (image, share): Curve(
            image,
            ("0.2", "0.8"),
            np.array([0.1, 0.4]) * rate * factor,
            {metric: METRICS[metric].sign * np.array([1.0, 2.0]) for metric in correction.METRICS},
        )
        for image, rate in (("a", 1.0), ("b", 3.0))
        for share, factor in ((0.0, 1.0), (0.5, 0.9))
    }
    rows = correction.summary(curves, (0.0, 0.5))
    assert [row[:3] for row in rows] == [(0.5, metric, 2) for metric in correction.METRICS]
    assert all(row[3] == pytest.approx(-10) and row[4] == pytest.approx(0, abs=1e-6) for row in rows)


def test_a_share_of_the_correction_is_that_of_every_quality() -> None:
    codec = load()
    analyzed = codec.analyze(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    corrected = correction.with_share(analyzed, 0.5)
    gains = [codec._transforms.gain(q) for q in (0.2, 1.0)]
    for q, gain in zip((0.2, 1.0), gains, strict=True):
        expected = (analyzed.y + 0.5 * analyzed.correction()) * gain
        np.testing.assert_allclose(codec._latents(corrected, q)[0], expected, rtol=1e-5, atol=1e-5)
