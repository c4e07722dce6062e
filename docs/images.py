"""python -m docs.images KODAK: crops of Kodak images by sfumato and AVIF at one size, for docs/.

The rates are bits per pixel of the whole image, and ours is the best file that is not over them, so the
crops can be made anew with other weights.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from PIL import Image, ImageDraw

from sfumato import DEFAULT_MODEL, compare, image
from sfumato.codec import Codec, load
from sfumato.files import write_bytes
from sfumato.rate_control import TargetBpp

FOLDER = Path(__file__).with_name("images")
BAR, GAP = 14, 4  # height of the captions, space between the parts


class View(NamedTuple):
    """A crop of a Kodak image, beside it the same of sfumato's file at `bpp` and of AVIF's."""

    image: str
    left: int  # pixels
    top: int
    bpp: float  # of the whole image
    width: int = 240
    height: int = 180
    steps: bool = False  # by sfumato without steps and with four, rather than as by default


VIEWS = {
    "hero": View("kodim05", 300, 130, 0.20, 300, 225),
    "face": View("kodim04", 190, 250, 0.15),
    "hair": View("kodim04", 130, 150, 0.15),
    "foliage": View("kodim07", 450, 190, 0.10),
    "water": View("kodim14", 300, 20, 0.30),
    "lettering": View("kodim08", 480, 240, 0.20),
    "plumage": View("kodim23", 60, 120, 0.10),
    "machinery": View("kodim05", 110, 180, 0.15),
    "sky": View("kodim20", 180, 160, 0.08),
    "border": View("kodim07", 528, 332, 0.10),
    "aeroplane": View("kodim20", 190, 190, 0.12, 300, 300, steps=True),
    "flower": View("kodim07", 280, 60, 0.12, 300, 300, steps=True),
}


def draw(codec: Codec, folder: Path, view: View) -> Image.Image:
    """Original, sfumato (twice, where a view is about the steps) and AVIF side by side."""
    path = folder / f"{view.image}.png"
    found = TargetBpp(view.bpp).search(codec, image.read(path))
    comparison = compare.compare(path, ["avif"], codec, found.q).comparison
    *ours, avif = comparison.renditions
    captions = [(comparison.original, view.image)]
    shown = (*(ours[1:] if view.steps else ours[:1]), avif)
    captions += [(one, f"{one.codec}, {one.size_bytes:,} bytes") for one in shown]
    width, height = view.width + GAP, view.height + BAR
    sheet = Image.new("RGB", (len(captions) * width - GAP, height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (rendition, caption) in enumerate(captions):
        with Image.open(io.BytesIO(rendition.data)) as whole:
            box = (view.left, view.top, view.left + view.width, view.top + view.height)
            sheet.paste(whole.convert("RGB").crop(box), (i * width, BAR))
        pen.text((i * width + 2, 1), caption, fill="black")
    return sheet


def main(
    kodak: Annotated[Path, tyro.conf.Positional],
    only: tuple[str, ...] = tuple(VIEWS),
    out: Path = FOLDER,
    model: str = DEFAULT_MODEL,
) -> None:
    """Make the crops.

    Args:
        kodak: folder with kodim01.png .. kodim24.png.
        only: names of views.
        out: folder for NAME.webp.
        model: weights by name, or a path.
    """
    out.mkdir(exist_ok=True)
    for name in only:
        sheet = draw(load(model), kodak, VIEWS[name])
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=88, method=6)
        write_bytes(out / f"{name}.webp", buffer.getvalue())
        print(f"{name}: {buffer.tell()} bytes", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
