"""A picture in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> LatentCoder.write -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> LatentCoder.read -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from sfumato import DEFAULT_MODEL, alpha, arguments, container, image, lossless, metadata, rounding
from sfumato.choices import Choices as Choices
from sfumato.choices import Crop as Crop
from sfumato.choices import Progress as Progress
from sfumato.choices import check_pixels, part_of, tell
from sfumato.container import File, Header
from sfumato.errors import FormatError, WeightsError
from sfumato.image import Picture
from sfumato.latents import RATIO, LatentCoder, magnitude, quality
from sfumato.latents import Latent as Latent
from sfumato.restoration import Frame, Restoration, halo, restore
from sfumato.strips import map_strips, strip_height, strips
from sfumato.tiles import MAX_PIXELS, padded_pixels
from sfumato.transforms import HYPER_STRIDE, STRIDE, Synthesised, Transforms
from sfumato.weights import Weights, read_weights, shipped

if TYPE_CHECKING:
    from jaxtyping import UInt8

DEFAULT_STEPS = 1
SIMPLE = 0.07
"""`Codec.magnitude` a pixel, at q = 0.5, of a nearly flat image at most; photographs have 0.08 to 0.3."""
TRIALS = tuple(step / 10 for step in range(11))
BAND = 1 << 21  # pixels
WIDE, WINDOW = 16384, 4096  # pixels: a strip of 64 rows may have 2^20

QUIET = np.errstate(all="ignore")
"""Numbers that underflow are none of the host's business, whatever it has set (`np.seterr`)."""


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
        given = image.load(source, max_pixels)
        given = image.strip(given) if strip else given
        picture = image.without_tint(given)
        extras = metadata.entries(picture)
        container.metadata_payload(extras)  # refuses what is too large before the work, as the header does
        height, width = picture.pixels.shape[:2]
        Header(width, height, 0, self.model_id)
        if picture.alpha is not None:
            picture = replace(picture, pixels=alpha.fill(picture.pixels, picture.alpha))
        pixels = picture.rgb
        grey = not picture.icc and bool((pixels == pixels[..., :1]).all())
        tell(progress, "analysis", 0.0)

        def g_a(rows: slice) -> NDArray[np.float32]:
            return self._transforms.analyze(image.pad(image.to_x(pixels[rows]), HYPER_STRIDE))

        height, width = (side + -side % HYPER_STRIDE for side in (height, width))
        rows = strip_height(width, HYPER_STRIDE)
        y = map_strips(g_a, height, rows, self._config.halo, down=STRIDE)
        plane = None if picture.alpha is None else lossless.pack(picture.alpha)
        return Latent(pixels, grey, plane, extras, self.model_id, y, given)

    def encode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
        lossless_if_smaller: bool = False,
    ) -> bytes:
        """A picture -> the bytes of a file.

        source    what `image.load` takes (a path, an open file, a Pillow image, an array, a Picture), or a
                  Latent
        q         quality, 0 (smallest file) .. 1 (largest); kept to 1/255.  A nearly flat image is written
                  with the best of 0, 0.1, 0.2 .. up to q, so that no larger q gives a larger and worse file;
                  a Latent always with q
        seed      of the decoder's noise, u32; None derives it from the file
        progress  called as the work goes on
        strip     leave out what comes with the pixels, after converting the colours to sRGB
        max_pixels  of the file of a picture at most, as `image.load` has it; None: the format's limit
        lossless_if_smaller  give the lossless file (`lossless.file`) where it has fewer bytes than that of q

        ValueError for a q or seed out of range or a picture over the format's limits; ImageError (a
        ValueError) for a picture that cannot be read.
        """
        latent, header = self._prepare(source, q, seed, progress, strip, max_pixels)
        if latent is not source and (steady := self._steady(latent, q, seed)) != q:
            latent, header = self._prepare(latent, steady, seed)
        data = self._encode(latent, header, progress, reconstruct=False)[0]
        return lossless_if_smaller and lossless.file(latent.picture, len(data) - 1) or data

    @QUIET
    def encode_and_decode(
        self,
        source: image.Source | Latent,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
        """(file, its picture as decoded by default, but RGB and without alpha): one pass instead of two."""
        latent, header = self._prepare(source, q, seed, progress)
        data, y_hat = self._encode(latent, header, progress)
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
        """How the rate goes, without a pass (`latents.magnitude`)."""
        return magnitude(latent.y * self._transforms.gain(q))

    def _steady(self, latent: Latent, q: float, seed: int | None) -> float:
        """The q to write: of a nearly flat image the best of `TRIALS` up to the one asked for.

        There the error is that of a few values' rounding, and falls with q only on the whole: a file would be
        larger and worse than that of a lower q.  As each set of trials holds those of lower q, none is.
        An image of over 2^21 pixels is judged by a band of rows in its middle.
        """
        if self.magnitude(latent, 0.5) > SIMPLE * padded_pixels(*latent.pixels.shape[:2]):
            return q
        band = latent.band(BAND)

        def error(trial: float) -> float:
            shown = self.encode_and_decode(band, trial, seed)[1]
            if latent.grey:
                shown = image.mean(shown)[..., None]
            return float(np.square(shown.astype(np.float32) - band.pixels).mean(dtype=np.float64))

        return min((trial for trial in TRIALS if round(trial * 255) <= round(q * 255)), key=error)

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
        chunks, crop, progress = choices.get("chunks"), choices.get("crop"), choices.get("progress")
        crop = Crop(*crop) if isinstance(crop, tuple) else crop
        file = container.unpack(data, partial=choices.get("partial", False) or chunks is not None)
        header = file.header
        part = Crop(0, 0, header.width, header.height) if crop is None else crop.within(header)
        if not file.sections:
            raise FormatError(f"cut short before the end of section {header.sections[0]}: nothing to show")
        pixels = (lossless.pixels if header.is_lossless else self._decoded)(file, part, choices)
        pixels = image.mean(pixels) if header.grey and pixels.ndim == 3 else np.ascontiguousarray(pixels)
        plane, remarks = None, []
        if not file.complete and chunks is None:
            remarks.append(f"cut short: {len(file.sections)} of {len(header.sections)} sections are shown")
        if file.alpha == b"":
            plane = np.full(pixels.shape[:2], 255, np.uint8)
            remarks.append("cut short before the end of alpha: shown opaque")
        elif file.alpha is not None:
            plane = part.of(lossless.unpack(file.alpha, header.height, header.width)).copy()
        extras = metadata.fields(file.metadata)
        if crop is not None and extras["exif"]:
            extras["exif"] = metadata.upright_exif(extras["exif"], crop=True)
        tell(progress, "done", 1.0)
        return Picture(pixels, plane, **extras, remarks=tuple(remarks))

    def _decoded(self, file: File, part: Crop, choices: Choices) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of a part of the picture, from the latent of the file."""
        header, chunks, steps = file.header, choices.get("chunks"), choices.get("steps")
        chosen = Restoration(steps or 0, choices.get("realism", 1.0), choices.get("eta", 0.0))
        if steps and not self.denoiser_id:
            message = f"steps={steps}: the {self.preset} weights hold no trained denoiser, only steps=0"
            raise WeightsError(message)
        if chunks is not None and not 0 <= chunks <= header.chunks:
            raise ValueError(f"chunks is {chunks}, not in 0..{header.chunks}")
        if header.model != self.model_id:
            raise FormatError(f"written by model {header.model:08x}, these weights are {self.model_id:08x}")
        if header.chunks != len(self._config.chunks):
            raise FormatError(f"{header.chunks} chunks, the model has {len(self._config.chunks)}")
        sections = file.sections if chunks is None else file.sections[: 1 + chunks]
        if chunks is not None and not choices.get("partial", False) and len(sections) <= chunks:
            have = f"{len(sections)} of {len(header.sections)} sections are whole"
            raise FormatError(f"cut short: {have}, chunks={chunks} needs {1 + chunks}")
        if steps is None and file.complete and chunks is None:
            chosen = replace(chosen, steps=self.default_steps)
        seen = halo(self._config, chosen)
        if seen is None and choices.get("crop") is not None:
            raise ValueError(f"eta={chosen.eta:g} with these weights works on whole pictures, not on a crop")
        progress = choices.get("progress")
        read = part_of(progress, "latents read", 0.0, 0.5)
        around = self._config.halo + (seen or 0) + HYPER_STRIDE  # `seams` looks over the borders of tiles
        region = part.latents(header, around)
        read_part = None if choices.get("crop") is None else region
        check_pixels(file, read_part, choices.get("max_pixels", MAX_PIXELS))
        y_hat = self._latent_coder.read(header, sections, lambda tile: tile.meets(*region), read)
        tell(progress, "synthesis", 0.5)
        top, left, bottom, right = (RATIO * side for side in region)
        corner = top * STRIDE, left * STRIDE
        pixels = self._pixels(y_hat[:, :, top:bottom, left:right], header, chosen, corner, progress)
        return pixels[part.y - top * STRIDE :, part.x - left * STRIDE :][: part.height, : part.width]

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
        self, latent: Latent, header: Header, progress: Progress | None, reconstruct: bool = True
    ) -> tuple[bytes, NDArray[np.float32]]:
        """The file, and y_hat, if it is wanted as its decoder will find it."""
        written = part_of(progress, "latents written", 0.3, 1.0)
        y, z = self._latents(latent, quality(header))
        sections, y_hat = self._latent_coder.write(y, z, header, written, reconstruct)
        return container.pack(header, sections, latent.metadata, latent.alpha), y_hat

    def _pixels(
        self,
        y_hat: NDArray[np.float32],
        header: Header,
        chosen: Restoration,
        corner: tuple[int, int] = (0, 0),
        progress: Progress | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of y_hat, or of a part of it whose first row and column in pixels these are.

        A strip of rows of a very wide one is not small: that is made in windows of columns.
        """
        around, width = halo(self._config, chosen), y_hat.shape[3] * STRIDE
        if around is None or width <= WIDE:
            return self._window(y_hat, header, chosen, corner, part_of(progress, "restoration", 0.5, 1.0))
        around += -(-self._config.halo // HYPER_STRIDE) * HYPER_STRIDE
        made = []
        for wide, keep in strips(width, WINDOW, around):
            cells = y_hat[..., wide.start // STRIDE : wide.stop // STRIDE]
            part = self._window(cells, header, chosen, (corner[0], corner[1] + wide.start))
            made.append(part[:, keep])
            tell(progress, "restoration", 0.5 + 0.5 * wide.stop / width)
        return np.concatenate(made, 1)

    def _window(
        self,
        y_hat: NDArray[np.float32],
        header: Header,
        chosen: Restoration,
        corner: tuple[int, int],
        told: Callable[[float], None] | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """As `_pixels`, in strips of rows."""
        q = quality(header)
        height, width = (side + -side % HYPER_STRIDE for side in (header.height, header.width))
        parts = self._synthesised(y_hat, q, 4 * (halo(self._config, chosen) or 0))
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
    lossless_if_smaller: bool = False,
) -> bytes:
    """A picture -> the bytes of a file; see `Codec.encode`.  `model` names weights or is a path to them."""
    return load(model).encode(source, q, seed, progress, strip, max_pixels, lossless_if_smaller)


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
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package.

    A lossless file needs none: the default ones.
    """
    header = container.unpack(data, partial=True).header
    if header.is_lossless:
        return DEFAULT_MODEL
    wanted, names = header.model, shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
