"""A picture and a setting in, a file on disk out, and the picture read back: sfumato and its rivals."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

import sfumato
from sfumato import DEFAULT_MODEL
from sfumato.image import read, write_bytes

Picture = UInt8[np.ndarray, "h w 3"]

SFUMATO_Q = tuple(i / 8 for i in range(9))
JPEG_QUALITY = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)
WEBP_QUALITY = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
AVIF_QUALITY = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90)

# JPEG with 4:2:0 chroma, its default; WebP knows nothing else.  Slow settings: the smallest files.
JPEG_OPTIONS = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
WEBP_OPTIONS = {"method": 6}
AVIF_OPTIONS = {"subsampling": "4:4:4", "speed": 4}


@dataclass(frozen=True)
class Codec:
    """`encode(picture, setting, path)` writes a file and `decode(path)` reads it back."""

    name: str
    suffix: str
    settings: tuple[float, ...]
    encode: Callable[[Picture, float, Path], None]
    decode: Callable[[Path], Picture]


def codec(name: str, separate: bool = False, model: str = DEFAULT_MODEL) -> Codec:
    """A codec by its name: jpeg, webp, avif, sfumato, or sfumato:N for N steps of the decoder (default 0).

    `separate` runs sfumato's encoder and decoder as two processes that share the file alone, as a sender and
    a receiver do; `model` names its weights, or is a path to them.
    Raises ValueError for an unknown name or a format that this Pillow
    cannot write.
    """
    if name in CLASSICAL:
        suffix, settings, options = CLASSICAL[name]
        if not features.check(name if name != "jpeg" else "jpg"):
            raise ValueError(f"this Pillow cannot write {name}")
        encode = partial(encode_classical, format=name.upper(), options=options)
        return Codec(name, suffix, settings, encode, read)
    base, _, steps = name.partition(":")
    if base != "sfumato" or (steps and not steps.isdecimal()) or name.endswith(":"):
        raise ValueError(f"unknown codec {name!r}; known are sfumato, sfumato:STEPS, {', '.join(CLASSICAL)}")
    encoder: Callable[..., Any] = partial(encode_sfumato, model=model)
    decoder: Callable[..., Any] = partial(decode_sfumato, steps=int(steps or 0), model=model)
    if separate:
        encoder, decoder = in_its_own_process(encoder), in_its_own_process(decoder)
    return Codec(name, ".sfu", SFUMATO_Q, encoder, decoder)


CLASSICAL: dict[str, tuple[str, tuple[float, ...], dict[str, Any]]] = {
    "jpeg": (".jpg", JPEG_QUALITY, JPEG_OPTIONS),
    "webp": (".webp", WEBP_QUALITY, WEBP_OPTIONS),
    "avif": (".avif", AVIF_QUALITY, AVIF_OPTIONS),
}


def encode_classical(
    picture: Picture, quality: float, path: Path, *, format: str, options: dict[str, Any]
) -> None:
    """Through Pillow; no metadata is written."""
    Image.fromarray(picture).save(path, format, quality=int(quality), **options)


def encode_sfumato(picture: Picture, q: float, path: Path, *, model: str) -> None:
    """In this process; `q` in [0, 1]."""
    write_bytes(path, sfumato.encode(picture, q=q, model=model))


def decode_sfumato(path: Path, *, steps: int, model: str) -> Picture:
    """In this process, from nothing but the file and the weights."""
    return sfumato.decode(path.read_bytes(), steps=steps, model=model)


def in_its_own_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run in a fresh process that lives on between calls; its exceptions come back."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def call(*arguments: object, **options: object) -> Any:
        return pool.submit(function, *arguments, **options).result()

    return call
