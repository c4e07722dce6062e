"""Perceptual distances as torch modules: a backbone, what is looked at of it, and LPIPS (Zhang et al. 2018).

With gradients, for training and evaluation; `sfumato.lpips` computes the same on numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.lpips import LENGTH_EPS, SCALE, SHIFT, weights_file


class Backbone(nn.Module):
    """A chain of layers of which some outputs are looked at.

        x -> features[0] -> ... -> features[feature_layers[0]] -> ... -> features[feature_layers[-1]]
                                        |                           |
                                    output 0                    last output

    `minimum` is the smallest side in pixels for which every tap has at least one position.
    """

    def __init__(self, layers: list[nn.Module], feature_layers: tuple[int, ...], minimum: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.feature_layers = feature_layers
        self.minimum = minimum

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps at `feature_layers`, each [b, c_i, h_i, w_i], all >= 0: each of them is a ReLU.

        `x` is normalised as the weights expect it.  A side under `minimum` raises ValueError.
        """
        height, width = x.shape[-2:]
        if min(height, width) < self.minimum:
            raise ValueError(f"sides of at least {self.minimum} pixels are needed, got {width}x{height}")
        outputs = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.feature_layers:
                outputs.append(x)
        return outputs


def alexnet() -> Backbone:
    """AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick"); relu1 .. relu5."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]
    return Backbone(layers, feature_layers=(1, 4, 7, 9, 11), minimum=31)


class PerceptualMetric(nn.Module, ABC):
    """A distance of two images by features, differentiable in the decoded one.

    Images are [B, 3, H, W], sRGB in [-1, 1].  Under autocast the convolutions run in the lower precision;
    everything after them is float32.
    """

    def forward(self, x: Float[Tensor, "b 3 h w"], x_hat: Float[Tensor, "b 3 _ _"]) -> Float[Tensor, " b"]:
        """Distance of each image.  Gradients flow to `x_hat` only: `x` is the original."""
        return self.distance(self.reference(x), x_hat)

    @torch.no_grad()
    def reference(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of the originals, one [b, c_i, h_i, w_i] float32 a layer, without gradients.

        A training step that compares several decoded images with one original computes them once.
        """
        return self.features(x)

    def distance(self, reference: list[Tensor], x_hat: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each `x_hat` from the original whose `reference` features are given; float32."""
        decoded = self.features(x_hat)
        for f, f_hat in zip(reference, decoded, strict=True):
            if f.shape != f_hat.shape:
                raise ValueError(f"features are {list(f.shape)} in x, {list(f_hat.shape)} in x_hat")
        return self.compare(reference, decoded)

    @abstractmethod
    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """What is compared, one [b, c_i, h_i, w_i] float32 a layer; gradients flow to `x`."""

    @abstractmethod
    def compare(self, reference: list[Tensor], decoded: list[Tensor]) -> Float[Tensor, " b"]:
        """Distance of two lists of `features`, one value an image; float32."""


class LPIPS(PerceptualMetric):
    """LPIPS v0.1 with fixed weights.

    Sides are at least `backbone.minimum` pixels.  Raises ValueError for a wrong shape or size.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone, linear_layers: dict[str, Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        rows = [linear_layers[f"lin{i}.model.1.weight"] for i in range(len(backbone.feature_layers))]
        self.linear_layers = nn.ParameterList(nn.Parameter(row, requires_grad=False) for row in rows)
        self.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None])
        self.eval()

    def compare(self, reference: list[Tensor], decoded: list[Tensor]) -> Float[Tensor, " b"]:
        """Distance of two lists of `features`, one value an image; float32."""
        total = torch.zeros(len(decoded[0]), device=decoded[0].device)
        for f, f_hat, head in zip(reference, decoded, self.linear_layers, strict=True):
            # eq. 1: a 1x1 convolution without bias, written as a sum so that autocast leaves it in float32
            total = total + ((f - f_hat).square() * head).sum(1).mean((1, 2))
        return total

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Normalised features, one [b, c_i, h_i, w_i] float32 a layer; gradients flow to `x`."""
        return [_unit(f.float()) for f in self.backbone((x.float() - self.shift) / self.scale)]


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file, as float32.

    A missing file raises FileNotFoundError, which names the file and says what has to be in it.
    """
    return {key: tensor.float() for key, tensor in load_file(weights_file(folder, name)).items()}


def frozen(build: Callable[[], Backbone], weights: dict[str, Tensor]) -> Backbone:
    """A backbone with its weights, frozen, in evaluation mode.  RuntimeError for weights that do not fit."""
    with torch.device("meta"):  # no time spent on initial values that are replaced in the next line
        backbone = build()
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval().requires_grad_(False)


def _unit(f: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Every position's feature vector scaled to length 1; the zero vector stays zero."""
    return f * (f.square().sum(1, keepdim=True) + LENGTH_EPS).rsqrt()
