"""A picture in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> LatentCoder.write -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> LatentCoder.read -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, arithmetic of version 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato import DEFAULT_MODEL, bands, container, image
from sfumato.container import Header
from sfumato.errors import FormatError
from sfumato.latents import RATIO, LatentCoder, quality
from sfumato.model import Weights, WeightsError, channels_last, load_weights, shipped
from sfumato.restoration import Restoration, joined, restore
from sfumato.tiles import cells
from sfumato.transform import HYPER_STRIDE, STRIDE, Synthesised

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of the whole is done, 0 .. 1."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in pixels from its top left corner."""

    x: int
    y: int
    width: int
    height: int

    def within(self, header: Header) -> Crop:
        """Itself; ValueError unless it is a part of the picture that has this header."""
        right, bottom = self.x + self.width, self.y + self.height
        inside = self.x >= 0 and self.y >= 0 and right <= header.width and bottom <= header.height
        if not inside or self.width < 1 or self.height < 1:
            size = f"{header.width}x{header.height}"
            raise ValueError(f"crop {self.x},{self.y},{self.width},{self.height} is no part of {size} pixels")
        return self

    def latents(self, header: Header, halo: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in cells of z: what the pixels depend on, `halo` pixels included."""
        rows, columns = cells(header.height, header.width)
        top, left = (max(0, side - halo) // HYPER_STRIDE for side in (self.y, self.x))
        bottom = min(rows, -(-(self.y + self.height + halo) // HYPER_STRIDE))
        right = min(columns, -(-(self.x + self.width + halo) // HYPER_STRIDE))
        return top, left, bottom, right


@dataclass(frozen=True)
class Latent:
    """A picture after g_a, before any gain: `Codec.encode` takes it at every q, and spares the analysis."""

    pixels: UInt8[np.ndarray, "height width 3"]
    model: int  # number of the weights that made y
    y: Float[Tensor, "1 m h w"]


class Codec:
    """Encoder and decoder for one set of weights.  Thread-safe: nothing changes after construction."""

    def __init__(self, weights: Weights) -> None:
        self.model_id = weights.model_id
        self.notes = weights.notes
        self._model = channels_last(weights.model)
        self._latent_coder = LatentCoder(weights)

    @property
    def preset(self) -> str:
        """Name of the networks' sizes."""
        return self._model.preset

    @property
    def has_denoiser(self) -> bool:
        """Whether the weights can do steps > 0."""
        return self._model.has_denoiser

    @torch.inference_mode()
    def transform(self, source: image.Source, progress: Progress | None = None) -> Latent:
        """A picture -> its latent, the part of `encode` that is the same for every q; errors as there."""
        pixels = image.read(source)
        height, width = pixels.shape[:2]
        Header(width, height, 0, self.model_id)  # refuses what is too large
        _tell(progress, "analysis", 0.0)

        def g_a(rows: slice) -> Tensor:
            x = image.pad(image.to_x(pixels[rows]), HYPER_STRIDE)
            return self._model.g_a(x.contiguous(memory_format=torch.channels_last))

        height, width = (side + -side % HYPER_STRIDE for side in (height, width))
        rows = bands.rows_of(width, HYPER_STRIDE)
        parts = list(bands.in_bands(g_a, height, rows, self._model.halo, down=STRIDE))
        return Latent(pixels, self.model_id, torch.cat(parts, 2))

    def encode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A picture -> the bytes of a file.

        source    a path, an open file, a Pillow image, uint8 [H, W], [H, W, 3] or [H, W, 4], or a Latent
        q         quality, 0 (smallest file) .. 1 (largest); kept to 1/255
        seed      of the decoder's noise, u32; None derives it from the file
        progress  called as the work goes on

        ValueError for a q or seed out of range or a picture over the format's limits; ImageError (a
        ValueError) for a picture that cannot be read.
        """
        return self._encode(source, q, seed, progress)[0]

    @torch.inference_mode()
    def encode_and_decode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
        """(data, decode(data)), as `encode` and `decode` at steps = 0 give them: one walk instead of two."""
        data, header, y_hat = self._encode(source, q, seed, progress)
        pixels = self._certain(y_hat, quality(header).float())
        return data, np.ascontiguousarray(pixels[: header.height, : header.width])

    @torch.inference_mode()
    def measure(self, source: image.Source | Latent, q: float = 0.5) -> list[float]:
        """Ideal bits of z and of each chunk at quality q: the rate without writing bytes."""
        latent, header = self._prepare(source, q, None, None)
        return self._latent_coder.measure(*self._latents(latent, quality(header).float()), header)

    @torch.inference_mode()
    def magnitude(self, latent: Latent, q: float) -> float:
        """How the rate goes, without a walk: sum of log2(1 + 4 e) / 2, e the mean of y^2 around a cell, 3x3.

        The bits of a file are a multiple of this that changes little from one q to the next.
        """
        y = latent.y * self._model.gain(torch.tensor([q], dtype=torch.float32))
        energy = avg_pool2d(y.square_(), 3, stride=1, padding=1, count_include_pad=False)
        return float(energy.mul_(4).log1p_().sum(dtype=torch.float64)) / math.log(4)

    @torch.inference_mode()
    def decode(
        self,
        data: bytes,
        steps: int = 0,
        realism: float = 1.0,
        partial: bool = False,
        progress: Progress | None = None,
        crop: Crop | None = None,
        eta: float = 0.0,
        chunks: int | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The bytes of a file -> the picture, 8-bit sRGB.

        steps     of the diffusion; 0 stops at the certain picture x_base
        realism   0 .. 1, from the most faithful picture to the most natural one (`Restoration`)
        partial   accept a file that is cut short: what is missing is replaced by what is expected
        crop      the part to decode, steps=0 only: of a large picture, only the tiles that it needs are read
        eta       0 .. 1, fresh noise at each step; 0 is deterministic
        chunks    0 .. 5, decode only so many chunks, faster, for a preview; None for all.  What follows them
                  is not looked at, and may be missing

        FormatError for a bad file; ValueError for a bad argument; WeightsError for steps > 0 with weights
        that hold no trained denoiser.
        """
        chosen = Restoration(steps, realism, eta)
        if steps and not self.has_denoiser:
            message = f"steps={steps}: the {self.preset} weights hold no trained denoiser, only steps=0"
            raise WeightsError(message)
        if steps and crop is not None:
            raise ValueError(f"steps={steps} works on whole pictures; a crop needs steps=0")
        if chunks is not None and not 0 <= chunks < len(container.SECTIONS):
            raise ValueError(f"chunks is {chunks}, not in 0..{len(container.SECTIONS) - 1}")
        file = container.unpack(data, partial=partial or chunks is not None)
        header = file.header
        part = Crop(0, 0, header.width, header.height) if crop is None else crop.within(header)
        if header.model != self.model_id:
            raise FormatError(f"written by model {header.model:08x}, these weights are {self.model_id:08x}")
        if not file.sections:
            raise FormatError("cut short before the end of section z: nothing to show")
        sections = file.sections if chunks is None else file.sections[: 1 + chunks]
        if chunks is not None and not partial and len(sections) <= chunks:
            have = f"{len(sections)} of {len(container.SECTIONS)} sections are whole"
            raise FormatError(f"cut short: {have}, chunks={chunks} needs {1 + chunks}")
        q = quality(header).float()
        read = _part(progress, "latents read", 0.0, 0.5)
        region = part.latents(header, self._model.halo)
        y_hat = self._latent_coder.read(header, sections, lambda tile: tile.meets(*region), read)
        _tell(progress, "synthesis", 0.5)
        if steps:
            certain = joined(self._synthesised(y_hat, q))

            def stepped(k: int) -> None:
                _tell(progress, f"step {k} of {steps}", 0.6 + 0.4 * k / steps)

            pixels = image.from_x(restore(self._model, certain, q, header.noise_seed, chosen, stepped))
        else:
            top, left, bottom, right = (RATIO * side for side in region)
            pixels = self._certain(y_hat[:, :, top:bottom, left:right], q)
            pixels = pixels[part.y - top * STRIDE :, part.x - left * STRIDE :]
        _tell(progress, "done", 1.0)
        return np.ascontiguousarray(pixels[: part.height, : part.width])

    def _prepare(
        self, source: image.Source | Latent, q: float, seed: int | None, progress: Progress | None
    ) -> tuple[Latent, Header]:
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}, not in 0..1")
        latent = source if isinstance(source, Latent) else self.transform(source, progress)
        if latent.model != self.model_id:
            raise ValueError(f"latent of model {latent.model:08x}, these weights are {self.model_id:08x}")
        height, width = latent.pixels.shape[:2]
        return latent, Header(width, height, round(q * 255), self.model_id, seed)

    def _latents(self, latent: Latent, q: Tensor) -> tuple[Tensor, Tensor]:
        """(y, z) in the domain of the gains."""
        y = latent.y * self._model.gain(q)
        return y, self._model.h_a(y)

    @torch.inference_mode()
    def _encode(
        self, source: image.Source | Latent, q: float, seed: int | None, progress: Progress | None
    ) -> tuple[bytes, Header, Tensor]:
        """The file, its header, and y_hat as its decoder will find it."""
        latent, header = self._prepare(source, q, seed, progress)
        written = _part(progress, "latents written", 0.3, 1.0)
        y, z = self._latents(latent, quality(header).float())
        sections, y_hat = self._latent_coder.write(y, z, header, written)
        return container.pack(header, sections), header, y_hat

    def _certain(self, y_hat: Tensor, q: Tensor) -> UInt8[np.ndarray, "h w 3"]:
        """x_base as a picture."""
        return np.concatenate([image.from_x(part.x_base) for part in self._synthesised(y_hat, q)])

    def _synthesised(self, y_hat: Tensor, q: Tensor) -> Iterator[Synthesised]:
        """What g_s makes of y_hat, band by band."""
        height, width = y_hat.shape[2:]
        rows = bands.rows_of(width * STRIDE, HYPER_STRIDE) // STRIDE
        for wide, keep in bands.bands(height, rows, self._model.halo // STRIDE):
            part = self._model.synthesise(y_hat[:, :, wide], q)
            yield part.rows(slice(STRIDE * keep.start, STRIDE * keep.stop))


def _part(progress: Progress | None, what: str, first: float, last: float) -> Callable[[float], None] | None:
    """A report of a stage that takes the work from `first` to `last`."""
    if progress is None:
        return None
    return lambda part: progress(what, first + (last - first) * part)


def _tell(progress: Progress | None, what: str, part: float) -> None:
    if progress is not None:
        progress(what, part)


@lru_cache(maxsize=4)
def load(name: str | Path = DEFAULT_MODEL) -> Codec:
    """The codec with the weights of this name (those in the package) or path; WeightsError if it cannot.

    Loaded once: a file that changes afterwards is not read again by this process.
    """
    return Codec(load_weights(name))


def encode(
    source: image.Source | Latent,
    q: float = 0.5,
    model: str | Path = DEFAULT_MODEL,
    seed: int | None = None,
    progress: Progress | None = None,
) -> bytes:
    """A picture -> the bytes of a file; see `Codec.encode`.  `model` names weights or is a path to them."""
    return load(model).encode(source, q, seed, progress)


def decode(
    data: bytes,
    steps: int = 0,
    realism: float = 1.0,
    partial: bool = False,
    model: str | Path | None = None,
    progress: Progress | None = None,
    crop: Crop | None = None,
    eta: float = 0.0,
    chunks: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The bytes of a file -> the picture; see `Codec.decode`.

    `model` is a path to weights that are not in the package; without it the file names its weights.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"decode takes the bytes of a file, got {type(data).__name__}; read the file first")
    data = bytes(data)
    return load(model or model_of(data)).decode(data, steps, realism, partial, progress, crop, eta, chunks)


def model_of(data: bytes) -> str:
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package."""
    wanted = container.unpack(data, partial=True).header.model
    names = shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
