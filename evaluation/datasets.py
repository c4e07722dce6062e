"""Metrics of whole data sets, from the features of crops: a record for each codec and setting.

OUT/features/CROP_PX/CODEC/SETTING/IMAGE.npy [n, 1280], beside those of the originals -> FD-EffLite0, KID
"""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from evaluation.metrics import METRICS
from evaluation.records import DatasetRecord, Record
from sfumato.files import write_bytes

ORIGINAL = "_original"  # takes the place of a codec's name
SMALL_CROP, LARGE_CROP = 64, 256  # pixels
LARGE_IMAGE = 1 << 20  # pixels, of the median image of a data set


def crop_side(images: list[Path]) -> int:
    """256 pixels for sets whose median image has 2^20 pixels or more, as HiFiC has it for CLIC; else 64."""
    sizes = []
    for path in images:
        try:
            with Image.open(path) as image:
                sizes.append(image.width * image.height)
        except Exception:  # the warning comes where the image is read
            continue
    return LARGE_CROP if sizes and statistics.median(sizes) >= LARGE_IMAGE else SMALL_CROP


def features_file(out: Path, crop_px: int, codec: str, setting: str, image: str) -> Path:
    """Where the features of one image's crops lie."""
    return out / "features" / str(crop_px) / codec / setting / f"{image}.npy"


def save_features(path: Path, vectors: Float[np.ndarray, "n 1280"]) -> None:
    """As float16: its rounding, 5e-4 of a value, is far below what a codec changes; it halves the files."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float16), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def dataset_records(
    out: Path, records: Iterable[Record], crop_px: int, metrics: Sequence[str]
) -> tuple[list[DatasetRecord], list[str]]:
    """A record for each codec and setting, over the images that all of them have; and warnings.

    `metrics` are of whole data sets.  Records without features, as of a run without those, are left out.
    """
    groups: dict[tuple[str, str, str], dict[str, Record]] = defaultdict(dict)
    for record in records:
        if features_file(out, crop_px, record.codec, record.setting, record.image).is_file():
            groups[record.dataset, record.codec, record.setting][record.image] = record
    if not groups:
        return [], []
    ids = {name: record.image_id for group in groups.values() for name, record in group.items()}
    shared = sorted(set.intersection(*(set(group) for group in groups.values())))
    warnings, names = [], ", ".join(metrics)
    if len(shared) < len(ids):
        count = f"{len(shared)} of {len(ids)} images"
        warnings.append(f"{names}: over {count}, those that every codec has at every setting")
    original = _load([features_file(out, crop_px, ORIGINAL, "", f"{name}-{ids[name]}") for name in shared])
    if len(original) < 2:
        return [], [*warnings, f"{names}: not measured, the images hold no crops of {crop_px} pixels"]
    makers = {name: METRICS[name].distance for name in metrics}
    distances = {name: make(original) for name, make in makers.items() if make is not None}
    found = []
    for (dataset, codec, setting), group in groups.items():
        decoded = _load([features_file(out, crop_px, codec, setting, name) for name in shared])
        found.append(
            DatasetRecord(
                dataset=dataset,
                codec=codec,
                setting=setting,
                bpp=sum(group[name].bpp for name in shared) / len(shared),
                values={name: one.distance(decoded) for name, one in distances.items()},
                crops=len(decoded),
                crop_px=crop_px,
            )
        )
    return found, warnings


def _load(paths: list[Path]) -> Float[np.ndarray, "n 1280"]:
    parts = [np.load(path, allow_pickle=False) for path in paths]
    return np.concatenate(parts).astype(np.float32) if parts else np.empty((0, 0), np.float32)
