"""The entropy model, run on training images, in; the fixed-point fractions of its exact form out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sfumato.exact import BITS
from training.networks.positions import DotProduct

MARGIN = 1
"""Bits kept free above the largest activation of the calibration."""


def layers_with_sums(prior: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those whose input becomes fixed-point, by name."""
    for name, module in prior.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm | DotProduct):
            yield name, module


class Calibration:
    """Notes the largest input of every layer while the float model runs; a context manager.

    with Calibration(prior) as calibration:
        prior(y, z, q)  # on training images, at several q
    fractions = calibration.fractions()
    """

    def __init__(self, prior: nn.Module) -> None:
        self._layers = dict(layers_with_sums(prior))
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

    def fractions(self) -> dict[str, Tensor]:
        """Bits after the point of each layer's input, int8 [], as `fractions.LAYER`."""
        found = {}
        for name, largest in self._largest.items():
            if not math.isfinite(largest):
                raise ValueError(f"input of {name} is {largest}: the model is broken")
            fraction = max(-64, min(64, BITS - MARGIN - math.frexp(largest)[1]))
            found[f"fractions.{name}"] = torch.tensor(fraction, dtype=torch.int8)
        return found
