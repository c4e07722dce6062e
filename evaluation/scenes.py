"""Rows and their coded files in, scenes for the viewer out: every codec at about the same sizes.

A JPEG, WebP or AVIF file goes in as it is and is decoded by the browser; what browsers do not show is decoded
here by its codec and goes in as lossless WebP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.codecs import Codec
from evaluation.curves import PICTURE_METRICS
from evaluation.measure import coded_file
from evaluation.plots import TITLES
from evaluation.rows import Row
from sfumato.compare import lossless
from sfumato.image import read
from sfumato.viewer import MIMES, Scene, Version

TARGETS = (0.15, 0.3)  # bits per pixel, of the reference codec
LARGEST_PAGE = 60_000_000  # bytes of text
TEXT_PER_BYTE = 4 / 3  # base64


def scenes(
    folder: Path,
    rows: Sequence[Row],
    originals: Mapping[str, Path],
    codecs: Mapping[str, Codec],
    pictures: Sequence[str],
    largest_page: int = LARGEST_PAGE,
) -> tuple[list[Scene], list[str]]:
    """A scene for each of `pictures`, in that order, as many as make a page of at most `largest_page` bytes,
    but one at least; and a line for each file that cannot be shown.

    `folder` holds the coded files (`measure.coded_file`); `originals` tells where the pictures lie.  The
    first of `codecs` gives the sizes: its files nearest to `TARGETS`, and of each other codec those nearest
    to them in bytes.
    """
    if not (folder / "files").is_dir():
        return [], [f"there are no pictures to look at: {folder.name} has no folder with the coded files"]
    made: list[Scene] = []
    lines: list[str] = []
    size = 0.0
    for picture in pictures:
        chosen = choose([row for row in rows if row.picture == picture], list(codecs))
        scene = _scene(folder, picture, chosen, originals, codecs, lines)
        if scene is None:
            continue
        size += TEXT_PER_BYTE * sum(len(v.data) for v in (scene.original, *scene.versions))
        if made and size > largest_page:
            lines.append(
                f"the viewer shows {len(made)} pictures and not {len(pictures)}, "
                f"to keep the page under {largest_page / 1e6:.0f} MB"
            )
            break
        made.append(scene)
    return made, lines


def choose(rows: Sequence[Row], codecs: Sequence[str]) -> list[Row]:
    """Of the rows of one picture, those to be shown: by codec, then by rising size, each once."""
    groups = {codec: [row for row in rows if row.codec == codec] for codec in codecs}
    groups = {codec: group for codec, group in groups.items() if group}
    if not groups:
        return []
    reference = next(iter(groups.values()))
    sizes = [min(reference, key=lambda row: abs(math.log(row.bpp / target))).bytes for target in TARGETS]
    chosen = []
    for group in groups.values():
        nearest = [min(group, key=lambda row: abs(math.log(row.bytes / size))) for size in sizes]
        chosen += sorted({row.setting: row for row in nearest}.values(), key=lambda row: row.bytes)
    return chosen


def _scene(
    folder: Path,
    picture: str,
    rows: Sequence[Row],
    originals: Mapping[str, Path],
    codecs: Mapping[str, Codec],
    lines: list[str],
) -> Scene | None:
    """The scene, or None, with a line, when the original or all versions are missing."""
    versions = []
    for row in rows:
        try:
            versions.append(_version(folder, row, codecs[row.codec]))
        except Exception as error:  # whatever a codec raises, the other pictures are still worth showing
            lines.append(f"viewer: {picture}, {row.codec} {row.setting}: {_reason(error)}")
    try:
        # Read and written anew: a browser would apply the gamma or profile of the file to the original alone.
        data, mime = lossless(read(originals[picture]))
        size = originals[picture].stat().st_size
    except (KeyError, ValueError, OSError) as error:
        lines.append(f"viewer: the original of {picture} cannot be shown: {_reason(error)}")
        return None
    if not versions:
        return None
    original = Version("original", data, mime, size, 8 * size / (rows[0].width * rows[0].height))
    return Scene(picture, original, versions)


def _version(folder: Path, row: Row, codec: Codec) -> Version:
    path = coded_file(folder, row.dataset, codec, float(row.setting), row.picture)
    size = path.stat().st_size
    if codec.suffix in MIMES:
        data, mime = path.read_bytes(), MIMES[codec.suffix]
    else:
        data, mime = lossless(codec.decode(path))
    figures = {TITLES[metric]: getattr(row, metric) for metric in PICTURE_METRICS}
    return Version(f"{row.codec} {row.setting}", data, mime, size, row.bpp, figures, row.codec)


def _reason(error: Exception) -> str:
    """The first line of what went wrong, without the folders of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
