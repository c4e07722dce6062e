"""A picture in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> LatentCoder.write -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> LatentCoder.read -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, section 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from sfumato import DEFAULT_MODEL, alpha, arguments, container, image, metadata, rounding
from sfumato.choices import Choices as Choices
from sfumato.choices import Crop as Crop
from sfumato.choices import Progress as Progress
from sfumato.choices import check_pixels
from sfumato.container import Header
from sfumato.errors import FormatError, WeightsError
from sfumato.image import Picture
from sfumato.latents import RATIO, LatentCoder, quality
from sfumato.restoration import Frame, Restoration, halo, restore
from sfumato.strips import map_strips, strip_height, strips
from sfumato.tiles import MAX_PIXELS
from sfumato.transforms import HYPER_STRIDE, STRIDE, Synthesised, Transforms
from sfumato.weights import Weights, read_weights, shipped

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

DEFAULT_STEPS = 1

QUIET = np.errstate(all="ignore")
"""Numbers that underflow are none of the host's business, whatever it has set (`np.seterr`)."""


@dataclass(frozen=True)
class Latent:
    """A picture after g_a, before any gain: `Codec.encode` takes it at every q, and spares the analysis."""

    pixels: UInt8[np.ndarray, "height width 3"]  # with a smooth filling where nothing is visible
    grey: bool  # whether a file of one channel is made
    alpha: bytes | None  # coded
    metadata: dict[str, bytes]
    model: int  # number of the weights that made y
    y: Float[np.ndarray, "1 m h w"]


