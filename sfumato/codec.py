"""A picture in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> prior.walk(Encoder) -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> prior.walk(Decoder) -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, arithmetic of version 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato import DEFAULT_MODEL, container, exact, image, quantise, sampler, scales
from sfumato.coder import Coder, Decoder, Encoder, Meter
from sfumato.container import Checksum, Header, Section
from sfumato.errors import FormatError
from sfumato.model import Weights, WeightsError, channels_last, load_weights, shipped
from sfumato.prior import Code
from sfumato.transform import HYPER_STRIDE

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of the whole is done, 0 .. 1."""


@dataclass(frozen=True)
class Latent:
    """A picture after g_a, before any gain: `Codec.encode` takes it at every q, and spares the analysis."""

    width: int  # of the picture, pixels
    height: int
    model: int  # number of the weights that made it
    y: Float[Tensor, "1 m h w"]


class Codec:
    """Encoder and decoder for one set of weights.  Thread-safe: nothing changes after construction."""

    def __init__(self, weights: Weights) -> None:
        self.model_id = weights.model_id
        self.notes = weights.notes
        self._model = channels_last(weights.model)
        tables = dict(weights.tables)
        self._prior = exact.convert(weights.model.prior, tables.pop("fractions"))
        self._tables = scales.Tables.from_arrays(**{k: v.numpy() for k, v in tables.items()})

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
        """A picture -> its latent, the part of `encode` that is the same for every q.

        Sources and errors are those of `encode`.
        """
        pixels = image.read(source)
        height, width = pixels.shape[:2]
        Header(width, height, 0, self.model_id)  # refuses what is too large before the work
        _tell(progress, "analysis", 0.0)
        x = image.pad(image.to_x(pixels), HYPER_STRIDE).contiguous(memory_format=torch.channels_last)
        return Latent(width, height, self.model_id, self._model.g_a(x))

    @torch.inference_mode()
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
        latent, header = self._prepare(source, q, seed, progress)
        return self._pack(latent, header, progress)[0]

    @torch.inference_mode()
    def encode_and_decode(
        self, source: image.Source | Latent, q: float = 0.5, seed: int | None = None
    ) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
        """(data, decode(data)), as `encode` and `decode` at steps = 0 give them: one walk instead of two."""
        latent, header = self._prepare(source, q, seed, None)
        data, y_hat = self._pack(latent, header, None)
        x_base = self._model.synthesise(y_hat.float(), _quality(header).float()).x_base
        return data, image.from_x(image.crop(x_base, header.height, header.width))

    @torch.inference_mode()
    def measure(self, source: image.Source | Latent, q: float = 0.5) -> list[float]:
        """Ideal bits of z and of each chunk at quality q: the rate without writing bytes."""
        latent, header = self._prepare(source, q, None, None)
        meters = [Meter(self._tables) for _ in container.SECTIONS]
        self._write(latent, header, meters, None)
        return [meter.bits for meter in meters]

    @torch.inference_mode()
    def magnitude(self, latent: Latent, q: float) -> float:
        """How the rate goes, without a walk: sum of log2(1 + 4 e) / 2, e the mean of y^2 around a cell, 3x3.

        Bits of a file are 1 to 2 times this for photographs, and the factor changes little from one q to the
        next of the same picture.
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
        chunks: int | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The bytes of a file -> the picture, 8-bit sRGB.

        steps     of the diffusion; 0 stops at the certain picture x_base
        realism   0 .. 1, temperature of the noise that the diffusion starts from
        partial   accept a file that is cut short: what is missing is replaced by what is expected
        chunks    0 .. 5, decode only so many chunks, faster, for a preview; None for all.  What follows them
                  is not looked at, and may be missing

        FormatError for a bad file; ValueError for a bad argument; WeightsError for steps > 0 with weights
        that hold no trained denoiser.
        """
        if steps < 0 or not 0 <= realism <= 1:
            raise ValueError(f"need steps >= 0 and realism in 0..1, got {steps} and {realism}")
        if steps and not self.has_denoiser:
            message = f"steps={steps}: the {self.preset} weights hold no trained denoiser, only steps=0"
            raise WeightsError(message)
        if chunks is not None and not 0 <= chunks < len(container.SECTIONS):
            raise ValueError(f"chunks is {chunks}, not in 0..{len(container.SECTIONS) - 1}")
        file = container.unpack(data, partial=partial or chunks is not None)
        header = file.header
        if header.model != self.model_id:
            raise FormatError(f"written by model {header.model:08x}, these weights are {self.model_id:08x}")
        if not file.sections:
            raise FormatError("cut short before the end of section z: nothing to show")
        sections = file.sections if chunks is None else file.sections[: 1 + chunks]
        if chunks is not None and not partial and len(sections) <= chunks:
            have = f"{len(sections)} of {len(container.SECTIONS)} sections are whole"
            raise FormatError(f"cut short: {have}, chunks={chunks} needs {1 + chunks}")
        q = _quality(header).float()
        y_hat = self._read(header, sections, progress)
        _tell(progress, "synthesis", 0.5)
        x_base, features = self._model.synthesise(y_hat.float(), q)
        x_hat = x_base
        if steps:
            x_hat = self._denoise(x_base, features, q, header.noise_seed, steps, realism, progress)
        _tell(progress, "done", 1.0)
        return image.from_x(image.crop(x_hat, header.height, header.width))

    def _prepare(
        self, source: image.Source | Latent, q: float, seed: int | None, progress: Progress | None
    ) -> tuple[Latent, Header]:
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}, not in 0..1")
        latent = source if isinstance(source, Latent) else self.transform(source, progress)
        if latent.model != self.model_id:
            raise ValueError(f"latent of model {latent.model:08x}, these weights are {self.model_id:08x}")
        return latent, Header(latent.width, latent.height, round(q * 255), self.model_id, seed)

    def _pack(self, latent: Latent, header: Header, progress: Progress | None) -> tuple[bytes, Tensor]:
        """The file, and y_hat as its decoder will find it."""
        coders = [Encoder(self._tables) for _ in container.SECTIONS]
        checks, y_hat = self._write(latent, header, coders, progress)
        sections = [Section(c.finish(), check) for c, check in zip(coders, checks, strict=True)]
        return container.pack(header, sections), y_hat

    def _write(
        self, latent: Latent, header: Header, coders: Sequence[Coder], progress: Progress | None
    ) -> tuple[list[int], Tensor]:
        """Walk over a latent with `coders`; the check of each section, and y_hat."""
        q = _quality(header)
        y, z = self._model.hyper_analyse(latent.y, q.float())
        checksum = Checksum(header)
        checks = [0] * len(coders)

        def sealed(section: int) -> None:
            checks[section] = checksum.check(section)
            _tell(progress, f"{container.SECTIONS[section]} written", 0.3 + 0.7 * (section + 1) / len(coders))

        size = (z.shape[2], z.shape[3])
        step = _stepper(coders, checksum, sealed)
        return checks, self._prior.walk(step, q, size, z.double(), y.double())[0]

    def _read(self, header: Header, sections: Sequence[Section], progress: Progress | None) -> Tensor:
        """Walk over the latents with decoders; y_hat, with expected values where sections are missing."""
        coders = [Decoder(self._tables, section.payload) for section in sections]
        checksum = Checksum(header)

        def sealed(section: int) -> None:
            checksum.verify(section, sections[section])
            part = (section + 1) / len(container.SECTIONS)
            _tell(progress, f"{container.SECTIONS[section]} read", 0.5 * part)

        size = (math.ceil(header.height / HYPER_STRIDE), math.ceil(header.width / HYPER_STRIDE))
        step = _stepper(coders, checksum, sealed)
        return self._prior.walk(step, _quality(header), size, chunks=len(sections) - 1)[0]

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


