"""Tar shards or folders of images in, random crops on the device out.

All images are decoded once into one flat uint8 array, so that a batch costs no more than indexing: crop, flip
and rescale happen where the images lie.  With a cache folder the array is a file that is mapped into memory,
which several runs on one machine share.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from training.synthetic import synthetic_crop

SUFFIXES = {".avif", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
RESCALED_PHOTOS, RESCALED_SCREENS = 0.5, 0.2  # shares of the crops that are scaled down by 0.5 .. 1


def _blobs(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every image in a tar or under a folder, in the order of their names."""
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


def decode(blob: tuple[str, bytes]) -> np.ndarray:
    """The pixels, uint8 [h, w, 3]; ValueError, with the name, for what cannot be read."""
    name, data = blob
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise what they like
        raise ValueError(f"{name}: cannot be read: {error}") from error


def _decode_all(sources: list[Path], smallest: int) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for source in sources:
            if not source.exists():
                raise FileNotFoundError(f"no training data at {source}")
            arrays += [a for a in pool.map(decode, _blobs(source)) if min(a.shape[:2]) >= smallest]
    if not arrays:
        raise ValueError(f"no image of at least {smallest} px a side in {[str(s) for s in sources]}")
    return arrays


def _cache_key(sources: list[Path], smallest: int) -> str:
    """Changes with the list, size and time of the files that are read."""
    files = [p for s in sources for p in (sorted(s.rglob("*")) if s.is_dir() else [s]) if p.is_file()]
    seen = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps([smallest, seen]).encode()).hexdigest()[:16]


def _starts(shapes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    sizes = [height * width * 3 for height, width in shapes]
    return tuple(int(v) for v in np.cumsum([0, *sizes[:-1]]))


@dataclass(frozen=True)
class Images:
    """Decoded images, one after another in `pixels`."""

    pixels: UInt8[Tensor, " total"]  # on the training device, or mapped from the cache
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]  # height, width

    @classmethod
    def load(
        cls, sources: list[Path], device: torch.device, smallest: int, cache: Path | None = None
    ) -> Images:
        """Decode every image whose shorter side is at least `smallest` pixels.

        `cache` is a folder for the decoded pixels (three bytes each).  Raises FileNotFoundError for a missing
        source, ValueError for one that is no tar or folder, for an image that cannot be read, and for none.
        """
        if cache is None:
            return cls._joined(_decode_all(sources, smallest), device)
        missing = [s for s in sources if not s.exists()]
        if missing:
            raise FileNotFoundError(f"no training data at {missing[0]}")
        stem = cache / _cache_key(sources, smallest)
        data, index = stem.with_suffix(".rgb"), stem.with_suffix(".json")
        if not index.exists():
            cache.mkdir(parents=True, exist_ok=True)
            arrays = _decode_all(sources, smallest)
            part = data.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                for array in arrays:
                    file.write(array.tobytes())
            part.replace(data)
            part.write_text(json.dumps([a.shape[:2] for a in arrays]))
            part.replace(index)
        shapes = tuple((h, w) for h, w in json.loads(index.read_text()))
        pixels = torch.from_file(str(data), shared=False, size=data.stat().st_size, dtype=torch.uint8)
        return cls(pixels if device.type == "cpu" else pixels.to(device), _starts(shapes), shapes)

    @classmethod
    def _joined(cls, arrays: list[np.ndarray], device: torch.device) -> Images:
        shapes = tuple((a.shape[0], a.shape[1]) for a in arrays)
        starts = _starts(shapes)
        pixels = torch.empty(sum(a.size for a in arrays), dtype=torch.uint8)
        for i, start in enumerate(starts):
            pixels[start : start + arrays[i].size] = torch.from_numpy(arrays[i].reshape(-1))
            arrays[i] = np.empty(0, np.uint8)  # both copies of some gigabytes at once are not needed
        return cls(pixels.to(device), starts, shapes)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def facts(self) -> dict[str, int]:
        """For the log."""
        return {"images": len(self)}

    def image(self, index: int) -> UInt8[Tensor, "h w 3"]:
        height, width = self.shapes[index]
        start = self.starts[index]
        return self.pixels[start : start + height * width * 3].view(height, width, 3)

    def split(self, held_out: int) -> tuple[Images, Images]:
        """(for training, for validation): `held_out` images, evenly spread, never trained on."""
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}; of {len(self)} images it must leave some")
        chosen = set(np.linspace(0, len(self) - 1, held_out).astype(int).tolist())
        parts = [[i for i in range(len(self)) if (i in chosen) == inside] for inside in (False, True)]
        train, held = (
            Images(self.pixels, tuple(self.starts[i] for i in p), tuple(self.shapes[i] for i in p))
            for p in parts
        )
        return train, held

    def crop(
        self, side: int, rng: np.random.Generator, rescaled: float, tries: int = 1
    ) -> Float[Tensor, "1 3 side side"]:
        """A random crop in [-1, 1]: images by area, a share `rescaled` of them scaled by 0.5 .. 1, flipped.

        Of `tries` places the one with the largest variance is taken: screens are mostly empty.
        """
        area = np.array([h * w for h, w in self.shapes], dtype=np.float64)
        image = self.image(int(rng.choice(len(self), p=area / area.sum())))
        return random_crop(image, side, rng, rescaled, tries)

    def centres(self, side: int) -> Float[Tensor, "n 3 side side"]:
        """The middle of every image, for validation."""
        out = []
        for i in range(len(self)):
            height, width = self.shapes[i]
            top, left = (height - side) // 2, (width - side) // 2
            out.append(self.image(i)[top : top + side, left : left + side])
        return torch.stack(out).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_crop(
    image: UInt8[Tensor, "h w 3"], side: int, rng: np.random.Generator, rescaled: float, tries: int = 1
) -> Float[Tensor, "1 3 side side"]:
    """A crop of one image, as `Images.crop` has it."""
    height, width = image.shape[:2]
    scale = rng.uniform(0.5, 1.0) if rng.random() < rescaled else 1.0
    cut = min(round(side / scale), height, width)
    found: list[Tensor] = []
    for _ in range(tries):
        top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
        found.append(image[top : top + cut, left : left + cut].float())
    x = max(found, key=lambda c: float(c.var())) if tries > 1 else found[0]
    x = x.permute(2, 0, 1)[None] / 127.5 - 1
    if cut != side:
        x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    return x.flip(3) if rng.random() < 0.5 else x


