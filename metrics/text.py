"""Images in, the text that a machine reads in them out; and how much of it a decoded image has lost.

The character error rate compares what is read in the decoded image with what is read in the original, so it
needs no transcription and does not count what the reader cannot read anyway.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

RGB = UInt8[np.ndarray, "h w 3"]

MINIMUM_TEXT = 10  # letters and digits; with fewer, an image is taken to hold no text
CONFIDENCE = 0.6  # of a line or word, 0 .. 1; what a reader is less sure of is mostly texture


@dataclass(frozen=True)
class Reader:
    """A program that reads text: its name and version, and what it reads in an image, without any spaces."""

    name: str
    read: Callable[[RGB], str]


def find_reader() -> Reader | None:
    """The best reader that is installed: the package rapidocr-onnxruntime, or the program tesseract; or none.

    RapidOCR first: it finds lettering in photographs that Tesseract, made for pages, misses, and takes
    texture for text less often.
    """
    if importlib.util.find_spec("rapidocr_onnxruntime") is not None:
        version = importlib.metadata.version("rapidocr-onnxruntime")
        return Reader(f"RapidOCR {version}", read_rapidocr)
    if shutil.which("tesseract") is not None:
        shown = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
        return Reader(f"Tesseract {shown.stdout.split()[1]}", read_tesseract)
    return None


def has_text(text: str) -> bool:
    """Whether what was read in an original is enough to compare anything with."""
    return sum(character.isalnum() for character in text) >= MINIMUM_TEXT


def character_error_rate(original: str, decoded: str) -> float:
    """Edits (Levenshtein 1966) that lead from one text to the other, for each character of the original.

    0 for equal texts, 1 when nothing is read any more, above 1 when more is made up than there was.
    ValueError for an original without text (`has_text`).
    """
    from rapidfuzz.distance import Levenshtein  # here: the other metrics do without the package

    if not has_text(original):
        raise ValueError(f"{original!r} is too little text to compare with")
    return Levenshtein.distance(original, decoded) / len(original)


def read_rapidocr(image: RGB) -> str:
    """Lines from top to bottom, by PP-OCR networks that come inside the package."""
    lines, _ = _rapidocr()(np.ascontiguousarray(image[:, :, ::-1]))  # it takes BGR, as OpenCV does
    return _joined((text, float(sure)) for _, text, sure in lines or ())


def read_tesseract(image: RGB) -> str:
    """Words in Tesseract's order, searched for everywhere (page segmentation mode 11, "sparse text").

    RuntimeError with the program's last line when it fails.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    command = ["tesseract", "stdin", "stdout", "--psm", "11", "tsv"]
    shown = subprocess.run(command, input=buffer.getvalue(), capture_output=True)
    if shown.returncode != 0:
        raise RuntimeError(f"tesseract: {(shown.stderr.decode().splitlines() or ['failed'])[-1]}")
    rows = [line.split("\t") for line in shown.stdout.decode().splitlines()[1:]]
    return _joined((row[11], float(row[10]) / 100) for row in rows if len(row) == 12)


def _joined(parts: Any) -> str:
    """What is sure enough, without spaces: readers disagree on those."""
    return "".join("".join(text.split()) for text, sure in parts if sure >= CONFIDENCE)


@lru_cache(maxsize=1)
def _rapidocr() -> Callable[..., Any]:
    package = importlib.import_module("rapidocr_onnxruntime")
    return package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
