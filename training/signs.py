"""A crop of a photograph and a random generator in, the same crop with a sign in it out.

Few photographs hold lettering: plates, posters and labels with letters, arrows and frames, seen at an angle
under uneven light by a camera that blurs and adds noise.  A codec that never saw them frays their letters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SCALE = 2  # drawn so many times as large, then averaged: edges as a sensor sees them
Ink = tuple[int, int, int, int]


def sign_crop(
    photo: Float[Tensor, "1 3 side side"], rng: np.random.Generator
) -> Float[Tensor, "1 3 side side"]:
    """A sign over part or all of a photograph, as eight bits would hold it; both in [-1, 1], on the CPU."""
    side = photo.shape[-1]
    drawn = _at_an_angle(_plate(SCALE * side, rng), rng)
    drawn = drawn.resize((side, side), Image.Resampling.BOX)
    if rng.random() < 0.7:
        drawn = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    sign = np.asarray(drawn, np.float64)
    alpha = sign[..., 3:] / 255
    ground = (photo[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    # Pillow multiplies nothing by alpha: where the sign is thin its colours are those of the plate
    image = alpha * sign[..., :3] * _light(side, rng) + (1 - alpha) * ground
    if rng.random() < 0.6:
        image = image + alpha * rng.normal(0, rng.uniform(0.3, 3), (side, side, 1))
    levels = np.rint(image.clip(0, 255)).astype(np.float32)
    return torch.from_numpy(levels).permute(2, 0, 1)[None] / 127.5 - 1


def _colours(rng: np.random.Generator) -> tuple[Ink, Ink]:
    """Those of plate and lettering, at least 70 levels of luma apart."""
    while True:
        plate = rng.integers(0, 256, 3) if rng.random() < 0.7 else np.full(3, rng.integers(0, 256))
        if rng.random() < 0.4:  # paint is often saturated: one channel near zero
            plate[rng.integers(3)] //= 6
        ink = np.full(3, rng.choice([10, 40, 220, 245])) if rng.random() < 0.7 else rng.integers(0, 256, 3)
        if abs(float((plate - ink) @ (0.299, 0.587, 0.114))) >= 70:
            return (*map(int, plate), 255), (*map(int, ink), 255)  # type: ignore[return-value]


def _plate(side: int, rng: np.random.Generator) -> Image.Image:
    """A sign seen from the front, RGBA; around it nothing, in the plate's colour."""
    plate, ink = _colours(rng)
    image = Image.new("RGBA", (side, side), (*plate[:3], 0))
    draw = ImageDraw.Draw(image)
    width, height = (int(side * rng.uniform(0.5, 1.6)) for _ in range(2))
    left, top = ((side - extent) // 2 + int(side * rng.uniform(-0.2, 0.2)) for extent in (width, height))
    box = (left, top, left + width, top + height)
    radius = int(rng.uniform(0, 0.12) * min(width, height))
    draw.rounded_rectangle(box, radius, fill=plate)
    inset = int(side * rng.uniform(0.01, 0.05))
    if rng.random() < 0.5:
        inner = (box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset)
        draw.rounded_rectangle(inner, radius, outline=ink, width=int(rng.integers(2, 12)))
    margin = 2 * inset
    y = max(box[1], 0) + margin
    while y < min(box[3], side) - 3 * margin:
        size = int(SCALE * rng.uniform(9, 56))
        x = max(box[0], 0) + margin + int(rng.uniform(0, 0.2) * width)
        y += _line((x, y), min(box[2], side) - margin - x, size, ink, draw, rng) + int(
            size * rng.uniform(0.2, 0.8)
        )
    return image


def _line(
    at: tuple[int, int], length: int, size: int, ink: Ink, draw: ImageDraw.ImageDraw, rng: np.random.Generator
) -> int:
    """A line of letters, of strokes as another script might have, or an arrow; returns its height, pixels."""
    kind, (x, y) = rng.random(), at
    if kind < 0.6:
        words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 10))) for _ in range(rng.integers(1, 5))]
        font = ImageFont.load_default(size)
        text = " ".join(words)[: max(1, int(length / (0.55 * size)))]
        draw.text((x, y), text, ink, font, stroke_width=int(rng.integers(0, 1 + size // 16)))
        return size
    pen = max(2, int(size * rng.uniform(0.07, 0.18)))
    if kind < 0.9:
        for left in range(x, x + max(size, length - size), int(size * 1.2)):
            for _ in range(rng.integers(2, 6)):
                ends = [(left + int(size * u), y + int(size * v)) for u, v in rng.integers(0, 4, (2, 2)) / 3]
                if rng.random() < 0.25:
                    (x0, y0), (x1, y1) = ends
                    draw.ellipse((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=ink, width=pen)
                else:
                    draw.line(ends, ink, pen)
        return size
    middle, head, end = y + size // 2, size // 2, x + max(size, int(length * rng.uniform(0.2, 1)))
    draw.line((x, middle, end - head // 2, middle), ink, 2 * pen)
    draw.polygon(((end - head, middle - head), (end, middle), (end - head, middle + head)), ink)
    return size


def _at_an_angle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by some degrees, corners moved by up to 8 % of the side: a view in perspective."""
    side = image.width
    turn = math.radians(rng.normal(0, 5))
    corners = np.array([(0, 0), (side, 0), (side, side), (0, side)], np.float64)
    rotation = np.array([(math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))])
    seen = (corners - side / 2) @ rotation.T + side / 2 + rng.uniform(-0.08, 0.08, (4, 2)) * side
    rows, wanted = [], []
    for (x, y), (u, v) in zip(corners, seen, strict=True):  # where each output pixel (x, y) is taken from
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        wanted += [u, v]
    eight = np.linalg.solve(np.array(rows), np.array(wanted))
    fill = image.getpixel((0, 0)) if image.getpixel((0, 0))[3] == 0 else None  # type: ignore[index]
    how = Image.Transform.PERSPECTIVE, tuple(eight), Image.Resampling.BICUBIC
    return image.transform(image.size, *how, fillcolor=fill)


def _light(side: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth factor from 0.55 to 1.1 over the plate, [side, side, 1]."""
    coarse = Image.fromarray(rng.uniform(0.55, 1.1, (3, 3)).astype(np.float32))
    ramp = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))[..., None]
    share = rng.uniform(0, 1) ** 2  # most plates are lit nearly evenly
    return 1 + share * (ramp - 1)
