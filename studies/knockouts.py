"""python -m studies.knockouts DIR -o CSV: what each context is worth to weights that were trained with it.

Parts of the shipped entropy model are switched off without training anew (a weight is set to zero), and the
ideal bits of every image are counted again.  A figure is an upper bound of what a model would lose that was
trained without the part; 0 means that the part does nothing.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from sfumato import image
from sfumato.codec import Codec
from sfumato.files import write_csv
from sfumato.weights import Weights, read_weights

QUALITIES = (0.2, 0.5, 0.8)
CONFIDENCE = 1.96  # of a normal mean over images

Edit = Callable[[str, NDArray[Any]], NDArray[Any]]


def zero(pattern: str, columns: slice = slice(None)) -> Edit:
    """Sets the input columns of every tensor whose name matches to zero."""

    def edit(name: str, value: NDArray[Any]) -> NDArray[Any]:
        if not re.fullmatch(pattern, name):
            return value
        value = value.copy()
        value[(slice(None), columns) if value.ndim > 1 else slice(None)] = 0
        return value

    return edit


def narrow(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """A position bias that reaches only the cell itself: attention without a sense of distance beyond it."""
    if not name.endswith("global_context.bias.table"):
        return value
    value = value.copy()
    value[1:] = 0
    return value


def variants(weights: Weights) -> dict[str, list[Edit]]:
    """Name -> what is switched off."""
    spatial = r"entropy\.chunks\.\d+\.in_projection_spatial\.weight"
    halves: dict[str, list[Edit]] = {"local context": [], "global context": [], "channel context": []}
    for number, channels in enumerate(weights.config.chunks):
        name = rf"entropy\.chunks\.{number}\."
        features = 2 * channels  # of each context; [local, global] and [channel, hyper]
        halves["local context"].append(zero(name + r"in_projection_spatial\.weight", slice(0, features)))
        halves["global context"].append(zero(name + r"in_projection_spatial\.weight", slice(features, None)))
        if number:
            halves["channel context"].append(zero(name + r"in_projection\.weight", slice(0, features)))
    return {
        "Laplacian bias": [zero(r".*global_context\.bias\.table")],
        "Laplacian bias beyond the cell": [narrow],
        **halves,
        "local and global context": [zero(spatial)],
    }


def without(weights: Weights, edits: list[Edit]) -> Codec:
    """The codec of these weights with some tensors changed."""
    tensors = dict(weights.tensors)
    for edit in edits:
        tensors = {name: edit(name, value) for name, value in tensors.items()}
    return Codec(replace(weights, tensors=tensors))


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    first: int | None = None,
) -> None:
    """Count the bits of every image with each part switched off, and with all of them on.

    Args:
        images: folder of PNG files.
        output: the CSV file: mean difference in percent, and half of its 95 % interval over images.
        model: weights by name, or a path.
        first: only so many images.
    """
    weights = read_weights(model)
    whole = Codec(weights)
    codecs = {name: without(weights, edits) for name, edits in variants(weights).items()}
    differences: dict[tuple[str, float], list[float]] = {(n, q): [] for n in codecs for q in QUALITIES}
    paths = sorted(images.glob("*.png"))[:first]
    for path in paths:
        pixels = image.read(path)
        for q in QUALITIES:
            bits = sum(whole.estimate_bits(pixels, q=q))
            for name, codec in codecs.items():
                differences[name, q].append(100 * (sum(codec.estimate_bits(pixels, q=q)) / bits - 1))
    rows = []
    for (name, q), found in differences.items():
        half = CONFIDENCE * statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        rows.append([name, q, len(found), f"{np.mean(found):.2f}", f"{half:.2f}", f"{whole.model_id:08x}"])
        print(f"{name}, q {q}: {rows[-1][3]} +- {rows[-1][4]} % of the bits")
    heading = ["without", "q", "images", "bits_percent", "interval_percent", "model"]
    write_csv(output, heading, rows)


if __name__ == "__main__":
    tyro.cli(main)
