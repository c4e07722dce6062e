"""Tar shards or folders of photographs in, random crops on the device out.

All pictures are decoded once into one flat uint8 tensor (on the device that trains), so that a batch
costs no more than indexing: crop, flip and rescale happen where the pictures lie.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

SUFFIXES = {".avif", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def _blobs(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every picture in a tar or under a folder, in the order of their names."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield path.name, path.read_bytes()
            elif path.suffix == ".tar":
                yield from _blobs(path)
        return
    if not tarfile.is_tarfile(source):
        raise ValueError(f"{source} is neither a folder nor a tar")
    with tarfile.open(source) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            file = tar.extractfile(member) if Path(member.name).suffix.lower() in SUFFIXES else None
            if file is not None:
                yield member.name, file.read()


def _decode(blob: tuple[str, bytes]) -> np.ndarray:
    name, data = blob
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise what they like
        raise ValueError(f"{name}: cannot be read: {error}") from error


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures, one after another in `pixels`."""

    pixels: UInt8[Tensor, " total"]  # on the training device
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]  # height, width

    @classmethod
    def load(cls, sources: list[Path], device: torch.device, smallest: int) -> Pictures:
        """Decode every picture whose shorter side is at least `smallest` pixels."""
        arrays = []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for source in sources:
                if not source.exists():
                    raise FileNotFoundError(f"no training data at {source}")
                arrays += [a for a in pool.map(_decode, _blobs(source)) if min(a.shape[:2]) >= smallest]
        if not arrays:
            raise ValueError(f"no picture of at least {smallest} px a side in {[str(s) for s in sources]}")
        sizes = [a.size for a in arrays]
        pixels = torch.empty(sum(sizes), dtype=torch.uint8)
        starts, at = [], 0
        shapes = []
        for i, size in enumerate(sizes):
            pixels[at : at + size] = torch.from_numpy(arrays[i].reshape(-1))
            shapes.append(arrays[i].shape[:2])
            arrays[i] = np.empty(0, np.uint8)  # both copies of 1.7 GB at once are not needed
            starts.append(at)
            at += size
        return cls(pixels.to(device), tuple(starts), tuple(shapes))

    def __len__(self) -> int:
        return len(self.starts)

    def picture(self, index: int) -> UInt8[Tensor, "h w 3"]:
        height, width = self.shapes[index]
        start = self.starts[index]
        return self.pixels[start : start + height * width * 3].view(height, width, 3)

    def split(self, held_out: int) -> tuple[Pictures, Pictures]:
        """(for training, for validation): `held_out` pictures, evenly spread, never trained on."""
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}; of {len(self)} pictures it must leave some")
        chosen = set(np.linspace(0, len(self) - 1, held_out).astype(int).tolist())
        parts = [[i for i in range(len(self)) if (i in chosen) == inside] for inside in (False, True)]
        train, held = (
            Pictures(self.pixels, tuple(self.starts[i] for i in p), tuple(self.shapes[i] for i in p))
            for p in parts
        )
        return train, held

    def batch(self, n: int, crop: int, rng: np.random.Generator) -> Float[Tensor, "n 3 crop crop"]:
        """Random crops in [-1, 1]: pictures by area, half of them rescaled by 0.5 .. 1, flipped at random."""
        area = np.array([h * w for h, w in self.shapes], dtype=np.float64)
        chosen = rng.choice(len(self), n, p=area / area.sum())
        return torch.cat([self._crop(int(i), crop, rng) for i in chosen])

    def _crop(self, index: int, crop: int, rng: np.random.Generator) -> Float[Tensor, "1 3 crop crop"]:
        picture = self.picture(index)
        height, width = picture.shape[:2]
        scale = rng.uniform(0.5, 1.0) if rng.random() < 0.5 else 1.0
        side = min(round(crop / scale), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        x = picture[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 127.5 - 1
        if side != crop:
            x = F.interpolate(x, (crop, crop), mode="bicubic", antialias=True).clamp(-1, 1)
        return x.flip(3) if rng.random() < 0.5 else x

    def centres(self, crop: int) -> Float[Tensor, "n 3 crop crop"]:
        """The middle of every picture, for validation."""
        out = []
        for i in range(len(self)):
            height, width = self.shapes[i]
            top, left = (height - crop) // 2, (width - crop) // 2
            out.append(self.picture(i)[top : top + crop, left : left + crop])
        return torch.stack(out).permute(0, 3, 1, 2).float() / 127.5 - 1
