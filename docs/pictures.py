"""python -m docs.pictures KODAK: parts of the Kodak pictures, by sfumato and AVIF at one size, for the page.

The rates are bits per pixel of the whole picture, and ours is the best file that is not over them, so the
pictures can be made anew with other weights.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image, ImageDraw

from sfumato import DEFAULT_MODEL, compare, image
from sfumato.codec import Codec, load
from sfumato.target import Rate

FOLDER = Path(__file__).with_name("pictures")
WIDTH, HEIGHT = 240, 180  # of a part, pixels
BAR, GAP = 14, 4  # height of the captions, space between the parts
VIEWS = {  # name: picture, left, top, bits per pixel
    "face": ("kodim04", 190, 250, 0.15),
    "hair": ("kodim04", 130, 150, 0.15),
    "foliage": ("kodim07", 450, 190, 0.10),
    "water": ("kodim14", 300, 20, 0.30),
    "lettering": ("kodim08", 480, 240, 0.20),
    "plumage": ("kodim23", 60, 120, 0.10),
    "machinery": ("kodim05", 110, 180, 0.15),
    "sky": ("kodim20", 180, 160, 0.08),
    "border": ("kodim07", 528, 332, 0.10),
}


def view(codec: Codec, path: Path, left: int, top: int, bpp: float) -> Image.Image:
    """Original, sfumato and AVIF side by side: the part at (left, top) of WIDTH x HEIGHT pixels."""
    fit = Rate(bpp).fit(codec, image.read(path))
    scene = compare.compare(path, ["avif"], codec, fit.q).scene
    sheet = Image.new("RGB", (3 * WIDTH + 2 * GAP, HEIGHT + BAR), "white")
    draw = ImageDraw.Draw(sheet)
    names = (path.stem, f"sfumato, {len(fit.data):,} bytes", f"AVIF, {scene.versions[-1].size_bytes:,} bytes")
    shown = (scene.original, scene.versions[0], scene.versions[-1])
    for i, (name, version) in enumerate(zip(names, shown, strict=True)):
        with Image.open(io.BytesIO(version.data)) as whole:
            part = whole.convert("RGB").crop((left, top, left + WIDTH, top + HEIGHT))
        sheet.paste(part, (i * (WIDTH + GAP), BAR))
        draw.text((i * (WIDTH + GAP) + 2, 1), name, fill="black")
    return sheet


def main(
    kodak: Annotated[Path, tyro.conf.Positional],
    only: tuple[str, ...] = tuple(VIEWS),
    out: Path = FOLDER,
    model: str = DEFAULT_MODEL,
) -> None:
    """Make the pictures.

    Args:
        kodak: folder with kodim01.png .. kodim24.png.
        only: names of views.
        out: folder for NAME.webp.
        model: weights by name, or a path.
    """
    out.mkdir(exist_ok=True)
    for name in only:
        picture, left, top, bpp = VIEWS[name]
        sheet = view(load(model), kodak / f"{picture}.png", left, top, bpp)
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=88, method=6)
        image.write_bytes(out / f"{name}.webp", buffer.getvalue())
        print(f"{name}: {buffer.tell()} bytes", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
