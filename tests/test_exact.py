"""The exact entropy model: close to the float one, the same in any order of sums, caught when it is not."""

from __future__ import annotations

import itertools
import math
import zlib
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import exact, quantise
from sfumato.attention import DotProduct, LaplacianBias
from sfumato.autoregressive import WINDOW
from sfumato.exact import Calibration, ExactConv, ExactDotProduct, ExactLinear, ExactNorm, convert
from sfumato.prior import Prior
from tests.test_prior import latents, make_prior

Q = torch.tensor([0.4], dtype=torch.float64)


def make_exact() -> tuple[Prior, Prior]:
    """A prior with fp16 values, as loaded weights are, and its exact form."""
    prior = make_prior()
    for parameter in prior.parameters():
        parameter.copy_(parameter.half())
    with Calibration(prior) as calibration:
        y, z = latents(4, 4)
        prior(y, z, Q)
    return prior, convert(prior, calibration.fractions())


def steps_of(prior: Prior, y: Tensor, z: Tensor) -> list[Tensor]:
    """What the walk over given latents computes: the raw mean and scale level of every call."""
    out: list[Tensor] = []

    def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        out.extend((mu, level))
        return quantise.snap(mu) + quantise.hard(value - quantise.snap(mu))

    prior.walk(code, Q.expand(len(y)), (z.shape[2], z.shape[3]), z, y)
    return out


KINDS = (ExactConv, ExactLinear, ExactNorm, ExactDotProduct)


def fingerprint(prior: Prior, y: Tensor, z: Tensor) -> int:
    """CRC-32 over the bytes that every layer with a sum puts out, and over all that `steps_of` returns."""
    value = 0

    def note(tensor: Tensor) -> None:
        nonlocal value
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)

    inner = (*KINDS, nn.Conv2d, Shuffled, SinglePrecision)
    names = [n for n, m in prior.named_modules() if isinstance(m, inner) and not n.endswith(".layer")]
    hooks = [prior.get_submodule(n).register_forward_hook(lambda m, x, y: note(y)) for n in names]
    for tensor in steps_of(prior, y, z):
        note(tensor)
    for hook in hooks:
        hook.remove()
    return value


