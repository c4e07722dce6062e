"""The entropy model: packing, causality, Laplacian bias, window attention, one pass for all uses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato import scales
from sfumato.autoregressive import (
    ANCHOR,
    NON_ANCHOR,
    TAPS,
    autoregressive_pass,
    global_context,
    local_context,
    pack,
    swin_block,
    unpack,
    window_attention,
)
from sfumato.checks import Checksum
from sfumato.coder import Meter
from sfumato.container import Header
from sfumato.latents import make_symbol_coder
from training.networks import quantise
from training.networks.attention import GlobalContext, SwinBlock
from training.networks.positions import LaplacianBias
from training.networks.prior import LocalContext, Prior, index_to_scale, scale_to_index

CHUNKS = (2, 2, 3, 4, 5)
WINDOW = 8


def make_prior(chunks: tuple[int, ...] = CHUNKS, pairs: int = 1, **options: Any) -> Prior:
    torch.manual_seed(0)
    prior = Prior(chunks, 4, 8, 3, 8, 8, 16, pairs, 2, **options).double().eval()
    with torch.no_grad():  # layers that start small or at zero would hide what depends on them
        for parameter in prior.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return prior.requires_grad_(False)


def latents(h: int = 2, w: int = 3, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    y = scale * torch.randn(1, sum(CHUNKS), 4 * h, 4 * w, generator=g, dtype=torch.float64)
    return y, scale * torch.randn(1, 4, h, w, generator=g, dtype=torch.float64)


def test_pack_takes_the_cells_of_one_parity_and_unpack_puts_them_back() -> None:
    row, column = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    x = (10 * row + column)[None, None].double()
    anchors, others = pack(x, ANCHOR), pack(x, NON_ANCHOR)
    assert anchors.shape == others.shape == (1, 1, 4, 3)
    assert ((anchors // 10 + anchors % 10) % 2 == 0).all()
    assert ((others // 10 + others % 10) % 2 == 1).all()
    assert anchors[0, 0, 1].tolist() == [11, 13, 15]
    assert torch.equal(unpack(anchors, others), x)


def test_local_context_is_a_checkerboard_masked_convolution() -> None:
    local = LocalContext(3, 5).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    kernel = torch.zeros(5, 3, 5, 5, dtype=torch.float64)
    weight = local.weight.weight[:, :, 0, 0].reshape(5, len(TAPS), 3)
    for i, (dy, dx) in enumerate(TAPS):
        kernel[:, :, dy, dx] = weight[:, i]
    full = torch.nn.functional.conv2d(x, kernel, local.weight.bias, padding=2)
    assert torch.allclose(local_context(local, pack(x, ANCHOR)), pack(full, NON_ANCHOR))


def test_laplacian_bias_follows_its_formula() -> None:
    bias = LaplacianBias().double()
    with torch.no_grad():
        bias.amplitude.fill_(1.7)
        bias.sigma.fill_(0.9)
    cells = [(r, c) for r in range(WINDOW) for c in range(WINDOW) if (r + c) % 2]
    table = bias()
    for i in (0, 7, 19, 31):
        for j in (0, 3, 16, 31):
            distance = abs(cells[i][0] - cells[j][0]) + abs(cells[i][1] - cells[j][1])
            expected = 1.7**2 * np.exp(-distance / (2 * 0.9**2))
            assert table[i, j].item() == pytest.approx(expected, rel=1e-5)
    assert len({id(chunk.global_context.bias.sigma) for chunk in make_prior().chunks}) == len(CHUNKS)


def test_packed_window_attention_equals_attention_with_the_checkerboard_mask() -> None:
    block = SwinBlock(8, 2, 2).double()
    bias = LaplacianBias().double()
    packed = torch.randn(1, WINDOW, WINDOW // 2, 8, dtype=torch.float64)
    full = torch.zeros(1, WINDOW, WINDOW, 8, dtype=torch.float64)
    odd = (torch.arange(WINDOW)[:, None] + torch.arange(WINDOW)) % 2 == 1
    full[:, odd] = packed.reshape(1, -1, 8)
    q, k, v = (t.reshape(-1, 2, 4).transpose(0, 1) for t in block.qkv(full).reshape(-1, 24).split(8, 1))
    place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1).reshape(-1, 2)
    distance = (place[:, None] - place).abs().sum(-1).double()
    logits = q @ k.mT / 2 + bias.amplitude**2 * torch.exp(-distance / (2 * bias.sigma**2))
    logits[:, :, ~odd.flatten()] = -torch.inf  # keys only at the non-anchors
    mixed = block.out((logits.softmax(-1) @ v).transpose(0, 1).reshape(-1, 8)).reshape(WINDOW, WINDOW, 8)
    ours = window_attention(block, packed, bias(), 0)
    assert torch.allclose(ours.reshape(-1, 8), mixed[odd], atol=1e-6)


def test_global_context_does_not_depend_on_what_lies_beyond_the_border() -> None:
    """An image of one window and the same window in a larger image: pure window attention agrees there."""
    block, bias = SwinBlock(8, 2, 2).double(), LaplacianBias().double()
    large = torch.randn(1, 2 * WINDOW, WINDOW, 8, dtype=torch.float64)
    small = large[:, :WINDOW, : WINDOW // 2]
    whole, part = (swin_block(block, x, bias(), 0) for x in (large, small))
    assert torch.allclose(whole[:, :WINDOW, : WINDOW // 2], part)
    # the shifted block reaches over the window's edge, but a 3 x 2 map has no NaN and no foreign keys
    assert torch.isfinite(swin_block(block, large[:, :3, :2], bias(), WINDOW // 2)).all()


def test_shifted_windows_join_neighbours() -> None:
    context = GlobalContext(8, 1, 2).double()
    x = torch.randn(1, 8, 16, 8, dtype=torch.float64)
    moved = x.clone()
    moved[:, 0, 9, 1] += 1.0  # in the window below that of cell (6, 1)
    change = (global_context(context, moved) - global_context(context, x)).abs().sum(1)[0]
    assert change[6, 1] > 1e-9
    assert change[0, 7] == 0


class Recorder:
    """Codes like the encoder, and keeps every (mu, level) that it was given."""

    def __init__(self, replaced: dict[int, Tensor] | None = None) -> None:
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.values: list[Tensor] = []
        self.replaced = replaced or {}

    def __call__(self, section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        number = len(self.steps)
        self.steps.append((mu, level))
        value = self.replaced.get(number, torch.round(value - mu) + mu)
        self.values.append(value)
        return value


def test_no_parameter_depends_on_what_is_not_decoded_yet() -> None:
    """Replace what step k decodes: parameters of steps up to k stay, those of later steps move."""
    prior = make_prior()
    y, z = latents()
    q = torch.tensor([0.4], dtype=torch.float64)
    plain = Recorder()
    autoregressive_pass(prior, plain, q, (2, 3), z, y)
    assert len(plain.steps) == 1 + 2 * len(CHUNKS)
    for k in range(len(plain.steps) - 1):
        other = Recorder({k: plain.values[k] + 2.0})
        autoregressive_pass(prior, other, q, (2, 3), z, y)
        for i, (before, after) in enumerate(zip(plain.steps, other.steps, strict=True)):
            same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            assert same == (i <= k), f"step {i} after a change in step {k}"


def test_each_context_reaches_the_parameters() -> None:
    """Near anchors reach a non-anchor through the local context, far ones through the global context."""
    prior = make_prior()
    y, z = latents(4, 4)
    q = torch.tensor([0.4], dtype=torch.float64)
    plain = Recorder()
    autoregressive_pass(prior, plain, q, (4, 4), z, y)
    anchors = plain.values[1].clone()
    anchors[0, 0, 0, 0] += 2.0
    other = Recorder({1: anchors})
    autoregressive_pass(prior, other, q, (4, 4), z, y)
    moved = (other.steps[2][0] - plain.steps[2][0]).abs().sum(1)[0]
    assert moved[0, 0] > 0, "local context"
    assert moved[6, 3] > 0, "the same window, beyond the 5 x 5 of the local context"
    assert moved[15, 7] == 0, "beyond both shifted windows"


def test_training_rate_is_what_the_meter_counts() -> None:
    """On latents drawn from the model itself, with sigmas that hide the step of the quantiser."""
    prior, tables = make_prior(), scales.Tables.gaussian()
    for chunk in prior.chunks:
        chunk.out_projection.bias[len(chunk.out_projection.bias) // 2 :] += 2.0
    q = torch.tensor([0.4], dtype=torch.float64)
    g = torch.Generator().manual_seed(2)

    def draw(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        return mu + index_to_scale(level) * torch.randn(mu.shape, generator=g, dtype=torch.float64)

    y, z = autoregressive_pass(prior, draw, q, (6, 6))
    header = Header(1, 1, 0, 0)
    meters = [Meter(tables) for _ in header.sections]
    code = make_symbol_coder(meters, Checksum(header), lambda _: None)

    def measure(section: int, is_last: bool, *values: Tensor) -> Tensor:
        return torch.from_numpy(code(section, is_last, *(value.numpy() for value in values)))

    autoregressive_pass(prior, measure, q, (6, 6), z, y)
    torch.manual_seed(0)
    estimate = torch.stack([prior(y, z, q).bits[0] for _ in range(10)]).mean(0)
    assert float(estimate.sum()) == pytest.approx(sum(m.bits for m in meters), rel=0.01)


def test_levels_and_sigmas_are_inverse_and_bounded() -> None:
    for sigma in (0.11, 0.5, 1.0, 30.0, 128.0):
        assert index_to_scale(torch.tensor(scale_to_index(sigma))).item() == pytest.approx(sigma, rel=1e-5)
    assert index_to_scale(torch.tensor([-5.0, 90.0])).tolist() == pytest.approx([0.11, 128.0], rel=1e-5)
    level = torch.tensor([-1.0, 70.0], requires_grad=True)
    index_to_scale(level).sum().backward()
    assert level.grad is not None and level.grad[0] == 0, "a step outwards is refused"
    (-index_to_scale(level := torch.tensor([-1.0], requires_grad=True))).sum().backward()
    assert level.grad is not None and level.grad[0] != 0, "the way back is open"


def test_gaussian_bits_is_the_mass_of_the_bin() -> None:
    from scipy.stats import norm

    for v, sigma in ((0.0, 1.0), (3.2, 1.0), (-40.0, 9.0), (0.2, 0.11)):
        mass = norm.cdf(v + 0.5, scale=sigma) - norm.cdf(v - 0.5, scale=sigma)
        bits = quantise.gaussian_bits(torch.tensor(v).double(), torch.tensor(sigma).double())
        assert bits.item() == pytest.approx(-np.log2(mass), rel=1e-6)


def test_every_parameter_of_the_prior_learns() -> None:
    prior = copy.deepcopy(make_prior()).requires_grad_(True)
    y, z = latents(4, 4)
    prior(y, z, torch.tensor([0.3], dtype=torch.float64)).bits.sum().backward()
    idle = [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
