"""A trained entropy model in; the same in exact arithmetic out, which gives the same bits on every machine.

Floats differ between machines because sums are rounded after every addition and the order of the additions
is not fixed.  Three rules (FORMAT.md, arithmetic of version 2) take away every such choice:

1. Sums run over integers.  What enters a convolution, a linear layer, a norm or an attention is rounded to
   16-bit fixed point, weights are 16-bit integers, and all are held in float64.  No partial sum reaches
   2^53, so each is exact, whatever the order, the threads, the instructions or the library.
2. Everything else works element by element, with single IEEE 754 operations (+ - * /, comparison, rounding),
   which are defined to the last bit.  sqrt is not among them: the vector library behind torch's rounds one
   root in seventy the wrong way.
3. A root is that of an integer, rounded down and checked.  exp is a table of integers, and so is the
   Laplacian bias; both are made with big integers and decimals.

`convert` replaces the layers of a `Prior` and leaves its code as it is, so one walk serves both arithmetics.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sfumato.attention import OUTSIDE, DotProduct, LaplacianBias

BITS = 15
"""Magnitude bits of activations and weights; the sign is the sixteenth."""
MARGIN = 1
"""Bits kept free above the largest activation of the calibration."""
LIMIT = 2.0**53
"""Integers below this are exact in float64."""

Net = TypeVar("Net", bound=nn.Module)

EXP_STEP = 1 / 256
"""Step of the exp table, in nats."""
EXP_UNIT = 1 << BITS
"""exp(0) in the table."""
BIAS_UNIT = 1 << 12
"""1 in the table of the Laplacian bias."""
STRIP = 1 << 22
"""Largest number of values that a convolution lays out for one matrix product; bounds memory."""


class Calibrated(nn.Module):
    """What the exact layers share: how many bits their input has after the point."""

    def __init__(self, fraction: int) -> None:
        super().__init__()
        self.unit = 2.0**fraction

    def fixed(self, x: Tensor) -> Tensor:
        """x in units of 2^-fraction: integers in float64, saturated at 16 bits."""
        limit = 2.0**BITS - 1
        return (x * self.unit).round_().clamp_(-limit, limit)


class _Matrix(Calibrated):
    """Weights as 16-bit integers: [outputs, inputs] float64, and the bias in real units."""

    matrix: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, fraction: int) -> None:
        super().__init__(fraction)
        matrix, unit = integers(weight.detach().flatten(1))
        largest = matrix.abs().sum(1).max().item() * 2**BITS
        if largest >= LIMIT:
            raise ValueError(f"a sum may reach {largest:.3g}, beyond {LIMIT:.3g}: too many inputs")
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().double(), persistent=False)
        self.scale = 1 / (self.unit * unit)  # of a power of two: exact


class ExactLinear(_Matrix):
    """`nn.Linear`: [..., inputs] -> [..., outputs]."""

    def __init__(self, linear: nn.Linear, fraction: int) -> None:
        super().__init__(linear.weight, linear.bias, fraction)

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... o"]:
        y = (self.fixed(x) @ self.matrix.T).mul_(self.scale)
        return y if self.bias is None else y.add_(self.bias)


class ExactConv(_Matrix):
    """`nn.Conv2d` of stride 1 with zero padding that keeps the size, as one matrix product."""

    def __init__(self, conv: nn.Conv2d, fraction: int) -> None:
        kernel, other = conv.kernel_size
        same = (kernel // 2, kernel // 2)
        if kernel != other or conv.padding != same or conv.stride != (1, 1) or conv.groups != 1:
            raise ValueError(f"no exact form of {conv}: stride 1, one group and equal sizes are needed")
        super().__init__(conv.weight, conv.bias, fraction)
        self.kernel = kernel

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        v = self.fixed(x)
        height, width = x.shape[2:]
        if self.kernel == 1:
            y = (self.matrix @ v.flatten(2)).unflatten(2, (height, width))
        else:
            half = self.kernel // 2
            v = F.pad(v, (half, half, half, half))
            rows = max(1, STRIP // (x.shape[0] * self.matrix.shape[1] * width))
            strips = []
            for top in range(0, height, rows):
                strip = v[:, :, top : min(top + rows, height) + 2 * half]
                strips.append(self.matrix @ F.unfold(strip, self.kernel))
            y = torch.cat(strips, 2).unflatten(2, (height, width))
        y = y.mul_(self.scale)
        return y if self.bias is None else y.add_(self.bias[:, None, None])


class ExactNorm(Calibrated):
    """`nn.LayerNorm` over the last axis, from the exact sums of v and v^2."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.LayerNorm, fraction: int) -> None:
        super().__init__(fraction)
        self.register_buffer("weight", norm.weight.detach().double(), persistent=False)
        self.register_buffer("bias", norm.bias.detach().double(), persistent=False)
        n = norm.weight.numel()
        if 32 * n * n * 4.0**BITS >= LIMIT:
            raise ValueError(f"{n} channels: the sum of their squares may pass {LIMIT / 32:.3g}")
        self.eps = max(1, round(norm.eps * n * n * self.unit * self.unit))

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        v = self.fixed(x)
        n = v.shape[-1]
        total = v.sum(-1, keepdim=True)
        spread = n * (v * v).sum(-1, keepdim=True) - total * total  # n^2 times the variance
        deviation = floor_root(16 * (spread + self.eps)) * 0.25  # two more bits
        return (n * v - total).div_(deviation).mul_(self.weight).add_(self.bias)


