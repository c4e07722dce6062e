"""A picture in; a scene for the viewer out: what each codec makes of it in the same number of bytes.

    picture, q -> Codec.encode -> a file of n bytes -> decode -> version "sfumato q 0.40"
       +---> for each rival: bisect its quality -> largest file of at most n bytes -> version "AVIF 23"

The rivals are Pillow's, since it is there anyway, with slow settings: the smallest files that it makes.
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

from sfumato import image
from sfumato.target import psnr
from sfumato.viewer import MIMES, Scene, Version, page

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from sfumato.codec import Codec, Progress

    Picture = UInt8[np.ndarray, "h w 3"]


STEPS = (0, 4)  # of the diffusion, beside what the decoder does by default
LARGEST_WEBP_SIDE = 16383  # pixels


@dataclass(frozen=True)
class Rival:
    """A codec of Pillow."""

    name: str  # upper-cased, Pillow's name of the format
    feature: str  # what `PIL.features` calls it
    options: dict[str, Any]
    words: str  # what a reader should know of the options
    parts: int = 1  # of one step of quality: WebP's 0 and 1 lie 40 % of size apart


JPEG_OPTIONS = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
RIVALS = {
    "avif": Rival("AVIF", "avif", {"subsampling": "4:4:4", "speed": 4}, "4:4:4, speed 4"),
    "webp": Rival("WebP", "webp", {"method": 6}, "method 6", parts=10),
    "jpeg": Rival("JPEG", "jpg", JPEG_OPTIONS, "4:2:0, progressive, optimised"),
}


@dataclass(frozen=True)
class Comparison:
    """A picture as all codecs give it back, and what has to be said about that."""

    scene: Scene
    notes: list[str]  # sentences

    def page(self) -> str:
        """HTML with all pictures in it; it needs no network."""
        ours = self.scene.versions[0]
        above = (
            f"<p>{html.escape(self.scene.name)} at {ours.size_bytes:,} bytes ({ours.bpp:.3f} bits per pixel) "
            "by each codec: the size of sfumato's file; of others the largest no larger, or the smallest.</p>"
        )
        heads = ("version", "bytes", "bits per pixel", *ours.figures)
        rows = [
            (v.label, f"{v.size_bytes:,}", f"{v.bpp:.4f}", *(f"{value:.2f}" for value in v.figures.values()))
            for v in (*self.scene.versions, self.scene.original)
        ]
        below = '<h2>In figures</h2><div class="wide"><table><thead><tr>'
        below += "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
        for label, *cells in rows:
            cells += [""] * (len(heads) - 1 - len(cells))  # the original has no PSNR
            below += f'<tr><th scope="row">{html.escape(label)}</th>'
            below += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        below += f"</tbody></table></div><ul>{notes}</ul>"
        return page(f"{self.scene.name}: the same size, different codecs", [self.scene], above, below)


def rivals(text: str) -> list[str]:
    """ "avif,webp" -> ["avif", "webp"].

    ValueError for a name that is unknown or comes twice, and for a codec that this Pillow was built without.
    """
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in RIVALS:
            raise ValueError(f"there is no codec {name!r} to compare with; there are {', '.join(RIVALS)}")
        if names.count(name) > 1:
            raise ValueError(f"{text}: {name} comes twice")
        if not features.check(RIVALS[name].feature):
            raise ValueError(
                f"Pillow {PIL.__version__} was built without {RIVALS[name].name}: leave {name} out, "
                "or install a Pillow from PyPI"
            )
    return names


def compare(
    source: Path, against: Sequence[str], codec: Codec, q: float = 0.4, progress: Progress | None = None
) -> Comparison:
    """The picture at `source`, in sRGB, by this codec at quality q, 0 .. 1, and by `against`, names of
    RIVALS.

    With weights that hold a trained denoiser, our file is also shown with each of STEPS steps.
    ImageError for a picture that cannot be read or that a rival cannot hold; ValueError for a q out of range.
    """
    pixels = image.read(source)
    data = codec.encode(pixels, q)
    versions = [_ours(codec, pixels, data, q, None)]
    notes = [f"sfumato: weights {codec.preset} {codec.model_id:08x}."]
    if codec.denoiser_id:
        versions += [_ours(codec, pixels, data, q, steps) for steps in STEPS]
    else:
        notes.append("These weights hold no trained denoiser, so sfumato is shown with steps = 0 only.")
    for done, name in enumerate(against, 1):
        if progress is not None:
            progress(RIVALS[name].name, done / (len(against) + 1))
        rival = RIVALS[name]
        setting, file = largest(partial(_file, pixels, rival), 100 * rival.parts, len(data))
        with Image.open(io.BytesIO(file)) as decoded:
            back = np.asarray(decoded.convert("RGB"))
        quality = f"{setting / rival.parts:g}"
        label = f"{rival.name} {quality}"
        versions.append(_version(label, file, MIMES[f".{name}"], len(file), pixels, back, rival.name))
        over = "; it cannot make this picture as small" if len(file) > len(data) else ""
        notes.append(f"{rival.name}: Pillow {PIL.__version__}, {rival.words}, quality {quality}{over}.")
    original = Version("original", *lossless(pixels), size := source.stat().st_size, _bpp(size, pixels))
    return Comparison(Scene(source.name, original, versions), notes)


def largest(encode: Callable[[int], bytes], highest: int, most: int) -> tuple[int, bytes]:
    """(setting, file): of 0 .. highest, the setting of the largest file of at most `most` bytes; else 0.

    By bisection: sizes are taken to rise with the setting.  Where they do not quite, the limit holds still.
    """
    low, file = 0, encode(0)
    above = highest + 1
    while above - low > 1:
        middle = (low + above) // 2
        tried = encode(middle)
        if len(tried) <= most:
            low, file = middle, tried
        else:
            above = middle
    return low, file


def lossless(picture: Picture) -> tuple[bytes, str]:
    """The picture as a file that browsers show, every sample kept, and its media type."""
    format = "WEBP" if max(picture.shape[:2]) <= LARGEST_WEBP_SIDE else "PNG"
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue(), MIMES[f".{format.lower()}"]


def _ours(codec: Codec, pixels: Picture, data: bytes, q: float, steps: int | None) -> Version:
    back = codec.decode_picture(data, steps=steps).rgb
    how = "" if steps is None else f" with {steps} steps"
    return _version(f"sfumato {q:g}{how}", *lossless(back), len(data), pixels, back, f"sfumato{how}")


def _version(
    label: str, data: bytes, mime: str, size: int, pixels: Picture, back: Picture, codec: str
) -> Version:
    return Version(label, data, mime, size, _bpp(size, pixels), {"PSNR, dB": psnr(pixels, back)}, codec)


def _file(pixels: Picture, rival: Rival, setting: int) -> bytes:
    buffer = io.BytesIO()
    try:
        quality = setting / rival.parts if rival.parts > 1 else setting  # only WebP takes a fraction
        Image.fromarray(pixels).save(buffer, rival.name.upper(), quality=quality, **rival.options)
    except (ValueError, OSError) as error:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise image.ImageError(f"{size} pixels do not go into {rival.name}: {error}") from error
    return buffer.getvalue()


def _bpp(size: int, pixels: Picture) -> float:
    return 8 * size / (pixels.shape[0] * pixels.shape[1])