@runtime_checkable
class Source(Protocol):
    """What random crops are cut from: `Images` in memory, or `streaming.Stream`."""

    @property
    def device(self) -> torch.device: ...

    def crop(
        self, side: int, rng: np.random.Generator, rescaled: float, tries: int = 1
    ) -> Float[Tensor, "1 3 side side"]: ...

    def facts(self) -> dict[str, int]: ...


class Kind(IntEnum):
    """Where a crop of a `Mixture` comes from."""

    PHOTO = 0
    SCREEN = 1
    FLAT = 2  # rendered: flat colours, gradients


@dataclass(frozen=True)
class Mixture:
    """What batches are drawn from: photographs, and by their shares screens and rendered flat crops."""

    photos: Source
    screens: Images | None = None
    screen_share: float = 0.0
    flat_share: float = 0.0

    def batch(
        self, n: int, side: int, rng: np.random.Generator
    ) -> tuple[Float[Tensor, "n 3 side side"], Int[Tensor, " n"]]:
        """Random crops in [-1, 1], and what each is, as numbers of `Kind`."""
        device = self.photos.device
        crops, kinds = [], []
        for _ in range(n):
            kind = rng.random()
            if kind < self.flat_share:
                crops.append(synthetic_crop(side, rng).to(device))
                kinds.append(Kind.FLAT)
            elif kind < self.flat_share + self.screen_share and self.screens is not None:
                crops.append(self.screens.crop(side, rng, RESCALED_SCREENS, tries=2))
                kinds.append(Kind.SCREEN)
            else:
                crops.append(self.photos.crop(side, rng, RESCALED_PHOTOS))
                kinds.append(Kind.PHOTO)
        return torch.cat(crops), torch.tensor(kinds, device=device)