class ExactDotProduct(Calibrated):
    """`attention.DotProduct`: integer logits, exp by table, one division a value."""

    exp: Tensor

    def __init__(self, fraction: int, heads: int = 1) -> None:
        super().__init__(fraction)
        self.heads = heads
        self.register_buffer("exp", torch.tensor(exp_table(), dtype=torch.float64), persistent=False)

    def forward(
        self,
        q: Float[Tensor, "b k m n d"],
        k: Float[Tensor, "b k m n d"],
        v: Float[Tensor, "b k m n d"],
        bias: Float[Tensor, "n n"],
        visible: Bool[Tensor, "k n"],
    ) -> Float[Tensor, "b k m n d"]:
        logits = (self.fixed(q) @ self.fixed(k).mT).mul_(1 / (self.unit * self.unit))
        logits = logits.mul_(1 / math.sqrt(q.shape[-1])).add_(bias)
        logits = logits.masked_fill_(~visible[:, None, None, :], OUTSIDE)
        below = (logits.amax(-1, keepdim=True) - logits).mul_(1 / EXP_STEP)
        weights = self.exp[below.round_().clamp_(max=len(self.exp) - 1).int()]
        return (weights @ self.fixed(v)).div_(weights.sum(-1, keepdim=True)).mul_(1 / self.unit)


class ExactBias(nn.Module):
    """`attention.LaplacianBias` as a table: a multiple of 2^-12 for each distance."""

    table: Tensor

    def __init__(self, bias: LaplacianBias) -> None:
        super().__init__()
        distance = bias.distance.long()
        values = laplacian(bias.amplitude.item(), bias.sigma.item(), int(distance.max()))
        table = torch.tensor(values, dtype=torch.float64) / BIAS_UNIT
        self.register_buffer("table", table[distance], persistent=False)

    def forward(self) -> Float[Tensor, "n n"]:
        return self.table


def integers(weight: Float[Tensor, "o i"]) -> tuple[Float[Tensor, "o i"], float]:
    """(weights in integer units, units to 1): the largest magnitude comes to 2^14 .. 2^15."""
    weight = weight.double()
    _, exponent = math.frexp(weight.abs().max().item())
    unit = 2.0 ** (BITS - exponent)
    return torch.round(weight * unit), unit


