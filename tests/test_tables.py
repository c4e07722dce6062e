"""Tables that are counted: symbols in, cheaper tables of the same form out, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import scales
from sfumato.scales import NUM_SCALES, TOTAL, Tables
from training import tables
from training.networks.model import Model
from training.random_weights import calibrated
from training.run_weights import load_weights, save_weights
from training.tables import Histogram, count, fitted

LEVEL = 20


def laplacian_symbols(level: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.laplace(0, scales.sigma(level) / 2**0.5, n)).astype(np.int32)


def histogram_of(level: int, symbols: np.ndarray) -> Histogram:
    histogram = Histogram()
    value = torch.from_numpy(symbols).float()[None]
    index = torch.full_like(value, float(level))
    coded = histogram.code(1, True, torch.zeros_like(value), index, value)
    assert torch.equal(coded, value), "whole numbers stand for themselves"
    return histogram


def test_counted_tables_cost_what_the_entropy_says() -> None:
    found = fitted(histogram_of(LEVEL, laplacian_symbols(LEVEL, 400_000, 0)))
    fresh = laplacian_symbols(LEVEL, 100_000, 1)
    seen = histogram_of(LEVEL, fresh)
    shares = np.unique(fresh, return_counts=True)[1] / fresh.size
    entropy = -float((shares * np.log2(shares)).sum()) * fresh.size
    assert entropy < seen.bits(found) < 1.001 * entropy
    assert seen.bits(Tables.gaussian()) > 1.02 * entropy
    level = found.level(LEVEL)
    np.testing.assert_array_equal(level[:-1], level[-2::-1])
    assert level.sum() == TOTAL and found.widths[LEVEL] > Tables.gaussian().widths[LEVEL]


def test_levels_that_were_not_seen_stay_gaussian() -> None:
    found, gaussian = fitted(Histogram()), Tables.gaussian()
    assert (np.abs(found.widths - gaussian.widths) <= 1 + 0.04 * gaussian.widths).all()
    rng = np.random.default_rng(0)
    for level in range(NUM_SCALES):
        symbols = np.rint(rng.normal(0, scales.sigma(level), 1000)).astype(np.int32)
        index = np.full(symbols.size, level, np.uint8)
        cost = found.bits(index, symbols).sum(), gaussian.bits(index, symbols).sum()
        assert cost[0] == pytest.approx(cost[1], rel=0.01, abs=0.1)


def test_far_magnitudes_and_levels_beyond_the_ends_are_counted_at_the_ends() -> None:
    histogram = Histogram(largest=3)
    mu, index, value = (
        torch.tensor([row]) for row in ([0.0, 0.25, 0.001], [-7.0, 99.0, 99.0], [-5.2, 2.0, 3.0])
    )
    assert histogram.code(0, False, mu, index, value).tolist() == [[-5.0, 2.25, 3.0]]
    assert histogram.counts[63].tolist() == [0, 0, 1, 1]
    assert histogram.counts[0].tolist() == [0, 1, 0, 1], "the flag and the symbol"


def test_zeros_at_level_0_count_where_the_coder_codes_them() -> None:
    histogram = Histogram(largest=3)
    value = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])  # of two images
    histogram.code(1, True, torch.zeros_like(value), torch.zeros_like(value), value)
    assert histogram.counts[0].tolist() == [1 + 3, 1 + 1, 0, 0], "a flag each, and the second's symbols"


def test_the_command_changes_the_tables_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    torch.manual_seed(0)
    before = calibrated(Model("toy"), torch.rand(1, 3, 64, 64) * 2 - 1)
    start, out = tmp_path / "start.safetensors", tmp_path / "out" / "weights.safetensors"
    save_weights(before.model, start, before.tables, {"steps": "7"})
    tables.main(start, [tmp_path], out, crops=8, held_out=1, crop=64)
    after = load_weights(out)
    assert "of 1 held-out photographs" in capsys.readouterr().out
    assert after.notes["steps"] == "7" and after.model_id != before.model_id
    for name, value in before.model.state_dict().items():
        if not name.startswith("denoiser."):
            assert torch.equal(value, after.model.state_dict()[name])
    assert after.fractions == before.fractions
    assert not torch.equal(after.tables["counts"], before.tables["counts"])
    seen = count(after.model, torch.rand(4, 3, 64, 64) * 2 - 1)
    found = Tables.from_arrays(*(after.tables[name].numpy() for name in ("counts", "widths")))
    assert seen.bits(found) < seen.bits(Tables.gaussian()), "symbols of a random model are no Gaussians"
