"""An original and a decoded picture in, figures of quality out: the metrics of `metrics/`, by name.

    Judge(names, weights) -> original(picture) -> figures(original, decoded, names) -> {"psnr_db": 31.2, ...}

A metric that cannot be had (weights or a package are missing) is left out and told in `problems`.
"""

from __future__ import annotations

import importlib
import math
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from metrics import efficientnet, frechet, ssimulacra2, text
from metrics.distortion import MS_SSIM_MINIMUM_SIDE, ms_ssim, psnr
from metrics.dists import DISTS
from metrics.lpips import load_lpips
from sfumato.image import to_x

Picture = UInt8[np.ndarray, "h w 3"]

PICTURE_METRICS = ("psnr_db", "ms_ssim", "lpips_alex", "lpips_vgg", "dists", "ssimulacra2", "cer")
SET_METRICS = ("fd_efflite0", "kid")
ALL_METRICS = (*PICTURE_METRICS, *SET_METRICS)
FEATURE_BATCH = 64  # crops at once


@dataclass(frozen=True)
class Original:
    """A picture and what the metrics need of it, computed once for all its decoded versions."""

    picture: Picture
    features: dict[str, Any] = field(default_factory=dict)  # metric -> its own reference


class Judge:
    """The metrics that were asked for and can be had.

    `names`    of `ALL_METRICS`
    `weights`  folder of metric weights (`evaluation.weights`)

    `ready` are the names that can be had, `problems` a line for each of the others, `notes` a line for what a
    reader of the figures has to know.  Raises ValueError for an unknown name.
    """

    def __init__(self, names: Iterable[str], weights: Path) -> None:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in ALL_METRICS:
                raise ValueError(f"unknown metric {name!r}; known are {', '.join(ALL_METRICS)}")
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._nets: dict[str, Any] = {}
        self._reader: text.Reader | None = None
        self.ready = [name for name in wanted if self._load(name, weights)]

    @property
    def looks_at_sets(self) -> bool:
        """Whether a figure of whole sets was asked for, which `crop_features` are for."""
        return any(name in SET_METRICS for name in self.ready)

    @torch.inference_mode()
    def original(self, picture: Picture) -> Original:
        """What the metrics need of an original."""
        original = Original(picture)
        side = min(picture.shape[:2])
        for name in ("lpips_alex", "lpips_vgg", "dists"):
            if name in self.ready and side >= self._nets[name].backbone.minimum:
                original.features[name] = self._nets[name].reference(torch.from_numpy(to_x(picture)))
        if "ssimulacra2" in self.ready and side >= ssimulacra2.MINIMUM_SIDE:
            original.features["ssimulacra2"] = ssimulacra2.reference(picture)
        if self._reader is not None and text.has_text(words := self._reader.read(picture)):
            original.features["cer"] = words
        return original

    @torch.inference_mode()
    def figures(self, original: Original, decoded: Picture, names: Iterable[str]) -> dict[str, float]:
        """Metric -> figure; NaN where the picture is too small for it, or, for `cer`, holds no text.

        Raises ValueError for pictures of different sizes.
        """
        if decoded.shape != original.picture.shape:
            sizes = f"{list(decoded.shape)}, the original is {list(original.picture.shape)}"
            raise ValueError(f"decoded to {sizes}")
        return {name: self._figure(name, original, decoded) for name in names if name in PICTURE_METRICS}

    def crop_features(self, picture: Picture, side: int) -> Float[np.ndarray, "n 1280"]:
        """EfficientNet-Lite0 features of every crop (`metrics.frechet.crops`)."""
        tiles = frechet.crops(picture, side)
        batches = [self._nets["lite0"].features(batch) for batch in tiles.split(FEATURE_BATCH)]
        return torch.cat(batches).numpy() if len(tiles) else np.empty((0, efficientnet.FEATURES), np.float32)

    def _figure(self, name: str, original: Original, decoded: Picture) -> float:
        if name == "psnr_db":
            return psnr(original.picture, decoded)
        if name == "ms_ssim":
            big = min(decoded.shape[:2]) >= MS_SSIM_MINIMUM_SIDE
            return ms_ssim(original.picture, decoded) if big else math.nan
        if name not in original.features:
            return math.nan
        reference = original.features[name]
        if name == "ssimulacra2":
            return ssimulacra2.score(reference, decoded)
        if name == "cer":
            assert self._reader is not None
            return text.character_error_rate(reference, self._reader.read(decoded))
        return self._nets[name].distance(reference, torch.from_numpy(to_x(decoded))).item()

    def _load(self, name: str, weights: Path) -> bool:
        """Gets a metric ready; False, with a line in `problems`, when it cannot be had."""
        nets: dict[str, tuple[str, Callable[[], Any]]] = {
            "lpips_alex": ("lpips_alex", lambda: load_lpips("alex", weights)),
            "lpips_vgg": ("lpips_vgg", lambda: load_lpips("vgg", weights)),
            "dists": ("dists", lambda: DISTS(weights)),
            "fd_efflite0": ("lite0", lambda: efficientnet.load(weights)),
            "kid": ("lite0", lambda: efficientnet.load(weights)),
        }
        packages = {"ms_ssim": "pytorch_msssim", "cer": "rapidfuzz"}
        try:
            if name in nets and nets[name][0] not in self._nets:
                net = nets[name][1]().to(memory_format=torch.channels_last)
                self._nets[nets[name][0]] = net
            if name in packages:
                importlib.import_module(packages[name])
            if name == "cer":
                self._reader = text.find_reader()
                if self._reader is None:
                    raise LookupError("neither rapidocr-onnxruntime nor tesseract is installed")
                self.notes.append(f"cer: text as {self._reader.name} reads it; of pictures with text only")
        except FileNotFoundError as error:
            missing = str(error).partition(":")[0]
            self.problems.append(f"{name}: not measured, {missing} is missing (python -m evaluation weights)")
        except ModuleNotFoundError as error:
            self.problems.append(f"{name}: not measured, the package {error.name} is not installed")
        except (RuntimeError, KeyError, LookupError, ValueError) as error:
            self.problems.append(f"{name}: not measured, {str(error).splitlines()[0]}")
        return not any(line.startswith(f"{name}: ") for line in self.problems)


# What follows runs in the processes that judge: one judge each, and the original that came last.
_judge: Judge | None = None
_last: tuple[str, Original] | None = None


def start(names: tuple[str, ...], weights: Path) -> None:
    """First thing in a process.  `names` are those that a judge elsewhere found ready."""
    global _judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    torch.set_num_threads(1)
    _judge = Judge(names, weights)


def look(
    picture_id: str, picture: Picture, decoded: Picture, names: tuple[str, ...], crop_px: int
) -> tuple[dict[str, float], np.ndarray | None]:
    """Figures of one decoded picture, and features of its crops; `crop_px` 0: no features.

    `picture_id` tells whether the original is that of the last call, whose references are then used again.
    """
    global _last
    assert _judge is not None
    if _last is None or _last[0] != picture_id:
        _last = (picture_id, _judge.original(picture))
    figures = _judge.figures(_last[1], decoded, names)
    return figures, features(decoded, crop_px) if crop_px else None


def features(picture: Picture, crop_px: int) -> np.ndarray:
    """Features of the crops of one picture."""
    assert _judge is not None
    return _judge.crop_features(picture, crop_px)