def floor_root(x: Tensor) -> Tensor:
    """floor(sqrt(x)) of integers 0 .. 2^52, whatever the last bit of the machine's own root is."""
    root = x.sqrt().floor()
    root = root - (root * root > x).double()
    return root + ((root + 1) * (root + 1) <= x).double()


@lru_cache(maxsize=1)
def exp_table() -> tuple[int, ...]:
    """round(2^15 exp(-i / 256)) for i = 0, 1, ... until it is 0, by products of 128-bit integers."""
    with localcontext() as context:
        context.prec = 60
        factor = int((Decimal(-EXP_STEP).exp() * (1 << 128)).to_integral_value())
    value, out = EXP_UNIT << 128, [EXP_UNIT]
    while out[-1]:
        value = value * factor >> 128
        out.append((value + (1 << 127)) >> 128)
    return tuple(out)


def laplacian(amplitude: float, sigma: float, furthest: int) -> list[int]:
    """round(2^12 A^2 exp(-d / (2 sigma^2))) for d = 0 .. furthest, correctly rounded by decimals."""
    with localcontext() as context:
        context.prec = 60
        height = Decimal(amplitude) ** 2 * BIAS_UNIT
        reach = 2 * Decimal(sigma) ** 2 + Decimal("1e-6")
        return [int((height * (-d / reach).exp()).to_integral_value()) for d in range(furthest + 1)]


def _calibrated_layers(prior: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that hold a sum, in the order of registration, which fixes the order of the fractions."""
    for name, module in prior.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm | DotProduct):
            yield name, module


class Calibration:
    """Notes the largest input of every layer while the float model runs; a context manager.

    with Calibration(prior) as calibration:
        prior(y, z, q)  # on training pictures, at several q
    fractions = calibration.fractions()
    """

    def __init__(self, prior: nn.Module) -> None:
        self._layers = dict(_calibrated_layers(prior))
        self._largest = dict.fromkeys(self._layers, 0.0)

    def __enter__(self) -> Calibration:
        self._hooks = [m.register_forward_pre_hook(self._note(n)) for n, m in self._layers.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[:3] if isinstance(module, DotProduct) else inputs[:1]  # without bias and mask
            largest = float(torch.stack([x.detach().abs().max() for x in values]).max())
            if not largest <= self._largest[name]:  # so that NaN is kept
                self._largest[name] = largest

        return note

    def fractions(self) -> Int[Tensor, " layers"]:
        """Bits after the point of each layer's input, int8, for `convert`."""
        found = []
        for name, largest in self._largest.items():
            if not math.isfinite(largest):
                raise ValueError(f"input of {name} is {largest}: the model is broken")
            found.append(max(-64, min(64, BITS - MARGIN - math.frexp(largest)[1])))
        return torch.tensor(found, dtype=torch.int8)


def convert(prior: Net, fractions: Int[Tensor, " layers"]) -> Net:
    """A copy of the prior in exact arithmetic (float64); the original is left as it is.

    `fractions` are those of a `Calibration` of the same prior; ValueError if their number is not that of its
    layers.  The parameters must be values that fp16 holds, as those of `model.load_weights` are.
    """
    layers = dict(_calibrated_layers(prior))
    if len(fractions) != len(layers):
        raise ValueError(f"{len(fractions)} fractions for {len(layers)} layers")
    exact = copy.deepcopy(prior).double()
    for (name, layer), fraction in zip(layers.items(), fractions.tolist(), strict=True):
        _replace(exact, name, _exact_form(layer, fraction))
    for name, module in list(prior.named_modules()):
        if isinstance(module, LaplacianBias):
            _replace(exact, name, ExactBias(module))
    return exact


def _exact_form(layer: nn.Module, fraction: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return ExactConv(layer, fraction)
    if isinstance(layer, nn.Linear):
        return ExactLinear(layer, fraction)
    if isinstance(layer, nn.LayerNorm):
        return ExactNorm(layer, fraction)
    assert isinstance(layer, DotProduct)
    return ExactDotProduct(fraction, layer.heads)


def _replace(root: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, new)
