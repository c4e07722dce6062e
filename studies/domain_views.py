"""python -m studies.domain_views FOLDER CSV -o SHEET: parts of images of other domains, ours beside AVIF's.

FOLDER holds the sets of `studies.domains`, CSV is the table that it wrote, and SHEET an image with a row for
each of `VIEWS`: the original, ours, and the AVIF of that table at no more bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from PIL import Image, ImageDraw

from docs.images import BAR, GAP
from evaluation.measure import images_in
from sfumato import image
from sfumato.codec import Codec, load
from sfumato.compare import BASELINES, _encode
from sfumato.files import write_bytes
from studies.domains import RGB, Row, middle, read


class View(NamedTuple):
    """A part of an image, and the q of its file."""

    dataset: str
    image: str
    q: float
    left: int  # pixels, of the part that is measured
    top: int


VIEWS = (
    View("medical", "ct-head", 0.4, 170, 190),
    View("medical", "ultrasound-pelvis", 0.4, 0, 0),
    View("aerial", "meadow", 0.4, 190, 240),
    View("art", "starry_night_google", 0.4, 190, 20),
)
WIDTH, HEIGHT = 256, 192  # pixels of a part


def renditions(codec: Codec, pixels: RGB, row: Row) -> list[tuple[str, RGB]]:
    """(caption, image): the original, ours at the q of the row, and the AVIF of the row."""
    data = codec.encode(pixels, q=float(row["q"]))
    ours = codec.decode(data)
    theirs = _encode(pixels, BASELINES["avif"], int(row["avif_quality"]))
    with Image.open(io.BytesIO(theirs)) as opened:
        avif = np.asarray(opened.convert("RGB"))
    return [
        (f"{row['dataset']}: {row['image']}", pixels),
        (f"sfumato, {len(data):,} bytes", ours if ours.ndim == 3 else np.repeat(ours[..., None], 3, 2)),
        (f"AVIF, {len(theirs):,} bytes", avif),
    ]


def sheet(
    codec: Codec, folder: Path, rows: list[Row], views: tuple[View, ...], largest: int = 512
) -> Image.Image:
    """A row of three parts for each view; LookupError for a view that is not in the table or the folder."""
    out = Image.new("RGB", (3 * (WIDTH + GAP) - GAP, len(views) * (HEIGHT + BAR + GAP) - GAP), "white")
    pen = ImageDraw.Draw(out)
    for number, view in enumerate(views):
        wanted = (view.dataset, view.image, view.q)
        row = next((r for r in rows if (r["dataset"], r["image"], float(r["q"])) == wanted), None)
        paths = {path.stem: path for path in images_in(folder / view.dataset)}
        if row is None or view.image not in paths:
            raise LookupError(f"{view.dataset}/{view.image} at q {view.q:g} was not measured, or is missing")
        top = number * (HEIGHT + BAR + GAP)
        box = (view.left, view.top, view.left + WIDTH, view.top + HEIGHT)
        shown = renditions(codec, middle(image.read(paths[view.image]), largest), row)
        for place, (caption, pixels) in enumerate(shown):
            out.paste(Image.fromarray(pixels).crop(box), (place * (WIDTH + GAP), top + BAR))
            pen.text((place * (WIDTH + GAP) + 2, top + 1), caption, fill="black")
    return out


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    table: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    largest: int = 512,
) -> None:
    """Make the sheet.

    Args:
        folder: of folders of images, a set each.
        table: what `python -m studies.domains` wrote of them with this model.
        output: a WebP file.
        model: weights by name, or a path.
        largest: as it was for the table.
    """
    buffer = io.BytesIO()
    sheet(load(model), folder, read(table), VIEWS, largest).save(buffer, "WEBP", quality=80, method=6)
    write_bytes(output, buffer.getvalue())


if __name__ == "__main__":
    tyro.cli(main)
