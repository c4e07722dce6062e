"""The exact entropy model: close to the float one, the same in any order of sums, caught when it is not."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sfumato import exact
from sfumato.autoregressive import Array, autoregressive_pass
from sfumato.checks import Checksum
from sfumato.coder import Decoder, Encoder, Meter
from sfumato.container import Header
from sfumato.exact import Convolution, DotProduct, LayerNorm, Linear, Tree
from sfumato.latents import make_symbol_coder
from sfumato.scales import Tables
from tests.test_prior import latents, make_prior
from training.calibration import Calibration
from training.export import integers, laplacian
from training.networks import positions
from training.networks.layers import QualityEmbedding
from training.networks.prior import Prior

Q = 0.4
SUMS = (Linear, LayerNorm, DotProduct)


def arrays_of(prior: Prior) -> dict[str, np.ndarray]:
    with Calibration(prior) as calibration:
        prior(*latents(4, 4), torch.tensor([Q], dtype=torch.float64))
    fractions = {k.removeprefix("fractions."): int(v) for k, v in calibration.fractions().items()}
    return integers(prior, fractions)


def make_exact() -> tuple[Prior, Tree]:
    """A prior with fp16 values, as trained weights are, and its exact form."""
    prior = make_prior()
    for parameter in prior.parameters():
        parameter.copy_(parameter.half())
    return prior, exact.from_arrays(arrays_of(prior))


def passed(prior: Any, q: Array, y: Array, z: Array) -> list[np.ndarray]:
    """Every mean and scale index of a pass over given latents, unrounded."""
    seen: list[np.ndarray] = []

    def code(section: int, is_last: bool, mu: Array, index: Array, value: Array) -> Array:
        seen.extend(np.broadcast_to(np.asarray(part), value.shape) for part in (mu, index))
        mu = (mu * 256).round() / 256
        return mu + (value - mu).round()

    autoregressive_pass(prior, code, q, (z.shape[2], z.shape[3]), z, y)
    return seen


def layers(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[Tree, str, Any]]:
    """(parent, name, layer) of every layer."""
    for name, child in vars(tree).items():
        if isinstance(child, Tree):
            yield from layers(child, (*path, name))
        elif name != "_name":
            yield tree, name, child


class Noted:
    """A layer whose output goes into a checksum."""

    def __init__(self, layer: Any, note: Any) -> None:
        self.layer, self.note = layer, note
        self.heads = getattr(layer, "heads", None)

    def __call__(self, *inputs: Any) -> Any:
        out = self.layer(*inputs)
        self.note(out)
        return out


def fingerprint(tree: Tree, y: np.ndarray, z: np.ndarray) -> int:
    """CRC-32 over the bytes that every layer with a sum puts out, and over all that `passed` returns."""
    value = 0

    def note(array: np.ndarray) -> None:
        nonlocal value
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)

    found = list(layers(tree))
    for parent, name, layer in found:
        setattr(parent, name, Noted(layer, note))
    for array in passed(tree, Q, y, z):
        note(array)
    for parent, name, layer in found:
        setattr(parent, name, layer)
    return value


class Shuffled:
    """A layer whose sums run in another order: its inputs and its weights are permuted alike."""

    def __init__(self, layer: Any, seed: int) -> None:
        self.layer, self.seed = layer, seed
        self.heads = getattr(layer, "heads", None)

    def order(self, n: int) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(n)

    def __call__(self, x: np.ndarray, *more: np.ndarray) -> np.ndarray:
        layer = self.layer
        if isinstance(layer, DotProduct):
            k, v, bias, visible = more
            channels, keys = self.order(x.shape[-1]), self.order(k.shape[-2])
            # keys in another order, and the channels of the logits' sum; the values' channels stay
            k = k[..., keys, :][..., channels]
            return layer(x[..., channels], k, v[..., keys, :], bias[:, keys], visible[:, keys])
        if isinstance(layer, LayerNorm):
            channels = self.order(x.shape[-1])
            weight, bias = layer.weight, layer.bias
            layer.weight, layer.bias = weight[channels], bias[channels]
            y = layer(x[..., channels])
            layer.weight, layer.bias = weight, bias
            return y[..., channels.argsort()]
        matrix = layer.matrix
        taps = layer.kernel**2 if isinstance(layer, Convolution) else 1
        axis = 1 if isinstance(layer, Convolution) else -1
        channels = self.order(matrix.shape[1] // taps)
        layer.matrix = matrix.reshape(len(matrix), -1, taps)[:, channels].reshape(matrix.shape)
        y = layer(np.take(x, channels, axis))
        layer.matrix = matrix
        return y


def shuffled(tree: Tree, seed: int) -> Tree:
    """The same layers with every sum in another order."""
    for parent, name, layer in list(layers(tree)):
        if isinstance(layer, SUMS):
            setattr(parent, name, Shuffled(layer, seed))
    return tree


class SinglePrecision(Convolution):
    """Sums in float32, on weights and inputs in their own units."""

    def __init__(self, layer: Convolution) -> None:
        self.__dict__ |= vars(layer)

    def to_fixed(self, x: np.ndarray) -> np.ndarray:
        return (super().to_fixed(x) * self.unit).astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        matrix, unit = self.matrix, self.unit
        v = self.to_fixed(x).reshape(len(x), x.shape[1], -1)
        assert self.kernel == 1
        y = (matrix.astype(np.float32) @ v).astype(np.float64).reshape(len(x), -1, *x.shape[2:])
        self.unit = unit
        return y + self.bias[:, None, None]


def numpy_latents(h: int, w: int, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    y, z = latents(h, w, scale)
    return y.numpy(), z.numpy()


def test_the_exact_model_is_close_to_the_float_one() -> None:
    prior, tree = make_exact()
    y, z = latents(4, 4)
    ours = passed(tree, Q, y.numpy(), z.numpy())
    theirs = passed(prior, torch.tensor([Q], dtype=torch.float64), y, z)
    # one pass at a time: a mean that moves over a half changes a symbol, and with it all that follows
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        assert np.abs(a - b).max() < 0.01 * np.abs(a).max()


def test_any_order_of_sums_gives_the_same_bits() -> None:
    _, tree = make_exact()
    y, z = numpy_latents(3, 2)
    plain = fingerprint(tree, y, z)
    for seed in range(3):
        assert fingerprint(shuffled(make_exact()[1], seed), y, z) == plain


@pytest.mark.parametrize("name", ["hidden_projection", "in_projection"])
def test_one_float32_operation_is_caught(name: str) -> None:
    """The fingerprint sees what exactness is for: sums in float32 differ between two orders."""
    y, z = numpy_latents(3, 2)
    found = set()
    for seed in range(4):
        _, tree = make_exact()
        rounding = SinglePrecision(getattr(tree.chunks[3], name))
        setattr(tree.chunks[3], name, Shuffled(rounding, seed))
        found.add(fingerprint(tree, y, z))
    assert len(found) > 1


def test_layout_batch_and_strips_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tree = make_exact()
    y, z = numpy_latents(4, 3)
    plain = passed(tree, Q, y, z)
    last = passed(tree, Q, np.moveaxis(np.ascontiguousarray(np.moveaxis(y, 1, 3)), 3, 1), z)
    other = numpy_latents(4, 3, scale=1.0)
    batch = passed(tree, Q, np.concatenate([other[0], y]), np.concatenate([other[1], z]))
    monkeypatch.setattr(exact, "STRIP", 200)
    strips = passed(tree, Q, y, z)
    for a, b, c, d in zip(plain, last, batch, strips, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a[0], c[1]) and np.array_equal(a, d)


def test_the_order_of_the_arrays_does_not_matter() -> None:
    prior, tree = make_exact()
    y, z = numpy_latents(2, 2)
    backwards = dict(reversed(list(arrays_of(prior).items())))
    assert fingerprint(exact.from_arrays(backwards), y, z) is not None
    for a, b in zip(passed(tree, Q, y, z), passed(exact.from_arrays(backwards), Q, y, z), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("scale", [0.01, 3.0, 200.0])
def test_encoder_decoder_and_meter_agree(size: tuple[int, int], scale: float) -> None:
    _, tree = make_exact()
    tables = Tables.gaussian()
    y, z = numpy_latents(*size, scale)
    header = Header(size[1] * 64, size[0] * 64, 100, 1)

    def coded(coders: list, **values: np.ndarray) -> tuple[np.ndarray, int]:
        checksum = Checksum(header)
        done: list[int] = []
        code = make_symbol_coder(coders, checksum, done.append)
        y_hat, _ = autoregressive_pass(tree, code, Q, size, **values)
        assert done == list(range(len(header.sections)))
        return y_hat, checksum.value

    encoders = [Encoder(tables) for _ in header.sections]
    meters = [Meter(tables) for _ in header.sections]
    y_hat, check = coded(encoders, y=y, z=z)
    measured, _ = coded(meters, y=y, z=z)
    payloads = [encoder.finish() for encoder in encoders]
    decoded, check_decoded = coded([Decoder(tables, payload) for payload in payloads])
    assert np.array_equal(decoded, y_hat) and np.array_equal(measured, y_hat) and check == check_decoded
    assert np.abs(y_hat - y).max() <= 0.5
    assert np.array_equal(y_hat, np.rint(y_hat * 256) / 256), "y_hat lies on the dyadic grid"
    for payload, meter in zip(payloads, meters, strict=True):
        assert abs(8 * len(payload) - meter.bits) <= 8 + 0.001 * meter.bits


def test_layers_that_have_no_exact_form_are_refused_by_name() -> None:
    arrays = arrays_of(make_prior())
    with pytest.raises(ValueError, match=r"no exact form of layer norm with running_mean, weight"):
        exact.from_arrays(arrays | {f"norm.{part}": np.zeros(3, int) for part in ("weight", "running_mean")})
    with pytest.raises(ValueError, match=r"h_s\.up1\.weight is float64, not an array of integers"):
        exact.from_arrays(arrays | {"h_s.up1.weight": arrays["h_s.up1.weight"] / 2})
    with pytest.raises(ValueError, match=r"h_s\.up1: no exact form of a kernel of 2x2"):
        exact.from_arrays(arrays | {"h_s.up1.weight": np.ones((32, 4, 2, 2), np.int16)})
    with pytest.raises(ValueError, match=r"h_s\.up1: a sum may reach .* too many inputs"):
        exact.from_arrays(arrays | {"h_s.up1.weight": np.full((1, 1 << 24, 1, 1), 2**15 - 1, np.int16)})
    few = {k: v for k, v in arrays.items() if not k.startswith("chunks.2.hidden_projection.")}
    with pytest.raises(ValueError, match=r"the entropy model has no layer chunks\.2\.hidden_projection"):
        passed(exact.from_arrays(few), Q, *numpy_latents(1, 1))
    wide = np.ones(4096, np.int64)
    with pytest.raises(ValueError, match="sum of their squares"):
        LayerNorm(wide, wide, np.array(1), np.array(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(16),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="replicate"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_trained_layers_without_an_exact_form_are_refused_by_name(layer: nn.Module) -> None:
    prior = make_prior()
    fractions = {key.removesuffix(".fraction"): 8 for key in arrays_of(prior) if key.endswith(".fraction")}
    integers(prior, fractions)
    prior.chunks[1].hidden_projection = layer
    with pytest.raises(ValueError, match=r"layer chunks\.1\.hidden_projection has no exact form"):
        integers(prior, fractions)


def test_fractions_are_those_of_the_layers() -> None:
    prior = make_prior()
    fractions = {key.removesuffix(".fraction"): 8 for key in arrays_of(prior) if key.endswith(".fraction")}
    with pytest.raises(ValueError, match="fractions for layers that are not there: nowhere"):
        integers(prior, fractions | {"nowhere": 3})
    del fractions["h_s.up1"]
    with pytest.raises(ValueError, match=r"no fraction for layer h_s\.up1"):
        integers(prior, fractions)


def test_activations_saturate_and_a_broken_model_is_named() -> None:
    linear = Linear(np.full((1, 2), 2**14, np.int16), np.array(14), np.array(10))
    assert linear(np.array([1e9, 0.0])).item() == (2**15 - 1) / 2**10
    prior = make_prior()
    with Calibration(prior) as calibration:
        y, z = latents()
        prior(y * math.inf, z, torch.tensor([Q], dtype=torch.float64))
    with pytest.raises(ValueError, match="the model is broken"):
        calibration.fractions()


def test_each_layer_is_near_its_float_form() -> None:

    def exact_form(layer: nn.Module, name: str = "layer") -> Any:
        holder = nn.ModuleDict({name: layer})
        fractions = {} if isinstance(layer, QualityEmbedding) else {name: 12}
        return exact.from_arrays(integers(holder, fractions)).layer  # type: ignore[arg-type]

    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        for kernel in (1, 3, 5):
            conv = nn.Conv2d(6, 4, kernel, padding=kernel // 2).double()
            assert np.abs(conv(x).numpy() - exact_form(conv)(x.numpy())).max() < 4e-3
        rows = x.flatten(2).mT
        for layer in (nn.Linear(6, 3).double(), nn.LayerNorm(6).double()):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
            assert np.abs(layer(rows).numpy() - exact_form(layer)(rows.numpy())).max() < 8e-3
        curve = QualityEmbedding(3).double()
        nn.init.normal_(curve.embedding)
        for q in (0.0, 0.3, 0.5, 1.0):
            expected = curve(torch.tensor([q], dtype=torch.float64)).numpy()
            assert np.abs(expected - exact_form(curve)(q)).max() < 2e-3
        q, k, v = torch.randn(3, 2, 4, 2, 8**2 // 2, 8, dtype=torch.float64)
        visible = torch.rand(4, 8**2 // 2) < 0.7
        visible[1] = False
        bias = positions.LaplacianBias()()
        found = DotProduct(np.array(12), np.array(2))(*(t.numpy() for t in (q, k, v, bias, visible)))
        assert np.abs(positions.DotProduct()(q, k, v, bias, visible).numpy() - found).max() < 5e-3


def test_tables_of_exp_and_of_the_bias_are_correctly_rounded() -> None:
    table = exact.exp_table()
    assert table[0] == 1 << 15 and table[-1] == 0 and table[-2] == 1
    for i, value in enumerate(table):
        assert abs(value - (1 << 15) * math.exp(-i / 256)) < 0.5 + 1e-6
    for a, b in itertools.pairwise(table):
        assert a >= b
    for d, value in enumerate(laplacian(1.7001953125, 0.89990234375, 14)):
        real = 4096 * 1.7001953125**2 * math.exp(-d / (2 * 0.89990234375**2 + 1e-6))
        assert abs(value - real) < 0.5 + 1e-6
    bias = positions.LaplacianBias()
    found = exact.PositionBias(np.array(laplacian(1.0, 1.5, 14), np.int32))()
    assert np.abs(found - bias().detach().numpy()).max() < 1 / 4096


def test_elementwise_operations_round_as_ieee_754_asks() -> None:
    """Quotients, products, sums and differences are the float64 numbers nearest to the true ones."""
    generator = np.random.default_rng(0)
    a, b = generator.random(64) * 2.0**40, generator.random(64) + 0.1
    for x, y, quotient, product, total, difference in zip(
        *(t.tolist() for t in (a, b, a / b, a * b, a + b, a - b)), strict=True
    ):
        x, y = Fraction(x), Fraction(y)
        for value, true in ((quotient, x / y), (product, x * y), (total, x + y), (difference, x - y)):
            assert value == float(true)
    assert np.rint([0.5, 1.5, 2.5, -0.5, -1.5]).tolist() == [0, 2, 2, 0, -2]


def test_roots_are_those_of_integers() -> None:
    roots = np.random.default_rng(0).integers(1, 2**26, 20_000)
    x = np.concatenate([roots**2, roots**2 - 1, roots**2 + 1, np.arange(100)])
    assert exact.floor_root(x.astype(np.float64)).tolist() == [math.isqrt(v) for v in x.tolist()]


def test_a_root_that_the_machine_rounds_up_is_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    root = np.sqrt
    monkeypatch.setattr(np, "sqrt", lambda x: np.nextafter(root(x), np.inf))
    assert exact.floor_root(np.array([15.0, 16.0, 2.0**52 - 1])).tolist() == [3, 4, 2**26 - 1]


def test_no_sum_can_leave_the_exact_integers() -> None:
    _, tree = make_exact()
    for _, _, layer in layers(tree):
        if isinstance(layer, Linear):
            assert np.array_equal(layer.matrix, layer.matrix.round()) and np.abs(layer.matrix).max() <= 2**15
            assert (np.abs(layer.matrix).sum(1) * 2**15).max() < 2**53
