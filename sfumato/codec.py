"""A picture in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> LatentCoder.write -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> LatentCoder.read -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, arithmetic of version 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sfumato import DEFAULT_MODEL, alpha, bands, container, image, sampler
from sfumato.container import Header
from sfumato.errors import FormatError
from sfumato.image import Picture
from sfumato.latents import RATIO, LatentCoder, quality
from sfumato.model import Weights, WeightsError, channels_last, load_weights, shipped
from sfumato.tiles import cells
from sfumato.transform import HYPER_STRIDE, STRIDE

TAGS = {"icc": "ICC ", "exif": "EXIF", "xmp": "XMP "}
"""Where a file keeps what comes with a picture (FORMAT.md, section 3)."""

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
    def encode(
        self,
        source: image.Source,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
        strip: bool = False,
    ) -> bytes:
        """A picture -> the bytes of a file.

        source    what `image.load` takes: a path, an open file, a Pillow image, an array, a Picture
        q         quality, 0 (smallest file) .. 1 (largest); kept to 1/255
        seed      of the decoder's noise, u32; None derives it from the file
        progress  called as the work goes on
        strip     leave out EXIF, XMP and the colour profile, after converting the colours to sRGB

        ValueError for a q or seed out of range or a picture over the format's limits; ImageError (a
        ValueError) for a picture that cannot be read.
        """
        picture = image.load(source)
        if strip:
            picture = image.strip(picture)
        pixels, header = self._prepare(picture, q, seed)
        entries = {tag: value for kind, tag in TAGS.items() if (value := getattr(picture, kind))}
        container.metadata_payload(entries)  # refuses what is too large before the work
        _tell(progress, "analysis", 0.0)
        y, z = self._latents(pixels, quality(header).float())
        written = _part(progress, "latents written", 0.3, 1.0)
        plane = None if picture.alpha is None else alpha.pack(picture.alpha)
        return container.pack(header, self._latent_coder.write(y, z, header, written), entries, plane)

    @torch.inference_mode()
    def measure(self, source: image.Source, q: float = 0.5) -> list[float]:
        """Ideal bits of z and of each chunk at quality q: the rate without writing bytes."""
        pixels, header = self._prepare(image.load(source), q, None)
        return self._latent_coder.measure(*self._latents(pixels, quality(header).float()), header)

    def decode(
        self,
        data: bytes,
        steps: int = 0,
        realism: float = 1.0,
        partial: bool = False,
        progress: Progress | None = None,
        crop: Crop | None = None,
    ) -> UInt8[np.ndarray, "h w *channels"]:
        """The bytes of a file -> uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

        As `decode_picture`, which also gives what came with the picture.
        """
        return self.decode_picture(data, steps, realism, partial, progress, crop).array

    @torch.inference_mode()
    def decode_picture(
        self,
        data: bytes,
        steps: int = 0,
        realism: float = 1.0,
        partial: bool = False,
        progress: Progress | None = None,
        crop: Crop | None = None,
    ) -> Picture:
        """The bytes of a file -> the picture, with its alpha, ICC, EXIF and XMP.

        steps     of the diffusion; 0 stops at the certain picture x_base
        realism   0 .. 1, temperature of the noise that the diffusion starts from
        partial   accept a file that is cut short: what is missing is replaced by what is expected, and a
                  missing alpha by an opaque one; the picture's remarks say so
        crop      the part to decode, steps=0 only: of a large picture, only the tiles that it needs are read

        FormatError for a bad file; ValueError for a bad argument; WeightsError for steps > 0 with weights
        that hold no trained denoiser.
        """
        if steps < 0 or not 0 <= realism <= 1:
            raise ValueError(f"need steps >= 0 and realism in 0..1, got {steps} and {realism}")
        if steps and not self.has_denoiser:
            message = f"steps={steps}: the {self.preset} weights hold no trained denoiser, only steps=0"
            raise WeightsError(message)
        if steps and crop is not None:
            raise ValueError(f"steps={steps} works on whole pictures; a crop needs steps=0")
        file = container.unpack(data, partial=partial)
        header = file.header
        part = Crop(0, 0, header.width, header.height) if crop is None else crop.within(header)
        if header.model != self.model_id:
            raise FormatError(f"written by model {header.model:08x}, these weights are {self.model_id:08x}")
        if not file.sections:
            raise FormatError("cut short before the end of section z: nothing to show")
        q = quality(header).float()
        read = _part(progress, "latents read", 0.0, 0.5)
        region = part.latents(header, self._model.halo)
        y_hat = self._latent_coder.read(header, file.sections, lambda tile: tile.meets(*region), read)
        _tell(progress, "synthesis", 0.5)
        if steps:
            x_base, features = self._model.synthesise(y_hat, q)
            x_hat = self._denoise(x_base, features, q, header.noise_seed, steps, realism, progress)
            pixels = image.from_x(x_hat)
        else:
            top, left, bottom, right = (RATIO * side for side in region)
            pixels = self._certain(y_hat[:, :, top:bottom, left:right], q)
            pixels = pixels[part.y - top * STRIDE :, part.x - left * STRIDE :]
        pixels = pixels[: part.height, : part.width]
        pixels = image.mean(pixels) if header.grey else np.ascontiguousarray(pixels)
        plane, remarks = None, []
        if not file.complete:
            remarks.append(f"cut short: {len(file.sections)} of {len(container.SECTIONS)} sections are shown")
        if file.alpha == b"":
            plane = np.full(pixels.shape[:2], 255, np.uint8)
            remarks.append("cut short before the end of alpha: shown opaque")
        elif file.alpha is not None:
            plane = alpha.unpack(file.alpha, header.height, header.width)
            plane = plane[part.y : part.y + part.height, part.x : part.x + part.width].copy()
        extras = {kind: file.metadata.get(tag) for kind, tag in TAGS.items()}
        _tell(progress, "done", 1.0)
        return Picture(pixels, plane, **extras, remarks=tuple(remarks))

    def _prepare(
        self, picture: Picture, q: float, seed: int | None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Header]:
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}, not in 0..1")
        if picture.alpha is not None:
            picture = replace(picture, pixels=alpha.fill(picture.pixels, picture.alpha))
        pixels = picture.rgb
        height, width = pixels.shape[:2]
        grey = not picture.icc and bool((pixels == pixels[..., :1]).all())
        header = Header(width, height, round(q * 255), self.model_id, seed, grey)  # refuses what is too large
        return pixels, header

    def _latents(self, pixels: UInt8[np.ndarray, "h w 3"], q: Tensor) -> tuple[Tensor, Tensor]:
        """(y, z) in the domain of the gains; g_a works in bands."""

        def g_a(rows: slice) -> Tensor:
            x = image.pad(image.to_x(pixels[rows]), HYPER_STRIDE)
            return self._model.g_a(x.contiguous(memory_format=torch.channels_last))

        height, width = (side + -side % HYPER_STRIDE for side in pixels.shape[:2])
        rows = bands.rows_of(width, HYPER_STRIDE)
        parts = list(bands.in_bands(g_a, height, rows, self._model.halo, down=STRIDE))
        y = torch.cat(parts, 2) * self._model.gain(q)
        return y, self._model.h_a(y)

    def _certain(self, y_hat: Tensor, q: Tensor) -> UInt8[np.ndarray, "h w 3"]:
        """x_base as a picture; g_s works in bands."""

        def g_s(rows: slice) -> Tensor:
            return self._model.synthesise(y_hat[:, :, rows], q).x_base

        height, width = y_hat.shape[2:]
        rows = bands.rows_of(width * STRIDE, HYPER_STRIDE) // STRIDE
        parts = bands.in_bands(g_s, height, rows, self._model.halo // STRIDE, up=STRIDE)
        return np.concatenate([image.from_x(part) for part in parts])

    def _denoise(
        self,
        x_base: Tensor,
        features: tuple[Tensor, ...],
        q: Tensor,
        seed: int,
        steps: int,
        realism: float,
        progress: Progress | None,
    ) -> Tensor:
        """The blurring diffusion from t0, deterministic given the noise that the seed stands for."""
        model, schedule = self._model, self._model.schedule
        t0 = model.config.t0

        def network(z_t: Tensor, t: Tensor) -> Tensor:
            return model.denoiser(z_t, t, q, x_base, features)

        def stepped(done: int, x_hat: Tensor) -> None:
            _tell(progress, f"step {done} of {steps}", 0.6 + 0.4 * done / steps)

        noise = sampler.noise(x_base.shape, seed)
        if t0 == 1:
            start = sampler.full_start(noise, realism)
        else:
            start = sampler.late_start(x_base, t0, noise, schedule, realism)
        f = sampler.from_epsilon(network, schedule) if model.denoiser.predicts == "epsilon" else network
        return sampler.deterministic(f, start, sampler.times(t0, steps), schedule, stepped)


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
    source: image.Source,
    q: float = 0.5,
    model: str | Path = DEFAULT_MODEL,
    seed: int | None = None,
    progress: Progress | None = None,
    strip: bool = False,
) -> bytes:
    """A picture -> the bytes of a file; see `Codec.encode`.  `model` names weights or is a path to them."""
    return load(model).encode(source, q, seed, progress, strip)


def decode(
    data: bytes,
    steps: int = 0,
    realism: float = 1.0,
    partial: bool = False,
    model: str | Path | None = None,
    progress: Progress | None = None,
    crop: Crop | None = None,
) -> UInt8[np.ndarray, "h w *channels"]:
    """The bytes of a file -> uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

    See `Codec.decode_picture`.  `model` is a path to weights that are not in the package; without it the
    file names its weights.
    """
    return decode_picture(data, steps, realism, partial, model, progress, crop).array


def decode_picture(
    data: bytes,
    steps: int = 0,
    realism: float = 1.0,
    partial: bool = False,
    model: str | Path | None = None,
    progress: Progress | None = None,
    crop: Crop | None = None,
) -> Picture:
    """As `decode`, with alpha, ICC, EXIF and XMP apart."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"decode takes the bytes of a file, got {type(data).__name__}; read the file first")
    data = bytes(data)
    return load(model or model_of(data)).decode_picture(data, steps, realism, partial, progress, crop)


def model_of(data: bytes) -> str:
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package."""
    wanted = container.unpack(data, partial=True).header.model
    names = shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
