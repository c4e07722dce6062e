"""An image in, the bytes of a file out; and back.  This page is the paper's first figure.

    encode    image -> x -> g_a -> y -> LatentCoder.write -> sections -> file
                             +---> h_a -> z --^
    decode    file -> sections -> LatentCoder.read -> y_hat -> g_s -> x_base -> [denoiser] -> image

What decides a probability runs in exact arithmetic (`exact`; FORMAT.md, section 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato import (
    DEFAULT_MODEL,
    alpha,
    analysis,
    arguments,
    container,
    image,
    lossless,
    metadata,
    palette,
    rounding,
)
from sfumato.container import File, Header
from sfumato.decode_options import Crop, DecodeOptions, Progress, check_pixels, report, stage_of
from sfumato.diffusion_decoder import DiffusionOptions, halo
from sfumato.errors import FormatError, WeightsError
from sfumato.image import ImageData
from sfumato.latents import RATIO, AnalysisResult, LatentCoder, quality, rate_proxy
from sfumato.synthesis import Piece, cropped, pieces_of, to_uint8
from sfumato.tiles import MAX_PIXELS, padded_pixels
from sfumato.transforms import HYPER_STRIDE, STRIDE, Transforms
from sfumato.weights import Weights, read_weights, shipped

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

DEFAULTS = DecodeOptions()
DEFAULT_STEPS = 1
STEPS_FROM_NOISE = {"x": 65, "epsilon": 200}
"""Of weights that start from noise alone, as Yang & Mandt 2023 decode: one step of them is no image."""
SIMPLE = 0.07
"""`Codec.rate_proxy` a pixel, at q = 0.5, of a nearly flat image at most; photographs have 0.08 to 0.3."""
TRIALS = tuple(step / 10 for step in range(11))
PART = 1 << 18  # pixels

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
        self._pieces = partial(pieces_of, self._transforms, self._config)

    @QUIET
    def analyze(
        self,
        source: image.Source,
        *,
        strip: bool = False,
        max_pixels: int | None = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> AnalysisResult:
        """An image -> its latent, the part of `encode` that is the same for every q; errors as there."""
        rounding.check()
        given = image.load(source, max_pixels)
        given = lossless.without_hidden(image.strip(given) if strip else given)
        image_data = image.without_tint(given)
        extras = metadata.entries(image_data)
        container.metadata_payload(extras)  # refuses what is too large before the work, as the header does
        height, width = image_data.pixels.shape[:2]
        Header(width, height, 0, self.model_id)
        pixels = alpha.filled(image_data)
        original = pixels if image_data is given else alpha.filled(image.in_srgb(given))
        grey = not image_data.icc and bool((pixels == pixels[..., :1]).all())
        report(progress, "analysis", 0.0)
        networks = self._transforms, self._config
        y = analysis.analyze(*networks, pixels)
        correction = cache(partial(analysis.correction, *networks, pixels, y))
        plane = None if image_data.alpha is None else lossless.pack(image_data.alpha)
        return AnalysisResult(pixels, grey, plane, extras, self.model_id, y, correction, given, original)

    def encode(
        self,
        source: image.Source | AnalysisResult,
        *,
        q: float = 0.5,
        seed: int | None = None,
        strip: bool = False,
        lossless_if_smaller: bool = False,
        few_colours: bool = True,
        max_pixels: int | None = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> bytes:
        """An image -> the bytes of a file.

        source    what `image.load` takes (a path, an open file, a Pillow image, an array, an ImageData), or
                  what `analyze` returned
        q         quality, 0 (smallest file) .. 1 (largest); kept to 1/255.  A nearly flat image is written
                  with the best of 0, 0.1, 0.2 .. up to q, so that no larger q gives a larger and worse file;
                  an analyzed one always with q
        seed      of the decoder's noise, u32; None derives it from the file
        strip     leave out what comes with the pixels, after converting the colours to sRGB
        lossless_if_smaller  give the lossless file (`lossless.file`) where it has fewer bytes than that of q
        few_colours  give a rendered image in fewer colours, or all, as a lossless stream where that is closer
                  to it and not much larger (`palette.better`); an analyzed one never
        max_pixels  of the file of an image at most, as `image.load` has it; None: the format's limit
        progress  called as the work goes on

        ValueError for a q or seed out of range or an image over the format's limits; ImageError (a
        ValueError) for an image that cannot be read.
        """
        analyzed = source
        if not isinstance(analyzed, AnalysisResult):
            analyzed = self.analyze(analyzed, strip=strip, max_pixels=max_pixels, progress=progress)
        header = self._header(analyzed, q, seed)
        if analyzed is not source and (steady := self._steady(analyzed, q, seed)) != q:
            header = self._header(analyzed, steady, seed)
        rendered = few_colours and analyzed is not source and palette.is_rendered(analyzed.given)
        data, y_hat = self._encode(analyzed, header, progress, reconstruct=rendered)
        if rendered:
            shown = analyzed.visible(self._shown(y_hat, header, DiffusionOptions()))
            error = palette.squared_error(shown, analyzed.original)
            if few := palette.better(analyzed.given, len(data), error, header.q):
                return few.data
        return lossless_if_smaller and lossless.file(analyzed.given, len(data) - 1) or data

    @QUIET
    def encode_with_reconstruction(
        self,
        analyzed: AnalysisResult,
        *,
        q: float = 0.5,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
        """(file, its image as decoded by default, but RGB and without alpha): one pass instead of two."""
        header = self._header(analyzed, q, seed)
        data, y_hat = self._encode(analyzed, header, progress)
        return data, self._shown(y_hat, header, DiffusionOptions(self.default_steps))

    def _shown(
        self, y_hat: Float[np.ndarray, "1 m h w"], header: Header, options: DiffusionOptions
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The whole image that y_hat decodes to."""
        whole = Crop(0, 0, header.width, header.height)
        shown = to_uint8(cropped(self._pieces(y_hat, header, options), whole), header.height, header.width)
        return ImageData(image.mean(shown)).rgb if header.grey else shown

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the range-coded sections of its files."""
        return Header(1, 1, 0, self.model_id, chunks=len(self._config.chunks)).sections

    @property
    def default_steps(self) -> int:
        """The `steps` of a whole file for which none are chosen (`Choices`)."""
        if not self.denoiser_id:
            return 0
        return STEPS_FROM_NOISE[self._config.predicts] if self._config.t0 == 1 else DEFAULT_STEPS

    @QUIET
    def estimate_bits(self, source: image.Source | AnalysisResult, *, q: float = 0.5) -> list[float]:
        """Ideal bits of z and of each chunk at quality q: the rate without writing bytes."""
        analyzed = source if isinstance(source, AnalysisResult) else self.analyze(source)
        header = self._header(analyzed, q, None)
        return self._latent_coder.measure(*self._latents(analyzed, quality(header)), header)

    @QUIET
    def rate_proxy(self, analyzed: AnalysisResult, q: float) -> float:
        """How the rate goes, without a pass (`latents.rate_proxy`)."""
        return rate_proxy(analyzed.y * self._transforms.gain(q))

    def _proxy(self, analyzed: AnalysisResult) -> float:
        """`rate_proxy` a pixel at q = 0.5."""
        return self.rate_proxy(analyzed, 0.5) / padded_pixels(*analyzed.pixels.shape[:2])

    def _steady(self, analyzed: AnalysisResult, q: float, seed: int | None) -> float:
        """The q to write: of a nearly flat image the best of `TRIALS` up to the one asked for.

        There the error is that of a few values' rounding, and falls with q only on the whole: a file would be
        larger and worse than that of a lower q.  As each set of trials holds those of lower q, none is.
        Of an image over 2^18 pixels the part with the highest rate decides.
        """
        if self._proxy(analyzed) > SIMPLE:
            return q
        part = max(analyzed.parts(PART), key=self._proxy)
        if self._proxy(part) > SIMPLE:
            return q

        def error(trial: float) -> float:
            shown = self.encode_with_reconstruction(part, q=trial, seed=seed)[1]
            return palette.squared_error(shown, part.original)

        return min((trial for trial in TRIALS if round(trial * 255) <= round(q * 255)), key=error)

    def decode(
        self,
        data: bytes,
        *,
        steps: int | None = None,
        realism: float = 1.0,
        eta: float = 0.0,
        crop: Crop | tuple[int, int, int, int] | None = None,
        partial: bool = False,
        chunks: int | None = None,
        keep_profile: bool = False,
        max_pixels: int | None = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> UInt8[np.ndarray, "h w *channels"]:
        """The bytes of a file -> sRGB, uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

        keep_profile  leave the colours in the space of the file's own profile

        The other options are those of `DecodeOptions`, the errors those of `decode_image`.
        """
        options = DecodeOptions(
            steps=steps, realism=realism, eta=eta, crop=crop, partial=partial, chunks=chunks,
            max_pixels=max_pixels, progress=progress,
        )  # fmt: skip
        image_data = self.decode_image(data, options)
        return (image_data if keep_profile else image.in_srgb(image_data)).array

    @QUIET
    def decode_image(self, data: bytes, options: DecodeOptions = DEFAULTS) -> ImageData:
        """The bytes of a file -> the image in its own colours, with alpha, ICC, EXIF, XMP, DPI and text.

        FormatError for a bad file; ValueError for a bad option; WeightsError for steps > 0 with weights
        that hold no trained denoiser.
        """
        rounding.check()
        file, part = self._open(data, options)
        header = file.header
        if header.holds_pixels:
            pixels = lossless.pixels(file, part, options.max_pixels)
        else:
            pixels = to_uint8(self._decoded(file, part, options), part.height, part.width)
        pixels = image.mean(pixels) if header.grey and pixels.ndim == 3 else np.ascontiguousarray(pixels)
        plane, warnings = None, []
        if not file.complete and options.chunks is None:
            warnings.append(f"cut short: {len(file.sections)} of {len(header.sections)} sections are shown")
        if file.alpha == b"":
            plane = np.full(pixels.shape[:2], 255, np.uint8)
            warnings.append("cut short before the end of alpha: shown opaque")
        elif file.alpha is not None:
            plane = part.of(lossless.unpack(file.alpha, header.height, header.width)).copy()
        extras = metadata.fields(file.metadata)
        if options.crop is not None and extras["exif"]:
            extras["exif"] = metadata.upright_exif(extras["exif"], crop=True)
        report(options.progress, "done", 1.0)
        return ImageData(pixels, plane, **extras, warnings=tuple(warnings))

    @QUIET
    def decode_float(self, data: bytes, options: DecodeOptions = DEFAULTS) -> Float[np.ndarray, "3 h w"]:
        """As `decode_image`, but the network's own output: RGB in [-1, 1], float32, not clamped or rounded.

        A grey file gives three channels that are nearly equal, whose mean `decode` rounds.
        """
        rounding.check()
        file, part = self._open(data, options)
        if file.header.holds_pixels:
            pixels = lossless.pixels(file, part, options.max_pixels)
            rgb = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
            return image.to_x(rgb)[0]
        out = np.empty((3, 0, 0), np.float32)
        for top, left, x in self._decoded(file, part, options):
            if not out.size:  # after every check
                out = np.empty((3, part.height, part.width), np.float32)
            out[:, top : top + x.shape[2], left : left + x.shape[3]] = x[0]
        return out

    def _open(self, data: bytes, options: DecodeOptions) -> tuple[File, Crop]:
        """The file, with something to show, and the part of it that is wanted."""
        file = container.unpack(data, partial=options.partial or options.chunks is not None)
        part = options.region(file.header)
        if not file.sections:
            missing = file.header.sections[0]
            raise FormatError(f"cut short before the end of section {missing}: nothing to show")
        return file, part

    def _decoded(self, file: File, part: Crop, options: DecodeOptions) -> Iterator[Piece]:
        """A part of the image, from the latent of the file."""
        header, chunks, steps = file.header, options.chunks, options.steps
        chosen = DiffusionOptions(steps or 0, options.realism, options.eta)
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
        if chunks is not None and not options.partial and len(sections) <= chunks:
            have = f"{len(sections)} of {len(header.sections)} sections are whole"
            raise FormatError(f"cut short: {have}, chunks={chunks} needs {1 + chunks}")
        if steps is None and file.complete and chunks is None:
            chosen = replace(chosen, steps=self.default_steps)
        seen = halo(self._config, chosen)
        if seen is None and options.crop is not None:
            raise ValueError(f"eta={chosen.eta:g} with these weights works on whole images, not on a crop")
        progress = options.progress
        read = stage_of(progress, "latents read", 0.0, 0.5)
        around = self._config.halo + (seen or 0) + HYPER_STRIDE  # `seams` looks over the borders of tiles
        region = part.latents(header, around)
        check_pixels(file, None if options.crop is None else region, options.max_pixels)
        y_hat = self._latent_coder.read(header, sections, lambda tile: tile.meets(*region), read)
        report(progress, "synthesis", 0.5)
        top, left, bottom, right = (RATIO * side for side in region)
        corner = top * STRIDE, left * STRIDE
        pieces = self._pieces(y_hat[:, :, top:bottom, left:right], header, chosen, corner, progress)
        yield from cropped(pieces, replace(part, x=part.x - corner[1], y=part.y - corner[0]))

    def _header(self, analyzed: AnalysisResult, q: float, seed: int | None) -> Header:
        arguments.number("q", q, 0, 1)
        arguments.integer("seed", seed, 0, 2**32 - 1)
        if analyzed.model != self.model_id:
            raise ValueError(f"latent of model {analyzed.model:08x}, these weights are {self.model_id:08x}")
        height, width = analyzed.pixels.shape[:2]
        chunks = len(self._config.chunks)
        return Header(width, height, round(q * 255), self.model_id, seed, analyzed.grey, chunks)

    def _latents(self, analyzed: AnalysisResult, q: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(y, z) in the domain of the gains."""
        y = analyzed.y
        pixels = analyzed.pixels
        if share := analysis.weight(q, analysis.flatness(pixels), analysis.smoothness(pixels)):
            y = y + np.float32(share) * analyzed.correction()
        y = y * self._transforms.gain(q)
        return y, self._transforms.hyper_analyze(y)

    @QUIET
    def _encode(
        self, analyzed: AnalysisResult, header: Header, progress: Progress | None, reconstruct: bool = True
    ) -> tuple[bytes, NDArray[np.float32]]:
        """The file, and y_hat, if it is wanted as its decoder will find it."""
        written = stage_of(progress, "latents written", 0.3, 1.0)
        y, z = self._latents(analyzed, quality(header))
        sections, y_hat = self._latent_coder.write(y, z, header, written, reconstruct)
        return container.pack(header, sections, analyzed.metadata, analyzed.alpha), y_hat


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


def model_of(data: bytes) -> str:
    """The name of the shipped weights that wrote a file; FormatError if they are not in this package.

    A lossless file needs none: the default ones.
    """
    header = container.unpack(data, partial=True).header
    if header.holds_pixels:
        return DEFAULT_MODEL
    wanted, names = header.model, shipped()
    if wanted not in names:
        have = ", ".join(f"{name} ({key:08x})" for key, name in names.items()) or "none"
        raise FormatError(f"written by model {wanted:08x}, which is not in this package; here are: {have}")
    return names[wanted]
