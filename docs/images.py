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
    seeds: bool = False  # by sfumato without the refinement, and with two seeds of it


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
    "aeroplane": View("kodim20", 190, 190, 0.12, 300, 300, seeds=True),
    "flower": View("kodim07", 280, 60, 0.12, 300, 300, seeds=True),
    "hair-seeds": View("kodim04", 130, 150, 0.12, seeds=True),
    "water-seeds": View("kodim14", 300, 20, 0.12, seeds=True),
}


def draw(codec: Codec, folder: Path, view: View) -> Image.Image:
    """Original, sfumato (three times, where a view is about seeds) and AVIF side by side."""
    path = folder / f"{view.image}.png"
    found = TargetBpp(view.bpp).search(codec, image.read(path))
    comparison = compare.compare(path, ["avif"], codec, found.q).comparison
    ours, *_, avif = comparison.renditions
    parts = [(_opened(comparison.original.data), view.image)]
    parts.append((_opened(ours.data), f"{ours.codec}, {ours.size_bytes:,} bytes"))
    if view.seeds:
        files = [codec.encode(image.read(path), q=found.q, seed=seed) for seed in (1, 2)]
        parts[1:] = [(Image.fromarray(codec.decode(files[0], steps=0)), f"{parts[1][1]}, not refined")]
        parts += [
            (Image.fromarray(codec.decode(data)), f"refined, seed {n}") for n, data in enumerate(files, 1)
        ]
    parts.append((_opened(avif.data), f"{avif.codec}, {avif.size_bytes:,} bytes"))
    width, height = view.width + GAP, view.height + BAR
    sheet = Image.new("RGB", (len(parts) * width - GAP, height), "white")
    pen = ImageDraw.Draw(sheet)
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    for i, (whole, caption) in enumerate(parts):
        sheet.paste(whole.crop(box), (i * width, BAR))
        pen.text((i * width + 2, 1), caption, fill="black")
    return sheet


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as whole:
        return whole.convert("RGB")


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
