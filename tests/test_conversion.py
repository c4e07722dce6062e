"""What the evaluation of a large set says of an image."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from sfumato.conversion import Evaluate
from sfumato.jobs import EncodeJob
from sfumato.manifest import to_status


def test_evaluation_sees_what_a_viewer_sees() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plane = np.zeros((64, 64), np.uint8)
    plane[16:48, 16:48] = 255
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (64, 64, 3))
    found = {}
    for name, hidden in (("black", 0), ("noise", noise)):
        pixels = np.where(plane[..., None] > 0, smooth, hidden).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(np.dstack([pixels, plane])).save(buffer, "PNG")
        found[name] = Evaluate(EncodeJob(quality=0.8, few_colours=False)).apply(
            buffer.getvalue(), "a.png", ""
        )
    assert found["noise"].row["psnr_db"] == found["black"].row["psnr_db"] > 25


def test_an_exact_image_has_no_psnr_that_json_cannot_hold() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(buffer, "PNG")
    row = Evaluate(EncodeJob(quality=0.8)).apply(buffer.getvalue(), "a.png", "").row
    assert row["model"] == "lossless" and row["psnr_db"] is None
    assert "null" in to_status([row]).decode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_status([row | {"psnr_db": math.inf}])
