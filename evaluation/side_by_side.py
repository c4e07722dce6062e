"""python -m evaluation.side_by_side PICTURE ... -o OUT.webp: original, AVIF and sfumato at equal size.

One row a picture and rate, cropped to the middle; the file of AVIF is the smallest that is not smaller
than ours.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw

from sfumato import DEFAULT_MODEL, image
from sfumato.codec import load
from sfumato.decode_options import DecodeOptions
from sfumato.rate_control import TargetBpp

SIDE = 384  # pixels of a crop
BAR = 16  # pixels of the caption over it


def avif(pixels: np.ndarray, size: int) -> bytes:
    """The smallest AVIF (4:4:4, speed 4) of at least `size` bytes."""
    picture = Image.fromarray(pixels)
    low, high = 0, 100
    found = b""
    while low <= high:
        middle = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "AVIF", quality=middle, speed=4, subsampling="4:4:4")
        if buffer.tell() >= size:
            found, high = buffer.getvalue(), middle - 1
        else:
            low = middle + 1
    return found


def main(
    pictures: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    bpp: tuple[float, ...] = (0.15, 0.3),
    steps: tuple[int, ...] = (0,),
    model: str = DEFAULT_MODEL,
) -> None:
    """Make the picture.

    Args:
        pictures: files.
        output: the picture to write.
        bpp: rates in bits per pixel, one row each.
        steps: of our decoder, one column each.
        model: weights by name, or a path.
    """
    codec = load(model)
    rows = []
    for path in pictures:
        pixels = image.read(path)
        top, left = (max(0, side - SIDE) // 2 for side in pixels.shape[:2])
        crop = (slice(top, top + SIDE), slice(left, left + SIDE))
        for rate in bpp:
            fit = TargetBpp(rate).search(codec, pixels)
            data = fit.data
            other = avif(pixels, len(data))
            cells = [(pixels, f"{path.stem}, original")]
            with Image.open(io.BytesIO(other)) as decoded:
                cells.append((np.array(decoded.convert("RGB")), f"AVIF, {len(other)} bytes"))
            for n in steps:
                caption = f"sfumato, {len(data)} bytes (q {fit.q:.2f}, steps {n})"
                cells.append((codec.decode_image(data, DecodeOptions(steps=n)).rgb, caption))
            rows.append(np.concatenate([_cell(picture[crop], text) for picture, text in cells], 1))
    sheet = Image.fromarray(np.concatenate(rows))
    buffer = io.BytesIO()
    sheet.save(buffer, image.format_of(output), quality=92)
    image.write_bytes(output, buffer.getvalue())
    print(f"{output}: {sheet.width}x{sheet.height}")


def _cell(pixels: np.ndarray, text: str) -> np.ndarray:
    cell = Image.new("RGB", (pixels.shape[1] + 4, pixels.shape[0] + BAR), "white")
    cell.paste(Image.fromarray(pixels), (0, BAR))
    ImageDraw.Draw(cell).text((2, 2), text, fill="black")
    return np.array(cell)


if __name__ == "__main__":
    tyro.cli(main)