class Shuffled(nn.Module):
    """A layer whose sums run in another order: its inputs and its weights are permuted alike."""

    def __init__(self, layer: nn.Module, seed: int) -> None:
        super().__init__()
        self.layer, self.seed = layer, seed
        self.heads = getattr(layer, "heads", 1)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, ExactDotProduct | DotProduct):
            k, v, bias, visible = more
            channels, keys = self.order(x.shape[-1]), self.order(k.shape[-2])
            # keys in another order, and the channels of the logits' sum; the values' channels stay
            k = k[..., keys, :][..., channels]
            return layer(x[..., channels], k, v[..., keys, :], bias[:, keys], visible[:, keys])
        if isinstance(layer, ExactNorm):
            channels = self.order(x.shape[-1])
            weight, bias = layer.weight, layer.bias
            layer.weight, layer.bias = weight[channels], bias[channels]
            y = layer(x[..., channels])
            layer.weight, layer.bias = weight, bias
            return y[..., channels.argsort()]
        matrix = layer.matrix
        taps = layer.kernel**2 if isinstance(layer, ExactConv) else 1
        axis = 1 if isinstance(layer, ExactConv) else -1
        channels = self.order(matrix.shape[1] // taps)
        layer.matrix = matrix.unflatten(1, (-1, taps))[:, channels].flatten(1)
        y = layer(x.index_select(axis, channels))
        layer.matrix = matrix
        return y


def shuffled(prior: Prior, seed: int) -> Prior:
    """The same prior with every sum in another order."""
    for name, layer in [(n, m) for n, m in prior.named_modules() if isinstance(m, KINDS)]:
        exact._replace(prior, name, Shuffled(layer, seed))
    return prior


class SinglePrecision(nn.Module):
    """One float32 operation where there should be an exact one."""

    def __init__(self, layer: ExactConv) -> None:
        super().__init__()
        self.layer, self.kernel = layer, layer.kernel
        self.register_buffer("matrix", layer.matrix)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        v = (layer.fixed(x) * layer.scale).float()
        kernel = self.matrix.float().unflatten(1, (-1, self.kernel, self.kernel))
        y = F.conv2d(v, kernel, padding=self.kernel // 2).double()  # 3x3: a library may well take Winograd's
        return y if layer.bias is None else y + layer.bias[:, None, None]


class SinglePrecisionShuffled(Shuffled):
    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        layer = self.layer
        assert isinstance(layer, SinglePrecision)
        channels = self.order(x.shape[1])
        matrix, taps = layer.matrix, layer.kernel**2
        layer.matrix = matrix.unflatten(1, (-1, taps))[:, channels].flatten(1)
        y = layer(x[:, channels])
        layer.matrix = matrix
        return y


def test_the_exact_model_is_close_to_the_float_one() -> None:
    prior, same = make_exact()
    y, z = latents(4, 4)
    # one step at a time: a mean that moves over a half changes a symbol, and with it all that follows
    for a, b in zip(steps_of(prior, y, z)[:4], steps_of(same, y, z)[:4], strict=True):
        assert (a - b).abs().max() < 0.01 * a.abs().max()


def test_any_order_of_sums_gives_the_same_bits() -> None:
    _, prior = make_exact()
    y, z = latents(3, 2)
    plain = fingerprint(prior, y, z)
    for seed in range(3):
        assert fingerprint(shuffled(make_exact()[1], seed), y, z) == plain


def test_the_float_model_depends_on_the_order_of_sums() -> None:
    """The fingerprint sees what exactness is for: a float64 walk differs already between two layouts."""
    prior, _ = make_exact()
    y, z = latents(3, 2)
    with pytest.MonkeyPatch.context() as patch:
        plain = fingerprint(prior, y, z)
        convolve = F.conv2d

        def other_order(x: Tensor, w: Tensor, *rest: object) -> Tensor:
            return convolve(x.flip(1), w.flip(1), *rest)

        patch.setattr("torch.nn.functional.conv2d", other_order)
        assert fingerprint(prior, y, z) != plain


@pytest.mark.parametrize("name", ["h_s.up2", "chunks.3.middle"])
def test_one_float32_operation_is_caught(name: str) -> None:
    y, z = latents(3, 2)
    found = set()
    for seed in range(4):
        _, prior = make_exact()
        layer = prior.get_submodule(name)
        assert isinstance(layer, ExactConv)
        exact._replace(prior, name, SinglePrecisionShuffled(SinglePrecision(layer), seed))
        found.add(fingerprint(prior, y, z))
    assert len(found) > 1


def test_layout_batch_strips_and_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prior = make_exact()
    y, z = latents(4, 3)
    plain = steps_of(prior, y, z)
    last = steps_of(prior, y.contiguous(memory_format=torch.channels_last), z)
    other = latents(4, 3, scale=1.0)
    batch = steps_of(prior, torch.cat([other[0], y]), torch.cat([other[1], z]))
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    threaded = steps_of(prior, y, z)
    torch.set_num_threads(threads)
    monkeypatch.setattr(exact, "STRIP", 200)
    strips = steps_of(prior, y, z)
    for a, b, c, d, e in zip(plain, last, batch, threaded, strips, strict=True):
        assert torch.equal(a, b) and torch.equal(a[0], c[1]) and torch.equal(a, d) and torch.equal(a, e)


def test_convert_leaves_the_original_and_needs_its_fractions() -> None:
    prior, same = make_exact()
    assert any(isinstance(m, nn.Conv2d) for m in prior.modules())
    assert not any(isinstance(m, nn.Conv2d | nn.Linear | nn.LayerNorm | DotProduct) for m in same.modules())
    assert not any(isinstance(m, LaplacianBias) for m in same.modules())
    with pytest.raises(ValueError, match="3 fractions for"):
        convert(prior, torch.zeros(3, dtype=torch.int8))


def test_layers_that_have_no_exact_form_are_refused() -> None:
    strided, grouped = nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Conv2d(2, 2, 3, padding=1, groups=2)
    for conv in (strided, grouped, nn.Conv2d(1, 1, 3)):
        with pytest.raises(ValueError, match="no exact form"):
            ExactConv(conv, 0)
    with pytest.raises(ValueError, match="too many inputs"):
        ExactLinear(nn.Linear(1 << 24, 1), 0)
    with pytest.raises(ValueError, match="sum of their squares"):
        ExactNorm(nn.LayerNorm(4096), 0)


def test_activations_saturate_and_a_broken_model_is_named() -> None:
    linear = nn.Linear(2, 1, bias=False)
    nn.init.ones_(linear.weight)
    assert ExactLinear(linear, 10)(torch.tensor([1e9, 0.0]).double()).item() == (2**15 - 1) / 2**10
    prior = make_prior()
    with Calibration(prior) as calibration:
        y, z = latents()
        prior(y * math.inf, z, Q)
    with pytest.raises(ValueError, match="the model is broken"):
        calibration.fractions()


def test_each_layer_is_near_its_float_form() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    for kernel in (1, 3, 5):
        conv = nn.Conv2d(6, 4, kernel, padding=kernel // 2).double()
        assert (conv(x) - ExactConv(conv, 12)(x)).abs().max() < 2e-3
    rows = x.flatten(2).mT
    for layer, form in ((nn.Linear(6, 3).double(), ExactLinear), (nn.LayerNorm(6).double(), ExactNorm)):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        assert (layer(rows) - form(layer, 12)(rows)).abs().max() < 5e-3
    q, k, v = torch.randn(3, 2, 4, 2, WINDOW**2 // 2, 8, dtype=torch.float64)
    visible = torch.rand(4, WINDOW**2 // 2) < 0.7
    visible[1] = False
    bias = LaplacianBias()()
    exact_form = ExactDotProduct(12)(q, k, v, bias, visible)
    assert (DotProduct()(q, k, v, bias, visible) - exact_form).abs().max() < 5e-3


def test_tables_of_exp_and_of_the_bias_are_correctly_rounded() -> None:
    table = exact.exp_table()
    assert table[0] == 1 << 15 and table[-1] == 0 and table[-2] == 1
    for i, value in enumerate(table):
        assert abs(value - (1 << 15) * math.exp(-i / 256)) < 0.5 + 1e-6
    for d, value in enumerate(exact.laplacian(1.7001953125, 0.89990234375, 14)):
        real = 4096 * 1.7001953125**2 * math.exp(-d / (2 * 0.89990234375**2 + 1e-6))
        assert abs(value - real) < 0.5 + 1e-6
    bias = LaplacianBias()
    assert (exact.ExactBias(bias)() - bias()).abs().max() < 1 / 4096


def test_elementwise_operations_round_as_ieee_754_asks() -> None:
    """Quotients, products, sums and differences are the float64 numbers nearest to the true ones."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(64, generator=generator, dtype=torch.float64) * 2.0**40
    b = torch.rand(64, generator=generator, dtype=torch.float64) + 0.1
    for x, y, quotient, product, total, difference in zip(
        *(t.tolist() for t in (a, b, a / b, a * b, a + b, a - b)), strict=True
    ):
        x, y = Fraction(x), Fraction(y)
        for value, true in ((quotient, x / y), (product, x * y), (total, x + y), (difference, x - y)):
            assert value == float(true)
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5], dtype=torch.float64)
    assert torch.round(halves).tolist() == [0, 2, 2, 0, -2]


def test_roots_are_those_of_integers() -> None:
    """One float64 root in seventy is rounded the wrong way by a vector library; here none may be."""
    generator = torch.Generator().manual_seed(0)
    roots = torch.randint(1, 2**26, (20_000,), generator=generator)
    x = torch.cat([roots**2, roots**2 - 1, roots**2 + 1, torch.arange(100)])
    assert exact.floor_root(x.double()).tolist() == [math.isqrt(v) for v in x.tolist()]


def test_no_sum_can_leave_the_exact_integers() -> None:
    _, prior = make_exact()
    for layer in prior.modules():
        if isinstance(layer, ExactConv | ExactLinear):
            assert torch.equal(layer.matrix, layer.matrix.round()) and layer.matrix.abs().max() <= 2**15
            assert (layer.matrix.abs().sum(1) * 2**15).max() < 2**53
    for a, b in itertools.pairwise(exact.exp_table()):
        assert a >= b
