"""Position encodings, windows and chunk lists: each is what it is called, causal, and exact or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sfumato import exact
from sfumato.autoregressive import autoregressive_pass, global_context, window_attention
from studies.grouping import GROUPINGS
from tests.conftest import image_of_noise, shipped_form
from tests.test_exact import arrays_of, passed
from tests.test_prior import CHUNKS, Recorder, latents, make_prior
from training.export import export
from training.networks.attention import GlobalContext, SwinBlock, heads_of
from training.networks.model import PRESETS, Model
from training.networks.positions import (
    DIAMOND,
    ENCODINGS,
    DiamondDotProduct,
    GaussianBias,
    NoBias,
    RotaryDotProduct,
    diamond,
)
from training.networks.prior import Prior
from training.random_weights import calibrated
from training.restore import restore

CELLS = [(r, c) for r in range(8) for c in range(8) if (r + c) % 2]
BLIND = {"none", "values_only"}  # encodings that do not see positions
WITH_TABLE = {"none", "laplacian", "laplacian_shared", "gaussian"}


def randomised(module: nn.Module) -> nn.Module:
    """In float64, with no parameter at a start that hides what it does."""
    torch.manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module.requires_grad_(False)


def check_causal(prior: Prior) -> None:
    """Replace what step k decodes: parameters of steps up to k stay, those of later steps move."""
    y, z = latents()
    q = torch.tensor([0.4], dtype=torch.float64)
    plain = Recorder()
    autoregressive_pass(prior, plain, q, (2, 3), z, y, passes=prior.passes)
    assert len(plain.steps) == 1 + prior.passes * len(prior.sizes)
    for k in range(len(plain.steps) - 1):
        other = Recorder({k: plain.values[k] + 2.0})
        autoregressive_pass(prior, other, q, (2, 3), z, y, passes=prior.passes)
        for i, (before, after) in enumerate(zip(plain.steps, other.steps, strict=True)):
            same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            assert same == (i <= k), f"step {i} after a change in step {k}"


@pytest.mark.parametrize("position", ENCODINGS)
def test_no_encoding_sees_what_is_not_decoded_yet(position: str) -> None:
    check_causal(make_prior(position=position))


@pytest.mark.parametrize("name", GROUPINGS)
def test_no_chunk_list_sees_what_is_not_decoded_yet(name: str) -> None:
    grouping = GROUPINGS[name]
    chunks = grouping.chunks(sum(CHUNKS))
    assert sum(chunks) == sum(CHUNKS) and min(chunks) > 0
    check_causal(make_prior(chunks, passes=grouping.passes))


@pytest.mark.parametrize("options", [{"pairs": 0}, {"window": 4}, {"window": 16}])
def test_no_window_sees_what_is_not_decoded_yet(options: dict[str, int]) -> None:
    check_causal(make_prior(**options))


def test_chunk_lists_of_the_small_preset() -> None:
    assert GROUPINGS["five uneven"].chunks(192) == (16, 16, 32, 64, 64)
    assert GROUPINGS["reversed"].chunks(192) == (64, 64, 32, 16, 16)
    assert GROUPINGS["two"].chunks(192) == (32, 160)
    assert sorted(set(GROUPINGS["ten even"].chunks(192))) == [19, 20]


@pytest.mark.parametrize("position", ENCODINGS)
def test_encodings_see_positions_and_the_others_do_not(position: str) -> None:
    """Two neighbours of a token change places: only who knows of places notices."""
    block, context = (
        randomised(module)
        for module in (SwinBlock(8, 2, 2, 8, position), GlobalContext(8, 0, 2, 8, position))  # type: ignore[arg-type]
    )
    context.bias = randomised(ENCODINGS[position].bias(8, 2))  # type: ignore[index]
    x = torch.randn(1, 8, 4, 8, dtype=torch.float64)
    swapped = x.clone()
    token, near, far = CELLS.index((3, 4)), CELLS.index((4, 3)), CELLS.index((6, 7))
    for a, b in ((near, far), (far, near)):
        swapped[0, a // 4, a % 4] = x[0, b // 4, b % 4]
    before, after = (window_attention(block, map_, context.bias(), 0)[0] for map_ in (x, swapped))
    change = (before - after).reshape(32, 8)[token].abs().max()
    assert (change < 1e-12) == (position in BLIND)


def test_gaussian_bias_follows_its_formula() -> None:
    bias = GaussianBias().double()
    with torch.no_grad():
        bias.amplitude.fill_(1.7)
        bias.sigma.fill_(2.5)
    for i, j in ((0, 0), (0, 7), (19, 3), (31, 0)):
        d = abs(CELLS[i][0] - CELLS[j][0]) + abs(CELLS[i][1] - CELLS[j][1])
        assert bias()[i, j].item() == pytest.approx(1.7**2 * np.exp(-(d**2) / (2 * 2.5**2)), rel=1e-5)


def test_diamond_follows_its_formula() -> None:
    """logit += q . table[(dv + h)(2h + 1) + dh + h] / sqrt(d) within the diamond, row 0 beyond it."""
    layer = randomised(DiamondDotProduct(diamond(8), 1, 4))
    q, k, v = torch.randn(3, 1, 1, 1, 32, 4, dtype=torch.float64)
    logits = torch.zeros(32, 32, dtype=torch.float64)
    for i, (row, column) in enumerate(CELLS):
        for j, (other_row, other_column) in enumerate(CELLS):
            dv, dh = other_row - row, other_column - column
            inside = abs(dv) + abs(dh) <= DIAMOND
            entry = (dv + DIAMOND) * (2 * DIAMOND + 1) + dh + DIAMOND if inside else 0
            logits[i, j] = q[0, 0, 0, i] @ (k[0, 0, 0, j] + layer.table[entry]) / 2
    found = layer(q, k, v, NoBias(8).double()(), torch.ones(1, 32, dtype=torch.bool))
    assert torch.allclose(found[0, 0, 0], logits.softmax(-1) @ v[0, 0, 0])


def test_rotary_products_depend_on_the_offset_alone() -> None:
    layer = RotaryDotProduct(8, 1, 10)  # two numbers are not rotated
    q, k = torch.randn(2, 10, dtype=torch.float64).expand(1, 1, 1, 32, 2, 10).unbind(-2)
    products = (layer._rotate(q) @ layer._rotate(k).mT)[0, 0, 0]
    found: dict[tuple[int, int], float] = {}
    for i, (row, column) in enumerate(CELLS):
        for j, (other_row, other_column) in enumerate(CELLS):
            offset = other_row - row, other_column - column
            assert products[i, j].item() == pytest.approx(found.setdefault(offset, products[i, j].item()))
    assert len({round(value, 9) for value in found.values()}) == len(found) > 100


def test_windows_end_where_they_are_said_to_end() -> None:
    x = torch.randn(1, 8, 16, 8, dtype=torch.float64)
    moved = x.clone()
    moved[:, 0, 0, 0] += 1.0  # one channel: a norm does not see what all have in common
    for window, last in ((4, 3), (8, 7), (16, 15)):
        context = randomised(GlobalContext(8, 1, 2, window))
        rows = (global_context(context, moved) - global_context(context, x)).abs().sum((0, 1, 3))
        assert rows[last] > 0 and not rows[last + window // 2 + 1 :].any(), window
    with pytest.raises(ValueError, match="window is 6"):
        GlobalContext(8, 1, 2, 6)


@pytest.mark.parametrize("position", ENCODINGS)
def test_encodings_have_an_exact_form_or_are_refused(position: str) -> None:
    prior = make_prior(position=position)
    if position not in WITH_TABLE:
        with pytest.raises(ValueError, match="no exact form"):
            arrays_of(prior)
        return
    check_exact(prior)


@pytest.mark.parametrize("window", [4, 16])
def test_windows_have_an_exact_form(window: int) -> None:
    check_exact(make_prior(window=window))


def check_exact(prior: Prior) -> None:
    for parameter in prior.parameters():
        parameter.copy_(parameter.half())
    tree = exact.from_arrays(arrays_of(prior))
    for chunk, bias in zip(tree.chunks, prior.biases(), strict=True):
        assert np.abs(chunk.global_context.bias() - bias().numpy()).max() < 1 / 4096
    y, z = latents(4, 4)
    ours = passed(tree, 0.4, y.numpy(), z.numpy())
    theirs = passed(prior, torch.tensor([0.4], dtype=torch.float64), y, z)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() < 0.05


def test_models_without_spatial_context_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no exact form"):
        arrays_of(make_prior(pairs=0))
    monkeypatch.setitem(PRESETS, "one pass", replace(PRESETS["toy"], passes=1))
    trained = calibrated(Model("one pass"), image_of_noise())
    with pytest.raises(ValueError, match="2 passes"):
        export(trained)


def test_a_preset_has_its_encoding_back_from_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PRESETS["toy"], position="gaussian", window=4)
    monkeypatch.setitem(PRESETS, "gaussian", config)
    model = Model("gaussian")
    for number, bias in enumerate(model.prior.biases()):
        nn.init.constant_(bias.amplitude, 1.5 + number)  # type: ignore[arg-type]
    shipped = shipped_form(model)
    again, _ = restore(shipped)
    for ours, theirs in zip(again.prior.biases(), model.prior.biases(), strict=True):
        assert torch.equal(ours(), theirs()) and ours().shape == (8, 8)
    table = shipped.tensors["entropy.chunks.1.global_context.bias.table"]
    assert table.shape == (7,) and table[0] == 2.5**2 * 4096


def test_shared_bias_is_one_and_others_are_not() -> None:
    for position in ("laplacian", "laplacian_shared"):
        biases = make_prior(position=position).biases()
        assert len({id(bias) for bias in biases}) == (1 if position == "laplacian_shared" else len(CHUNKS))


def test_heads_divide_the_channels() -> None:
    assert [heads_of(c) for c in (8, 32, 64, 78, 100, 128, 384)] == [1, 1, 2, 2, 2, 4, 12]