def _quality(header: Header) -> Tensor:
    """q as both sides of the walk see it: the float64 nearest to q / 255 (FORMAT.md, section 1)."""
    return torch.tensor([header.q / 255], dtype=torch.float64)


def _stepper(coders: Sequence[Coder], checksum: Checksum, sealed: Callable[[int], None]) -> Code:
    """The step of the walk that codes symbols: real means and levels in, grid means and integers between."""

    def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        mu = quantise.snap(mu)
        index = quantise.hard(level).clamp(0, scales.LEVELS - 1)
        symbols = None
        if value is not None:
            limit = scales.SYMBOL_MAX
            symbols = quantise.hard(value - mu).clamp(-limit, limit)
        coded = index > 0
        if not coded.all():
            # at level 0 a symbol is all but surely zero: one flag instead of many symbols says that all are
            flag = None if symbols is None else _int32(symbols[~coded].any()[None])
            if coders[section].code(np.zeros(1, np.uint8), flag)[0]:
                coded.fill_(True)
        given = None if symbols is None else _int32(symbols[coded])
        found = coders[section].code(index[coded].to(torch.uint8).numpy(), given)
        checksum.update(found)
        if ends:
            sealed(section)
        y_hat = mu.clone()
        y_hat[coded] += torch.from_numpy(found)
        return y_hat

    return code


def _int32(x: Tensor) -> NDArray[np.int32]:
    return x.to(torch.int32).numpy()


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
    chunks: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The bytes of a file -> the picture; see `Codec.decode`.

    `model` is a path to weights that are not in the package; without it the file names its weights.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"decode takes the bytes of a file, got {type(data).__name__}; read the file first")
    data = bytes(data)
    return load(model or model_of(data)).decode(data, steps, realism, partial, progress, chunks)


def model_of(data: bytes) -> str:
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package."""
    wanted = container.unpack(data, partial=True).header.model
    names = shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
