"""The table of metrics, and a suite of those that are asked for.

    MetricSuite(names, weights) -> reference(x) -> compute(reference, x_hat) -> {"psnr_db": 31.2, ...}

To add a metric, add a line to METRICS: CSV columns, curves, tables, plots and the report follow from it.
Networks and torch are imported when a metric is loaded, not before.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from sfumato.image import to_x

RGB = UInt8[np.ndarray, "h w 3"]
FEATURE_BATCH = 64  # crops at once


class Scorer(Protocol):
    """A metric of single images, ready to use."""

    def reference(self, x: RGB) -> Any:
        """What the metric needs of an original, once for all its decoded forms; None: no value here."""

    def score(self, reference: Any, x_hat: RGB) -> float:
        """The metric value of a decoded image."""


@dataclass(frozen=True)
class Metric:
    """A line of METRICS.

    `load` takes the folder of metric weights and returns a Scorer.  It may raise FileNotFoundError,
    ModuleNotFoundError, RuntimeError, ValueError or LookupError where the metric cannot be had.  For a metric
    of whole data sets it returns the network of the crop features, and `distance` makes of the originals'
    features an object with `distance(features)`.
    """

    title: str  # with its unit, a heading of tables and plots
    sign: int  # 1: higher is better, -1: lower is better
    load: Callable[[Path], Any]
    digits: int = 4
    distance: Callable[[np.ndarray], Any] | None = None
    most: float = math.inf  # what an image counts with in means at most


@dataclass(frozen=True)
class PairMetric:
    """`function(prepare(x), x_hat)`; images with a smaller side than `minimum` pixels have no value."""

    function: Callable[[Any, RGB], float]
    minimum: int = 1
    prepare: Callable[[RGB], Any] = lambda x: x

    def reference(self, x: RGB) -> Any:
        return self.prepare(x) if min(x.shape[:2]) >= self.minimum else None

    def score(self, reference: Any, x_hat: RGB) -> float:
        return self.function(reference, x_hat)


class _Perceptual:
    """A `metrics.perceptual.PerceptualMetric`."""

    def __init__(self, net: Any) -> None:
        import torch

        self._net, self._torch = net.to(memory_format=torch.channels_last), torch

    def reference(self, x: RGB) -> Any:
        if min(x.shape[:2]) < self._net.backbone.minimum:
            return None
        with self._torch.inference_mode():
            return self._net.reference(self._torch.from_numpy(to_x(x)))

    def score(self, reference: Any, x_hat: RGB) -> float:
        with self._torch.inference_mode():
            return float(self._net.distance(reference, self._torch.from_numpy(to_x(x_hat))))


class _CharacterErrors:
    """Text as an OCR engine reads it; images without text have no value."""

    def __init__(self) -> None:
        from metrics import text

        importlib.import_module("rapidfuzz")
        reader = text.find_reader()
        if reader is None:
            raise LookupError("neither rapidocr-onnxruntime nor tesseract is installed")
        self._text, self._reader = text, reader
        self.note = f"text as {reader.name} reads it; of images with text only"

    def reference(self, x: RGB) -> str | None:
        words = self._reader.read(x)
        return words if self._text.has_text(words) else None

    def score(self, reference: str, x_hat: RGB) -> float:
        return self._text.character_error_rate(reference, self._reader.read(x_hat))


def _psnr(weights: Path) -> Scorer:
    from metrics.distortion import psnr

    return PairMetric(psnr)


def _ms_ssim(weights: Path) -> Scorer:
    from metrics.distortion import MS_SSIM_MINIMUM_SIDE, ms_ssim

    importlib.import_module("pytorch_msssim")
    return PairMetric(ms_ssim, MS_SSIM_MINIMUM_SIDE)


def _lpips(net: Any) -> Callable[[Path], Scorer]:
    def load(weights: Path) -> Scorer:
        from metrics.lpips import load_lpips

        return _Perceptual(load_lpips(net, weights))

    return load


def _dists(weights: Path) -> Scorer:
    from metrics.dists import DISTS

    return _Perceptual(DISTS(weights))


def _ssimulacra2(weights: Path) -> Scorer:
    from metrics.ssimulacra2 import MINIMUM_SIDE, reference, score

    return PairMetric(score, MINIMUM_SIDE, reference)


def _distance(name: str) -> Callable[[np.ndarray], Any]:
    def make(features: np.ndarray) -> Any:
        return getattr(importlib.import_module("metrics.frechet"), name)(features)

    return make


@cache
def _efficientnet(weights: Path) -> Any:
    from metrics import efficientnet

    return efficientnet.load(weights)


METRICS = {
    "psnr_db": Metric("PSNR of RGB, dB", 1, _psnr, 2, most=10 * math.log10(255**2 * 12)),  # that of rounding
    "ms_ssim": Metric("MS-SSIM", 1, _ms_ssim),
    "lpips_alex": Metric("LPIPS (AlexNet)", -1, _lpips("alex")),
    "lpips_vgg": Metric("LPIPS (VGG)", -1, _lpips("vgg")),
    "dists": Metric("DISTS", -1, _dists),
    "ssimulacra2": Metric("SSIMULACRA 2", 1, _ssimulacra2, 2),
    "cer": Metric("character error rate", -1, lambda weights: _CharacterErrors(), 3),
    "fd_efflite0": Metric("FD-EffLite0", -1, _efficientnet, 2, _distance("Frechet")),
    "kid": Metric("KID-EffLite0", -1, _efficientnet, distance=_distance("KernelDistance")),
}


def image_metrics() -> list[str]:
    """Names of the metrics of single images."""
    return [name for name, metric in METRICS.items() if metric.distance is None]


def dataset_metrics() -> list[str]:
    """Names of the metrics of whole data sets."""
    return [name for name, metric in METRICS.items() if metric.distance is not None]


@dataclass(frozen=True)
class Reference:
    """An original and what the metrics need of it."""

    image: RGB
    values: dict[str, Any] = field(default_factory=dict)  # metric -> its own


class MetricSuite:
    """The metrics that were asked for and can be had.

    `names`    of METRICS
    `weights`  folder of metric weights (`python -m evaluation weights`)

    `ready` are the names that can be had, `warnings` a line for each of the others and `notes` a line for
    what a reader of the values has to know.  Raises ValueError for an unknown name.
    """

    def __init__(self, names: Iterable[str], weights: Path) -> None:
        names = list(dict.fromkeys(names))
        if unknown := [name for name in names if name not in METRICS]:
            raise ValueError(f"unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._weights = weights
        self._loaded: dict[str, Any] = {}
        for name in names:
            try:
                self._loaded[name] = METRICS[name].load(weights)
                if note := getattr(self._loaded[name], "note", ""):
                    self.notes.append(f"{name}: {note}")
            except FileNotFoundError as error:
                missing = str(error).partition(":")[0]
                self.warnings.append(
                    f"{name}: not measured, {missing} is missing (python -m evaluation weights)"
                )
            except ModuleNotFoundError as error:
                self.warnings.append(f"{name}: not measured, the package {error.name} is not installed")
            except (RuntimeError, LookupError, ValueError) as error:
                self.warnings.append(f"{name}: not measured, {str(error).splitlines()[0]}")
        self.ready = list(self._loaded)

    def reference(self, x: RGB) -> Reference:
        """What the metrics of single images need of an original."""
        own = {name: self._loaded[name].reference(x) for name in image_metrics() if name in self._loaded}
        return Reference(x, own)

    def compute(
        self, reference: Reference, x_hat: RGB, names: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Metric -> value, of `names` or all; NaN where the image is too small or, for `cer`, holds no text.

        Raises ValueError for images of different sizes.
        """
        if x_hat.shape != reference.image.shape:
            sizes = f"{list(x_hat.shape)}, the original is {list(reference.image.shape)}"
            raise ValueError(f"decoded to {sizes}")
        own = {name: reference.values[name] for name in names or reference.values if name in reference.values}
        return {
            name: math.nan if value is None else self._loaded[name].score(value, x_hat)
            for name, value in own.items()
        }

    def crop_features(self, image: RGB, side: int) -> Float[np.ndarray, "n 1280"]:
        """EfficientNet-Lite0 features of every crop (`metrics.frechet.crops`)."""
        import torch

        from metrics import efficientnet, frechet

        tiles = frechet.crops(image, side)
        if not len(tiles):
            return np.empty((0, efficientnet.FEATURES), np.float32)
        net = _efficientnet(self._weights)
        with torch.inference_mode():
            return torch.cat([net.features(batch) for batch in tiles.split(FEATURE_BATCH)]).numpy()
