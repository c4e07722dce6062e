"""python -m studies.knockouts DIR -o CSV: what each context is worth to weights that were trained with it.

Parts of the shipped entropy model are switched off without training anew (a weight is set to zero), and the
ideal bits of every image are counted again.  A figure is an upper bound of what a model would lose that was
trained without the part; 0 means that the part does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro
from numpy.typing import NDArray

from evaluation.measure import images_in
from sfumato import image
from sfumato.codec import Codec
from sfumato.files import write_csv
from sfumato.weights import Weights, read_weights
from studies.intervals import half_interval

QUALITIES = (0.2, 0.5, 0.8)

Context = Literal["local", "global", "channel"]
CONTEXTS: tuple[Context, ...] = get_args(Context)
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


def columns(context: Context, number: int, channels: int) -> tuple[str, slice]:
    """The layer by which g_ep of chunk `number` (from 0) reads a context, and its input columns for it.

    They are [channel, hyper] and [local, global], 2 `channels` of each but the last; the first chunk has no
    channel context, and no columns for it.
    """
    features = 2 * channels
    if context == "channel":
        return "in_projection", slice(0, features if number else 0)
    return "in_projection_spatial", slice(0, features) if context == "local" else slice(features, None)


def context_off(context: Context, chunks: Sequence[int]) -> list[Edit]:
    """Switches a context off in all chunks."""
    edits = []
    for number, channels in enumerate(chunks):
        layer, part = columns(context, number, channels)
        edits.append(zero(rf"entropy\.chunks\.{number}\.{layer}\.weight", part))
    return edits


def variants(weights: Weights) -> dict[str, list[Edit]]:
    """Name -> what is switched off."""
    spatial = r"entropy\.chunks\.\d+\.in_projection_spatial\.weight"
    halves = {f"{name} context": context_off(name, weights.config.chunks) for name in CONTEXTS}
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
        images: folder of images.
        output: the CSV file: mean difference in percent, and half of its 95 % interval over images.
        model: weights by name, or a path.
        first: only so many images.
    """
    weights = read_weights(model)
    whole = Codec(weights)
    codecs = {name: without(weights, edits) for name, edits in variants(weights).items()}
    differences: dict[tuple[str, float], list[float]] = {(n, q): [] for n in codecs for q in QUALITIES}
    paths = images_in(images)[:first]
    for path in paths:
        pixels = image.read(path)
        for q in QUALITIES:
            bits = sum(whole.estimate_bits(pixels, q=q))
            for name, codec in codecs.items():
                differences[name, q].append(100 * (sum(codec.estimate_bits(pixels, q=q)) / bits - 1))
    rows = []
    for (name, q), found in differences.items():
        figures = f"{np.mean(found):.2f}", f"{half_interval(found):.2f}"
        rows.append([name, q, len(found), *figures, f"{whole.model_id:08x}"])
        print(f"{name}, q {q}: {rows[-1][3]} +- {rows[-1][4]} % of the bits")
    heading = ["without", "q", "images", "bits_percent", "interval_percent", "model"]
    write_csv(output, heading, rows)


if __name__ == "__main__":
    tyro.cli(main)
