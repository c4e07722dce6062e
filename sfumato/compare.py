"""An image by sfumato and by baseline codecs at the same size, for `sfumato compare`.

    image, q -> Codec.encode -> a file of n bytes -> decode -> rendition "sfumato 0.4"
       +---> for each baseline: bisect its quality -> largest file of at most n bytes -> rendition "AVIF 23"

The baselines are Pillow's, since Pillow is there anyway, with slow settings: the smallest files it makes.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image, features

from sfumato import container, image
from sfumato.decode_options import DecodeOptions
from sfumato.distortion import psnr
from sfumato.viewer import MIMES, Comparison, Rendition, formatted, page

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from sfumato.codec import Codec, Progress

    Pixels = UInt8[np.ndarray, "h w 3"]


STEPS = (0, 4)  # of the diffusion, beside what the decoder does by default
LARGEST_WEBP_SIDE = 16383  # pixels


@dataclass(frozen=True)
class Baseline:
    """A codec of Pillow to compare with."""

    name: str  # upper-cased, Pillow's name of the format
    feature: str  # what `PIL.features` calls it
    options: dict[str, Any]
    description: str  # of the options
    substeps: int = 1  # settings per unit of quality: WebP's 0 and 1 lie 40 % of size apart


JPEG_OPTIONS = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
BASELINES = {
    "avif": Baseline("AVIF", "avif", {"subsampling": "4:4:4", "speed": 4}, "4:4:4, speed 4"),
    "webp": Baseline("WebP", "webp", {"method": 6}, "method 6", substeps=10),
    "jpeg": Baseline("JPEG", "jpg", JPEG_OPTIONS, "4:2:0, progressive, optimised"),
}


@dataclass(frozen=True)
class SameSize:
    """An image as each codec renders it at one size, with notes on how."""

    comparison: Comparison
    notes: list[str]  # sentences

    def page(self) -> str:
        """HTML with all images in it; it needs no network."""
        name, ours = html.escape(self.comparison.name), self.comparison.renditions[0]
        header = (
            f"<p>{name} at {ours.size_bytes:,} bytes ({ours.bpp:.3f} bits per pixel) by each codec: the size "
            "of sfumato's file; of the others the largest file that is no larger, or their smallest.</p>"
        )
        rows = [
            [html.escape(one.label), f"{one.size_bytes:,}", f"{one.bpp:.4f}"]
            + [formatted(one.metrics[metric]) if metric in one.metrics else "" for metric in ours.metrics]
            for one in (*self.comparison.renditions, self.comparison.original)
        ]
        heads = ("version", "bytes", "bits per pixel", *ours.metrics)
        head = "".join(f'<th scope="col">{each}</th>' for each in heads)
        body = "".join(
            f'<tr><th scope="row">{label}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
            for label, *cells in rows
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        footer = (
            f'<h2>Sizes and quality</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div><ul>{notes}</ul>"
        )
        title = f"{self.comparison.name}: the same size, different codecs"
        return page(title, [self.comparison], header, footer)


def parse_baselines(text: str) -> list[str]:
    """ "avif,webp" -> ["avif", "webp"].

    ValueError for a name that is unknown or comes twice, and for a codec that this Pillow was built without.
    """
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in BASELINES:
            raise ValueError(f"there is no codec {name!r} to compare with; there are {', '.join(BASELINES)}")
        if names.count(name) > 1:
            raise ValueError(f"{text}: {name} comes twice")
        if not features.check(BASELINES[name].feature):
            raise ValueError(
                f"Pillow {PIL.__version__} was built without {BASELINES[name].name}: leave {name} out, "
                "or install a Pillow from PyPI"
            )
    return names


def compare(
    source: Path, baselines: Sequence[str], codec: Codec, q: float = 0.4, progress: Progress | None = None
) -> SameSize:
    """The image at `source`, in sRGB, by `codec` at quality q, 0 .. 1, and by `baselines` of BASELINES.

    With weights that hold a trained denoiser, a latent is also shown with each of STEPS steps.
    ImageError for an image that cannot be read or that a baseline cannot hold; ValueError for a q out of
    range.
    """
    original = image.read(source)
    data = codec.encode(original, q=q)
    renditions = [_ours(codec, original, data, q, None)]
    notes = [f"sfumato: weights {codec.preset} {codec.model_id:08x}."]
    header = container.unpack(data).header
    if header.holds_pixels:
        notes = [f"sfumato: {header.model_name}, a lossless stream of pixels, which no network decodes."]
    elif codec.denoiser_id:
        renditions += [_ours(codec, original, data, q, steps) for steps in STEPS]
    else:
        notes.append("These weights hold no trained denoiser, so sfumato is shown with steps = 0 only.")
    for done, name in enumerate(baselines, 1):
        baseline = BASELINES[name]
        if progress is not None:
            progress(baseline.name, done / (len(baselines) + 1))
        encode = partial(_encode, original, baseline)
        setting, file = largest_within(encode, 100 * baseline.substeps, len(data))
        with Image.open(io.BytesIO(file)) as decoded:
            x_hat = np.asarray(decoded.convert("RGB"))
        quality = f"{setting / baseline.substeps:g}"
        label = f"{baseline.name} {quality}"
        mime = MIMES[f".{name}"]
        renditions.append(_rendition(label, file, mime, len(file), original, x_hat, baseline.name))
        over = "; it cannot make this image as small" if len(file) > len(data) else ""
        how = f"Pillow {PIL.__version__}, {baseline.description}, quality {quality}"
        notes.append(f"{baseline.name}: {how}{over}.")
    size = source.stat().st_size
    shown = Rendition("original", *to_lossless(original), size, _bpp(size, original))
    return SameSize(Comparison(source.name, shown, renditions), notes)


def largest_within(encode: Callable[[int], bytes], highest: int, limit: int) -> tuple[int, bytes]:
    """(setting, file): of 0 .. highest, the setting of the largest file of at most `limit` bytes; else 0.

    By bisection: sizes are taken to rise with the setting.  Where they do not quite, the limit holds still.
    """
    low, file = 0, encode(0)
    above = highest + 1
    while above - low > 1:
        middle = (low + above) // 2
        tried = encode(middle)
        if len(tried) <= limit:
            low, file = middle, tried
        else:
            above = middle
    return low, file


def to_lossless(pixels: Pixels) -> tuple[bytes, str]:
    """A file that browsers show, with every sample as it is, and its media type."""
    format = "WEBP" if max(pixels.shape[:2]) <= LARGEST_WEBP_SIDE else "PNG"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue(), MIMES[f".{format.lower()}"]


def _ours(codec: Codec, original: Pixels, data: bytes, q: float, steps: int | None) -> Rendition:
    x_hat = codec.decode_image(data, DecodeOptions(steps=steps)).rgb
    how = "" if steps is None else f" with {steps} steps"
    return _rendition(f"sfumato {q:g}{how}", *to_lossless(x_hat), len(data), original, x_hat, f"sfumato{how}")


def _rendition(
    label: str, data: bytes, mime: str, size: int, original: Pixels, x_hat: Pixels, codec: str
) -> Rendition:
    metrics = {"PSNR, dB": psnr(original, x_hat)}
    return Rendition(label, data, mime, size, _bpp(size, original), metrics, codec)


def _encode(original: Pixels, baseline: Baseline, setting: int) -> bytes:
    buffer = io.BytesIO()
    try:
        # Only WebP takes a fraction.
        quality = setting / baseline.substeps if baseline.substeps > 1 else setting
        Image.fromarray(original).save(buffer, baseline.name.upper(), quality=quality, **baseline.options)
    except (ValueError, OSError) as error:
        size = f"{original.shape[1]}x{original.shape[0]}"
        raise image.ImageError(f"{size} pixels do not go into {baseline.name}: {error}") from error
    return buffer.getvalue()


def _bpp(size: int, pixels: Pixels) -> float:
    return 8 * size / (pixels.shape[0] * pixels.shape[1])
