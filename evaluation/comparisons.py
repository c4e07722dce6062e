"""Coded files as comparisons for the viewer: every codec at about the same sizes.

A JPEG, WebP or AVIF file goes in as it is and is decoded by the browser; what browsers do not show is decoded
here by its codec and goes in as lossless WebP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.codecs import Codec
from evaluation.measure import coded_file
from evaluation.metrics import METRICS
from evaluation.records import Record
from sfumato.compare import to_lossless
from sfumato.image import read
from sfumato.viewer import MIMES, Comparison, Rendition

TARGETS = (0.15, 0.3)  # bits per pixel, of the reference codec
PAGE_LIMIT = 60_000_000  # bytes of text
TEXT_PER_BYTE = 4 / 3  # base64


def comparisons(
    folder: Path,
    records: Sequence[Record],
    originals: Mapping[str, Path],
    codecs: Mapping[str, Codec],
    images: Sequence[str],
    page_limit: int = PAGE_LIMIT,
) -> tuple[list[Comparison], list[str]]:
    """A comparison for each of `images`, in that order, as many as make a page of at most `page_limit` bytes,
    but one at least; and a line for each file that cannot be shown.

    `folder` holds the coded files (`measure.coded_file`) and `originals` has the paths of the images.  The
    first of `codecs` gives the sizes: its files nearest to TARGETS, and of each other those nearest in bytes.
    """
    if not (folder / "files").is_dir():
        return [], [f"there are no images to compare: {folder.name} has no folder with the coded files"]
    made: list[Comparison] = []
    lines: list[str] = []
    size = 0.0
    for image in images:
        renditions = []
        for one in choose([one for one in records if one.image == image], list(codecs)):
            try:
                renditions.append(_rendition(folder, one, codecs[one.codec]))
            except Exception as error:  # whatever a codec raises, the other files are still worth showing
                lines.append(f"viewer: {image}, {one.codec} {one.setting}: {_reason(error)}")
        try:
            original = _original(originals[image])
        except (KeyError, ValueError, OSError) as error:
            lines.append(f"viewer: the original of {image} cannot be shown: {_reason(error)}")
            continue
        if not renditions:
            continue
        comparison = Comparison(image, original, renditions)
        size += TEXT_PER_BYTE * sum(len(one.data) for one in comparison.all)
        if made and size > page_limit:
            limit = f"to keep the page under {page_limit / 1e6:.0f} MB"
            lines.append(f"the viewer shows {len(made)} images and not {len(images)}, {limit}")
            break
        made.append(comparison)
    return made, lines


def choose(records: Sequence[Record], codecs: Sequence[str]) -> list[Record]:
    """Of the records of one image, those to be shown: by codec, then by rising size, each once."""
    groups = [group for codec in codecs if (group := [one for one in records if one.codec == codec])]
    if not groups:
        return []
    sizes = [min(groups[0], key=lambda one: abs(math.log(one.bpp / target))).bytes for target in TARGETS]
    chosen = []
    for group in groups:
        nearest = [min(group, key=lambda one: abs(math.log(one.bytes / size))) for size in sizes]
        chosen += sorted({one.setting: one for one in nearest}.values(), key=lambda one: one.bytes)
    return chosen


def _original(path: Path) -> Rendition:
    """Read and written anew: a browser would apply the gamma or profile of the file to the original alone."""
    rgb = read(path)
    size = path.stat().st_size
    return Rendition("original", *to_lossless(rgb), size, 8 * size / rgb[..., 0].size)


def _rendition(folder: Path, record: Record, codec: Codec) -> Rendition:
    path = coded_file(folder, record.dataset, codec, float(record.setting), record.image)
    size = path.stat().st_size
    shown = codec.suffix in MIMES
    data, mime = (path.read_bytes(), MIMES[codec.suffix]) if shown else to_lossless(codec.decode(path))
    label = f"{record.codec} {record.setting}"
    values = {METRICS[name].title: v for name, v in record.values.items() if not math.isnan(v)}
    return Rendition(label, data, mime, size, record.bpp, values, record.codec)


def _reason(error: Exception) -> str:
    """The first line of the error, without the folders of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
