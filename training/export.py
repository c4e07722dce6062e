"""Trained torch networks in; what is shipped out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.attention import DotProduct, LaplacianBias
from sfumato.fixed_point import BITS, PARAMETER_UNIT, TABLE_UNIT
from sfumato.layers import Curve
from sfumato.prior import Prior

STRUCTURE = (nn.ModuleList, nn.Sequential, nn.LeakyReLU)
"""Modules without parameters of their own whose work `autoregressive` does."""


def integers(prior: Prior, fractions: Mapping[str, int]) -> dict[str, NDArray[np.integer]]:
    """The entropy model as named integers, as `exact.from_arrays` reads them.

    `fractions` are the bits after the point of the input of each layer with a sum, by the layer's name.
    Parameters are rounded to fp16 first.  ValueError, naming it, for a layer without an exact form, and for
    fractions that are not those of the layers.
    """
    out: dict[str, NDArray[np.integer]] = {}
    used = set()

    def fraction(name: str) -> NDArray[np.integer]:
        if name not in fractions:
            raise ValueError(f"no fraction for layer {name}")
        used.add(name)
        return np.array(fractions[name], np.int8)

    for name, module in prior.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if isinstance(module, nn.Conv2d | nn.Linear):
            out |= {f"{name}.{part}": value for part, value in _matrix(name, module).items()}
            out[f"{name}.fraction"] = fraction(name)
        elif isinstance(module, nn.LayerNorm):
            n, precision = module.weight.numel(), fraction(name)
            out[f"{name}.weight"], out[f"{name}.bias"] = _parameter(module.weight), _parameter(module.bias)
            eps = max(1, round(module.eps * n * n * 4.0 ** int(precision)))
            out[f"{name}.eps"], out[f"{name}.fraction"] = np.array(eps, np.int64), precision
        elif isinstance(module, DotProduct):
            out[f"{name}.fraction"], out[f"{name}.heads"] = fraction(name), np.array(module.heads, np.int8)
        elif isinstance(module, LaplacianBias):
            amplitude, sigma = (float(p.detach().half()) for p in (module.amplitude, module.sigma))
            table = laplacian(amplitude, sigma, int(module.distance.max()))
            out[f"{name}.table"] = np.array(table, np.int32)
        elif isinstance(module, Curve):
            out[f"{name}.rows"] = _parameter(module.rows)
        elif own or not (isinstance(module, STRUCTURE) or list(module.children())):
            raise ValueError(f"layer {name} has no exact form: {type(module).__name__}")
    if unknown := sorted(set(fractions) - used):
        raise ValueError(f"fractions for layers that are not there: {', '.join(unknown)}")
    return dict(sorted(out.items()))


def _matrix(name: str, layer: nn.Conv2d | nn.Linear) -> dict[str, NDArray[np.integer]]:
    """Weights in units of 2^-exponent, so that the largest magnitude comes to 2^14 .. 2^15."""
    if isinstance(layer, nn.Conv2d):
        same = tuple(side // 2 for side in layer.kernel_size)
        plain = layer.stride == (1, 1) and layer.groups == 1 and layer.dilation == (1, 1)
        if not plain or layer.padding != same or layer.padding_mode != "zeros":
            need = "stride 1, one group, equal sizes by zero padding"
            raise ValueError(f"layer {name} has no exact form: {layer}; need {need}")
    weight = _half(layer.weight)
    exponent = BITS - math.frexp(float(np.abs(weight).max()))[1]
    whole = np.rint(weight * 2.0**exponent).astype(np.int16)
    out: dict[str, NDArray[np.integer]] = {"weight": whole, "exponent": np.array(exponent, np.int8)}
    return out if layer.bias is None else out | {"bias": _parameter(layer.bias)}


def _parameter(value: Tensor) -> NDArray[np.int64]:
    return (_half(value) / PARAMETER_UNIT).astype(np.int64)  # exact: fp16 numbers are such multiples


def _half(value: Tensor) -> NDArray[np.float64]:
    half: NDArray[np.float64] = value.detach().cpu().half().double().numpy()
    if not np.isfinite(half).all():
        raise ValueError("a parameter is not finite in fp16")
    return half


def laplacian(amplitude: float, sigma: float, furthest: int) -> list[int]:
    """round(2^12 A^2 exp(-d / (2 sigma^2 + 10^-6))) for d = 0 .. furthest, correctly rounded by decimals."""
    with localcontext() as context:
        context.prec = 60
        height = Decimal(amplitude) ** 2 / Decimal(TABLE_UNIT)
        reach = 2 * Decimal(sigma) ** 2 + Decimal("1e-6")
        return [int((height * (-d / reach).exp()).to_integral_value()) for d in range(furthest + 1)]
