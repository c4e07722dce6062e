"""A file of weights in; everything that encoder and decoder need, checked, out; and back.

One safetensors file a model, tensors by name:

    entropy.*      the entropy model: integers (`exact.from_arrays`)
    tables.*       the coder's integer tables (`scales.Tables`)
    gain.embedding log of the quantiser's gain at evenly spaced q, fp16 [knots, channels]
    g_a.* h_a.* g_s.* denoiser.*     parameters of the transforms, fp16
    graph.g_a ...  what is computed with them: an ONNX graph each, without its parameters, uint8

and in its metadata what is no tensor: `Config`, ids and notes.  `training.export` writes such files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sfumato.diffusion import Blurring
from sfumato.errors import WeightsError
from sfumato.scales import Tables
from sfumato.tiles import CELL

FOLDER = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
FORMAT = "3"
"""Of the file of weights; the same as of the files that are coded with them (FORMAT.md)."""
NETWORKS = ("g_a", "h_a", "g_s", "denoiser")
DECISIVE = ("entropy.", "tables.", "gain.", "g_s.")
"""Tensors that decide symbols or base image, and so the model id."""

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Config:
    """What a decoder has to know of a model beside its tensors.

    chunks       channels of y, chunk by chunk
    z_channels   channels of z
    padding      of the transforms at the image's borders: "zeros" or "replicate"
    halos        pixels around a place at which a network's input still matters to its output, by network;
                 None: all of them
    predicts     what the denoiser predicts: "x" or "epsilon"
    sigma_b_max  standard deviation of the diffusion's blur at t = 1, pixels
    d_min        what the blur leaves of the highest frequencies
    logsnr_min   log(a_t^2 / sigma_t^2) at t = 1
    logsnr_max   and at t = 0
    t0           where the sampler starts, from x_base; 1: from noise alone
    times_power  of the sampler's times; 1: evenly spaced
    """

    chunks: tuple[int, ...]
    z_channels: int
    padding: str
    halos: Mapping[str, int | None]
    predicts: str
    sigma_b_max: float
    d_min: float
    logsnr_min: float
    logsnr_max: float
    t0: float
    times_power: float

    @property
    def channels(self) -> int:
        """Of y."""
        return sum(self.chunks)

    @property
    def halo(self) -> int:
        """Pixels around a part of the image that g_a and g_s need to see, a multiple of 64."""
        most = max(self.halos["g_a"] or 0, self.halos["g_s"] or 0)
        return -(-most // CELL) * CELL

    @property
    def schedule(self) -> Blurring:
        """The diffusion."""
        return Blurring(self.sigma_b_max, self.d_min, self.logsnr_min, self.logsnr_max)


@dataclass(frozen=True)
class Weights:
    """A model, read and checked.

    preset       name of the networks' sizes
    tensors      by name, as in the file
    costs        parameters and thousands of multiply-accumulates a pixel, by part
    position_bias  A and sigma of the Laplacian position bias of each chunk
    notes        how the weights came to be
    """

    preset: str
    config: Config
    tensors: Tensors
    costs: tuple[Mapping[str, Any], ...] = ()
    position_bias: tuple[tuple[float, float], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, NDArray[Any]]:
        """The tensors under `name.`, by the rest of their names."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    @property
    def has_denoiser(self) -> bool:
        """Whether there is a trained denoiser; steps > 0 need it."""
        return "graph.denoiser" in self.tensors

    @property
    def tables(self) -> Tables:
        """The coder's tables; ValueError if they are malformed."""
        return Tables.from_arrays(**self.part("tables"))

    @property
    def model_id(self) -> int:
        """u32, as in the header of a file: what decides symbols and base image, and no more.

        The first 4 bytes of a SHA-256 over names, types, shapes and bytes of the decisive tensors in the
        order of names, and over chunks and padding.  So a better encoder or denoiser serves the files that
        are there.
        """
        known = {"chunks": list(self.config.chunks), "padding": self.config.padding}
        decisive = {k: v for k, v in self.tensors.items() if k.startswith(DECISIVE)}
        return int(_fingerprint(decisive, known), 16)

    @property
    def denoiser_id(self) -> str:
        """8 hex digits, made alike of the denoiser and the diffusion; empty where there is none."""
        if not self.has_denoiser:
            return ""
        names = ("predicts", "sigma_b_max", "d_min", "logsnr_min", "logsnr_max", "t0", "times_power")
        known = {name: getattr(self.config, name) for name in names}
        return _fingerprint({k: v for k, v in self.tensors.items() if k.startswith("denoiser.")}, known)


def to_bytes(weights: Weights) -> bytes:
    """The file of these weights."""
    metadata = {
        "format": FORMAT,
        "preset": weights.preset,
        "model_id": f"{weights.model_id:08x}",
        "denoiser_id": weights.denoiser_id,
        "checksum": _fingerprint(weights.tensors, {}),
        "config": json.dumps(asdict(weights.config), sort_keys=True),
        "costs": json.dumps(list(map(dict, weights.costs))),
        "position_bias": json.dumps(weights.position_bias),
        "notes": json.dumps(dict(weights.notes), sort_keys=True),
    }
    return save({k: np.array(v, order="C") for k, v in sorted(weights.tensors.items())}, metadata)


def read_weights(name: str | Path) -> Weights:
    """Weights by preset name (those in the package) or by path; WeightsError if they cannot be used."""
    path = Path(name)
    if path.suffix != SUFFIX:
        path = FOLDER / f"{name}{SUFFIX}"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in FOLDER.glob(f"*{SUFFIX}"))) or "none"
        raise WeightsError(f"no weights {str(name)!r} at {path}; weights in this package: {have}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                hint = "`python -m training.export` makes trained weights such a file"
                raise WeightsError(f"{path} is no file of weights of version {FORMAT}; {hint}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(metadata["config"])
        config["chunks"] = tuple(config["chunks"])
        weights = Weights(
            metadata["preset"],
            Config(**config),
            tensors,
            tuple(json.loads(metadata["costs"])),
            tuple(map(tuple, json.loads(metadata["position_bias"]))),
            json.loads(metadata["notes"]),
        )
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is not a file of weights: {error}") from error
    named = tuple(metadata.get(name) for name in ("model_id", "denoiser_id", "checksum"))
    found = f"{weights.model_id:08x}", weights.denoiser_id, _fingerprint(tensors, {})
    if named != found:
        raise WeightsError(f"{path} is damaged: ids and checksum are {found}, it says {named}")
    missing = [f"graph.{name}" for name in NETWORKS[:3] if f"graph.{name}" not in tensors]
    if missing or "gain.embedding" not in tensors:
        raise WeightsError(f"{path} lacks {', '.join(missing) or 'gain.embedding'}")
    return weights


def shipped() -> dict[int, str]:
    """Model id -> name of every file of weights in the package."""
    found = {}
    for path in sorted(FOLDER.glob(f"*{SUFFIX}")):
        try:
            with safe_open(path, "np") as file:
                found[int((file.metadata() or {})["model_id"], 16)] = path.stem
        except (SafetensorError, KeyError, ValueError) as error:
            raise WeightsError(f"{path} is not a file of weights: {error}") from error
    return found


def _fingerprint(tensors: Tensors, known: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key}:{value.dtype.str}:{value.shape};".encode())
        digest.update(value.tobytes())
    return digest.digest()[:4].hex()