class Codec:
    """Encoder and decoder for one set of weights; `providers` and `threads` as `Transforms` has them.

    Thread-safe; a forked process opens the networks anew.
    """

    def __init__(
        self, weights: Weights, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        self.preset = weights.preset  # name of the networks' sizes
        self.model_id = weights.model_id
        self.denoiser_id = weights.denoiser_id  # empty: no steps
        self.notes = weights.notes
        self._config = weights.config
        self._transforms = Transforms(weights, providers, threads)
        self._latent_coder = LatentCoder(weights)

    @QUIET
    def transform(
        self,
        source: image.Source,
        progress: Progress | None = None,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
    ) -> Latent:
        """A picture -> its latent, the part of `encode` that is the same for every q; errors as there."""
        rounding.check()
        picture = image.load(source, max_pixels)
        picture = image.without_tint(image.strip(picture) if strip else picture)
        extras = metadata.entries(picture)
        container.metadata_payload(extras)  # refuses what is too large before the work, as the header does
        height, width = picture.pixels.shape[:2]
        Header(width, height, 0, self.model_id)
        if picture.alpha is not None:
            picture = replace(picture, pixels=alpha.fill(picture.pixels, picture.alpha))
        pixels = picture.rgb
        grey = not picture.icc and bool((pixels == pixels[..., :1]).all())
        _tell(progress, "analysis", 0.0)

        def g_a(rows: slice) -> NDArray[np.float32]:
            return self._transforms.analyze(image.pad(image.to_x(pixels[rows]), HYPER_STRIDE))

        height, width = (side + -side % HYPER_STRIDE for side in (height, width))
        rows = strip_height(width, HYPER_STRIDE)
        y = map_strips(g_a, height, rows, self._config.halo, down=STRIDE)
        plane = None if picture.alpha is None else alpha.pack(picture.alpha)
        return Latent(pixels, grey, plane, extras, self.model_id, y)

    def encode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
    ) -> bytes:
        """A picture -> the bytes of a file.

        source    what `image.load` takes (a path, an open file, a Pillow image, an array, a Picture), or a
                  Latent
        q         quality, 0 (smallest file) .. 1 (largest); kept to 1/255
        seed      of the decoder's noise, u32; None derives it from the file
        progress  called as the work goes on
        strip     leave out what comes with the pixels, after converting the colours to sRGB
        max_pixels  of the file of a picture at most, as `image.load` has it; None: the format's limit

        ValueError for a q or seed out of range or a picture over the format's limits; ImageError (a
        ValueError) for a picture that cannot be read.
        """
        return self._encode(source, q, seed, progress, strip, max_pixels, reconstruct=False)[0]

    @QUIET
    def encode_and_decode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
        """(file, its picture as decoded by default, but RGB and without alpha): one pass instead of two."""
        data, header, y_hat = self._encode(source, q, seed, progress)
        pixels = self._pixels(y_hat, header, Restoration(self.default_steps))
        return data, np.ascontiguousarray(pixels[: header.height, : header.width])

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the range-coded sections of its files."""
        return Header(1, 1, 0, self.model_id, chunks=len(self._config.chunks)).sections

    @property
    def default_steps(self) -> int:
        """The `steps` of a whole file for which none are chosen (`Choices`)."""
        return DEFAULT_STEPS if self.denoiser_id else 0

    @QUIET
    def measure(self, source: image.Source | Latent, q: float = 0.5) -> list[float]:
        """Ideal bits of z and of each chunk at quality q: the rate without writing bytes."""
        latent, header = self._prepare(source, q)
        return self._latent_coder.measure(*self._latents(latent, quality(header)), header)

    @QUIET
    def magnitude(self, latent: Latent, q: float) -> float:
        """How the rate goes, without a pass: sum of log2(1 + 4 e) / 2, e the mean of y^2 around a cell, 3x3.

        The bits of a file are a multiple of this that changes little from one q to the next.
        """
        energy = np.square(latent.y * self._transforms.gain(q))
        count = np.ones((1, 1, *energy.shape[2:]), np.float32)  # of the cells around one that are inside
        for axis in (2, 3):
            energy, count = _neighbours(energy, axis), _neighbours(count, axis)
        return float(np.log1p(4 * energy / count).sum(dtype=np.float64)) / math.log(4)

    def decode(
        self, data: bytes, *, keep_profile: bool = False, **choices: Unpack[Choices]
    ) -> UInt8[np.ndarray, "h w *channels"]:
        """The bytes of a file -> sRGB, uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

        As `decode_picture`, which also gives what came with the picture.  `keep_profile` leaves the colours
        in the space of the file's own profile.
        """
        picture = self.decode_picture(data, **choices)
        return (picture if keep_profile else image.in_srgb(picture)).array

    @QUIET
    def decode_picture(self, data: bytes, **choices: Unpack[Choices]) -> Picture:
        """The bytes of a file -> the picture, with its alpha, ICC, EXIF and XMP; see `Choices`.

        FormatError for a bad file; ValueError for a bad argument; WeightsError for steps > 0 with weights
        that hold no trained denoiser.
        """
        rounding.check()
        arguments.check_choices(choices)
        partial, chunks, crop = choices.get("partial", False), choices.get("chunks"), choices.get("crop")
        steps, progress = choices.get("steps"), choices.get("progress")
        crop = Crop(*crop) if isinstance(crop, tuple) else crop
        chosen = Restoration(steps or 0, choices.get("realism", 1.0), choices.get("eta", 0.0))
        if steps and not self.denoiser_id:
            message = f"steps={steps}: the {self.preset} weights hold no trained denoiser, only steps=0"
            raise WeightsError(message)
        file = container.unpack(data, partial=partial or chunks is not None)
        header = file.header
        if chunks is not None and not 0 <= chunks <= header.chunks:
            raise ValueError(f"chunks is {chunks}, not in 0..{header.chunks}")
        part = Crop(0, 0, header.width, header.height) if crop is None else crop.within(header)
        if header.model != self.model_id:
            raise FormatError(f"written by model {header.model:08x}, these weights are {self.model_id:08x}")
        if header.chunks != len(self._config.chunks):
            raise FormatError(f"{header.chunks} chunks, the model has {len(self._config.chunks)}")
        if not file.sections:
            raise FormatError("cut short before the end of section z: nothing to show")
        sections = file.sections if chunks is None else file.sections[: 1 + chunks]
        if chunks is not None and not partial and len(sections) <= chunks:
            have = f"{len(sections)} of {len(header.sections)} sections are whole"
            raise FormatError(f"cut short: {have}, chunks={chunks} needs {1 + chunks}")
        if steps is None and file.complete and chunks is None:
            chosen = replace(chosen, steps=self.default_steps)
        seen = halo(self._config, chosen)
        if seen is None and crop is not None:
            raise ValueError(f"eta={chosen.eta:g} with these weights works on whole pictures, not on a crop")
        read = _part(progress, "latents read", 0.0, 0.5)
        around = self._config.halo + (seen or 0) + HYPER_STRIDE  # `seams` looks over the borders of tiles
        region = part.latents(header, around)
        check_pixels(file, None if crop is None else region, choices.get("max_pixels", MAX_PIXELS))
        y_hat = self._latent_coder.read(header, sections, lambda tile: tile.meets(*region), read)
        _tell(progress, "synthesis", 0.5)
        top, left, bottom, right = (RATIO * side for side in region)
        corner = top * STRIDE, left * STRIDE
        pixels = self._pixels(y_hat[:, :, top:bottom, left:right], header, chosen, corner, progress)
        pixels = pixels[part.y - top * STRIDE :, part.x - left * STRIDE :][: part.height, : part.width]
        pixels = image.mean(pixels) if header.grey else np.ascontiguousarray(pixels)
        plane, remarks = None, []
        if not file.complete and chunks is None:
            remarks.append(f"cut short: {len(file.sections)} of {len(header.sections)} sections are shown")
        if file.alpha == b"":
            plane = np.full(pixels.shape[:2], 255, np.uint8)
            remarks.append("cut short before the end of alpha: shown opaque")
        elif file.alpha is not None:
            plane = alpha.unpack(file.alpha, header.height, header.width)
            plane = plane[part.y : part.y + part.height, part.x : part.x + part.width].copy()
        extras = metadata.fields(file.metadata)
        if crop is not None and extras["exif"]:
            extras["exif"] = metadata.upright_exif(extras["exif"], crop=True)
        _tell(progress, "done", 1.0)
        return Picture(pixels, plane, **extras, remarks=tuple(remarks))

    def _prepare(
        self,
        source: image.Source | Latent,
        q: float,
        seed: int | None = None,
        progress: Progress | None = None,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
    ) -> tuple[Latent, Header]:
        rounding.check()
        arguments.number("q", q, 0, 1)
        arguments.integer("seed", seed, 0, 2**32 - 1)
        latent = source if isinstance(source, Latent) else self.transform(source, progress, strip, max_pixels)
        if latent.model != self.model_id:
            raise ValueError(f"latent of model {latent.model:08x}, these weights are {self.model_id:08x}")
        height, width = latent.pixels.shape[:2]
        chunks = len(self._config.chunks)
        return latent, Header(width, height, round(q * 255), self.model_id, seed, latent.grey, chunks)

    def _latents(self, latent: Latent, q: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(y, z) in the domain of the gains."""
        y = latent.y * self._transforms.gain(q)
        return y, self._transforms.hyper_analyze(y)

    @QUIET
    def _encode(
        self,
        source: image.Source | Latent,
        q: float,
        seed: int | None,
        progress: Progress | None,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
        reconstruct: bool = True,
    ) -> tuple[bytes, Header, NDArray[np.float32]]:
        """The file, its header, and y_hat, if it is wanted as its decoder will find it."""
        latent, header = self._prepare(source, q, seed, progress, strip, max_pixels)
        written = _part(progress, "latents written", 0.3, 1.0)
        y, z = self._latents(latent, quality(header))
        sections, y_hat = self._latent_coder.write(y, z, header, written, reconstruct)
        return container.pack(header, sections, latent.metadata, latent.alpha), header, y_hat

    def _pixels(
        self,
        y_hat: NDArray[np.float32],
        header: Header,
        chosen: Restoration,
        corner: tuple[int, int] = (0, 0),
        progress: Progress | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of y_hat, or of a part of it whose first row and column in pixels these are."""
        q = quality(header)
        height, width = (side + -side % HYPER_STRIDE for side in (header.height, header.width))
        parts = self._synthesised(y_hat, q, 4 * (halo(self._config, chosen) or 0))
        told = _part(progress, "restoration", 0.5, 1.0)
        frame = Frame(height, width, *corner)
        seed = header.noise_seed
        restored = restore(self._transforms, self._config, parts, q, seed, chosen, frame, told)
        return np.concatenate([image.from_x(x) for x in restored])

    def _synthesised(self, y_hat: NDArray[np.float32], q: float, least: int) -> Iterator[Synthesised]:
        """What g_s makes of y_hat, in strips of at least so many rows, but the last."""
        height, width = y_hat.shape[2:]
        rows = max(strip_height(width * STRIDE, HYPER_STRIDE), least) // STRIDE
        for wide, keep in strips(height, rows, self._config.halo // STRIDE):
            part = self._transforms.synthesize(y_hat[:, :, wide], q)
            yield part.part(slice(STRIDE * keep.start, STRIDE * keep.stop))


def _neighbours(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Each value plus those before and after it along an axis."""
    x = np.moveaxis(x, axis, -1)
    out = x.copy()
    out[..., 1:] += x[..., :-1]
    out[..., :-1] += x[..., 1:]
    return np.moveaxis(out, -1, axis)


def _part(progress: Progress | None, what: str, first: float, last: float) -> Callable[[float], None] | None:
    """A report of a stage that takes the work from `first` to `last`."""
    if progress is None:
        return None
    return lambda part: progress(what, first + (last - first) * part)


def _tell(progress: Progress | None, what: str, part: float) -> None:
    if progress is not None:
        progress(what, part)


def load(
    name: str | Path = DEFAULT_MODEL, *, providers: Sequence[str] | None = None, threads: int | None = None
) -> Codec:
    """The codec with the weights of this name (those in the package) or path; WeightsError if it cannot.

    providers, threads  of the networks (`Transforms`)

    Loaded once: a file that changes afterwards is not read again by this process.
    """
    return _load(name, None if providers is None else tuple(providers), threads)


@lru_cache(maxsize=4)
def _load(name: str | Path, providers: tuple[str, ...] | None, threads: int | None) -> Codec:
    return Codec(read_weights(name), providers, threads)


def encode(
    source: image.Source | Latent,
    q: float = 0.5,
    model: str | Path = DEFAULT_MODEL,
    seed: int | None = None,
    progress: Progress | None = None,
    strip: bool = False,
    max_pixels: int | None = MAX_PIXELS,
) -> bytes:
    """A picture -> the bytes of a file; see `Codec.encode`.  `model` names weights or is a path to them."""
    return load(model).encode(source, q, seed, progress, strip, max_pixels)


def decode(
    data: bytes, model: str | Path | None = None, *, keep_profile: bool = False, **choices: Unpack[Choices]
) -> UInt8[np.ndarray, "h w *channels"]:
    """The bytes of a file -> sRGB, uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

    See `Codec.decode` and `Choices`.  `model` is a path to weights that are not in the package; without it
    the file names its weights.
    """
    picture = decode_picture(data, model, **choices)
    return (picture if keep_profile else image.in_srgb(picture)).array


def decode_picture(data: bytes, model: str | Path | None = None, **choices: Unpack[Choices]) -> Picture:
    """As `decode`, in the file's own colours, with alpha, ICC, EXIF, XMP, resolution and text apart."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"decode takes the bytes of a file, got {type(data).__name__}; read the file first")
    data = bytes(data)
    return load(model or model_of(data)).decode_picture(data, **choices)


def model_of(data: bytes) -> str:
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package."""
    wanted = container.unpack(data, partial=True).header.model
    names = shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
