"""Features of the crops of a set in, how natural the set looks out: a row a codec and setting.

OUT/features/CROP_PX/CODEC/SETTING/PICTURE.npy [n, 1280], beside those of the originals -> FD-EffLite0, KID
"""

from __future__ import annotations

import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from evaluation.rows import Row, SetRow
from metrics.frechet import Frechet, KernelDistance
from sfumato.image import write_bytes

ORIGINAL = "_original"  # takes the place of a codec's name
SMALL_CROP, LARGE_CROP = 64, 256  # pixels
LARGE_PICTURE = 1 << 20  # pixels, of the median picture of a set


def crop_side(pictures: list[Path]) -> int:
    """256 pixels for sets whose median picture has 2^20 pixels or more, as HiFiC has it for CLIC; else 64."""
    sizes = []
    for path in pictures:
        try:
            with Image.open(path) as picture:
                sizes.append(picture.width * picture.height)
        except Exception:  # told where the picture is read
            continue
    return LARGE_CROP if sizes and statistics.median(sizes) >= LARGE_PICTURE else SMALL_CROP


def features_file(out: Path, crop_px: int, codec: str, setting: str, picture: str) -> Path:
    """Where the features of one picture's crops lie."""
    return out / "features" / str(crop_px) / codec / setting / f"{picture}.npy"


def save_features(path: Path, vectors: Float[np.ndarray, "n 1280"]) -> None:
    """As float16: its rounding, 5e-4 of a value, is far below what a codec changes; it halves the files."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float16), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def set_rows(
    out: Path, rows: Iterable[Row], crop_px: int, metrics: Sequence[str]
) -> tuple[list[SetRow], list[str]]:
    """A row for each codec and setting, over the pictures that all of them have; and lines on problems.

    `metrics` are of fd_efflite0 and kid.  Rows without features, as of a run without those, are left out.
    """
    groups: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    ids: dict[str, str] = {}
    for row in rows:
        if not features_file(out, crop_px, row.codec, row.setting, row.picture).is_file():
            continue
        groups[row.dataset, row.codec, row.setting][row.picture] = row
        ids[row.picture] = row.picture_id
    if not groups:
        return [], []
    shared = sorted(set.intersection(*(set(group) for group in groups.values())))
    problems = []
    names = ", ".join(metrics)
    if len(shared) < len(ids):
        count = f"{len(shared)} of {len(ids)} pictures"
        problems.append(f"{names}: over {count}, those that every codec has at every setting")
    original = _load([features_file(out, crop_px, ORIGINAL, "", f"{name}-{ids[name]}") for name in shared])
    if len(original) < 2:
        return [], [*problems, f"{names}: not measured, the pictures hold no crops of {crop_px} pixels"]
    frechet = Frechet(original) if "fd_efflite0" in metrics else None
    kernel = KernelDistance(original) if "kid" in metrics else None
    result = []
    for (dataset, codec, setting), group in groups.items():
        decoded = _load([features_file(out, crop_px, codec, setting, name) for name in shared])
        result.append(
            SetRow(
                dataset=dataset,
                codec=codec,
                setting=setting,
                bpp=sum(group[name].bpp for name in shared) / len(shared),
                fd_efflite0=frechet.distance(decoded) if frechet else math.nan,
                kid=kernel.distance(decoded) if kernel else math.nan,
                crops=len(decoded),
                crop_px=crop_px,
            )
        )
    return result, problems


def _load(paths: list[Path]) -> Float[np.ndarray, "n 1280"]:
    parts = [np.load(path, allow_pickle=False) for path in paths]
    return np.concatenate(parts).astype(np.float32) if parts else np.empty((0, 0), np.float32)
