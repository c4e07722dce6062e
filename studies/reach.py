"""python -m studies.reach DIR -o CSV: how far away is what the global context g_gs uses.

Three looks at the shipped entropy model, on the rounded latents of real images:

attention   share of a non-anchor's attention at each distance, beside what the position bias gives alone
            (queries of zero) and what all keys alike give.  Keys are non-anchors: even distances.
redrawn     one anchor, all channels of a chunk, is replaced by a draw from its own distribution: how many
            more bits the non-anchors of the chunk cost, by their distance to it, which is odd.  The local
            context sees distances 1 and 3, and nothing is seen 17 rows or columns away.
gain        bits that the global context saves (switched off, not trained anew: an upper bound) in each
            image, beside how self-similar the image is, and the rank correlation of the two.

Distances are |dv| + |dh|, in cells of 16 pixels.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor, nn

from evaluation.measure import images_in
from evaluation.plots import OTHERS
from sfumato.autoregressive import (
    ANCHOR,
    NON_ANCHOR,
    autoregressive_pass,
    entropy_parameters,
    hyper_and_channel_context,
    hyper_synthesis,
    pack,
    spatial_context,
)
from sfumato.exact import window_distances
from sfumato.files import write_csv
from sfumato.image import read
from studies.contexts import switch_off
from studies.intervals import half_interval
from studies.latents import QUALITIES, EntropyNetworks, analyzed
from studies.steps import save
from training.networks import quantise
from training.networks.model import Model
from training.networks.prior import Prior, index_to_scale
from training.run_weights import load_weights
from training.validation import rounded

HEADING = ("what", "q", "chunk", "distance", "image", "value", "interval", "images", "model")
ATTENTION = ("attention", "attention by the bias alone", "attention of all keys alike")
BITS = "bits of a non-anchor"
EXTRA, TOTAL = "redrawn: more bits of a non-anchor", "redrawn: more bits in all"
GAIN, SIMILARITY, CORRELATION = (
    "gain of g_gs: % of the bits",
    "self-similarity",
    "rank correlation of the two",
)
FARTHEST = 31  # cells
PIECE = 256  # pixels a side of the parts of an image of which the autocorrelation is taken
LAGS = (32, 128)  # pixels: beyond the local context, and within a window
BATCH = 8  # copies of a chunk, each with one redrawn anchor
SOFT = 0.7  # pixels: sigma of the Gaussian that blurs it, as a direction is sampled at whole pixels
RESAMPLED = 2000  # sets of images, for the interval of a correlation

Key = tuple[str, float, int, int]
"""what, q, chunk (from 1), distance."""
Found = defaultdict[Key, list[float]]
"""A value for each image."""


class Coded(NamedTuple):
    """One chunk of one image, as it was coded."""

    chunk: nn.Module
    features: Float[Tensor, "1 f h w/2"]  # [phi_ch, psi_h] at the non-anchors
    anchors: Float[Tensor, "1 c h w/2"]  # y_hat
    mu: Float[Tensor, "1 c h w/2"]  # of the anchors, on the coder's grid
    sigma: Float[Tensor, "1 c h w/2"]
    value: Float[Tensor, "1 c h w/2"]  # y at the non-anchors

    def bits(self, anchors: Float[Tensor, "n c h w/2"]) -> Float[Tensor, "n h w/2"]:
        """Of each non-anchor, had the anchors been these."""
        spatial = spatial_context(self.chunk, anchors)
        mu, index = entropy_parameters(self.chunk, self.features, spatial)
        return rounded(mu, index, self.value)[1].sum(1)


def coded_chunks(prior: Prior, y: Float[Tensor, "1 m h w"], z: Tensor, q: Tensor) -> list[Coded]:
    """The chunks after a pass over y, in the domain of the gains."""
    parameters: list[tuple[Tensor, Tensor]] = []

    def code(section: int, is_last: bool, mu: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        if section and not is_last:
            parameters.append((quantise.quantize_mean(mu), index_to_scale(torch.round(index))))
        return rounded(mu, index, value)[0]

    y_hat, z_hat = autoregressive_pass(prior, code, q, (z.shape[2], z.shape[3]), z, y)
    psi_h = hyper_synthesis(prior.h_s, z_hat, q)
    out = []
    known: list[Tensor] = []
    for chunk, (mu, sigma), value, whole in zip(
        prior.chunks, parameters, y.split(prior.sizes, 1), y_hat.split(prior.sizes, 1), strict=True
    ):
        features = pack(hyper_and_channel_context(chunk, psi_h, known), NON_ANCHOR)
        anchors = pack(whole, ANCHOR)
        out.append(Coded(chunk, features, anchors, mu, sigma, pack(value, NON_ANCHOR)))
        known.append(whole)
    return out


class Redrawn(NamedTuple):
    """Sums over redrawn anchors, by the distance of the non-anchors to them."""

    extra: Float[np.ndarray, " distances"]  # bits
    cells: Int[np.ndarray, " distances"]


def redraw(coded: Coded, count: int, rng: torch.Generator) -> Redrawn:
    """Replace `count` anchors, one at a time, by draws from their own distributions."""
    height, columns = coded.anchors.shape[2:]
    row, column = np.indices((height, 2 * columns))[:, None, None]
    places = torch.randperm(height * columns, generator=rng)[:count]
    mu, sigma = coded.mu.flatten(2)[0, :, places], coded.sigma.flatten(2)[0, :, places]
    drawn = mu + torch.round(sigma * torch.randn(mu.shape, generator=rng))
    before = coded.bits(coded.anchors)[0].double().flatten().numpy()
    extra, cells = np.zeros(FARTHEST + 1), np.zeros(FARTHEST + 1, np.int64)
    for chosen, vectors in zip(places.split(BATCH), drawn.T.split(BATCH), strict=True):
        anchors = coded.anchors.flatten(2).repeat(len(chosen), 1, 1)
        anchors[torch.arange(len(chosen)), :, chosen] = vectors
        after = coded.bits(anchors.view(len(chosen), *coded.anchors.shape[1:])).double().flatten(1).numpy()
        away = sum(
            np.abs(pack(axis, NON_ANCHOR).ravel() - pack(axis, ANCHOR).ravel()[chosen.numpy(), None])
            for axis in (row, column)
        )
        near = away <= FARTHEST
        extra += np.bincount(away[near], (after - before)[near], FARTHEST + 1)
        cells += np.bincount(away[near], minlength=FARTHEST + 1)
    return Redrawn(extra, cells)


@contextmanager
def attention(prior: Prior) -> Iterator[dict[tuple[str, int], list[Tensor]]]:
    """Collects the mass at each distance [distances] of all attention inside, by kind and chunk (from 1)."""
    found: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    handles = []
    for number, chunk in enumerate(prior.chunks, start=1):
        for block in chunk.global_context.blocks:  # type: ignore[union-attr]

            def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor, number: int = number) -> None:
                q, k, v, bias, visible = inputs
                eye = torch.eye(v.shape[-2]).expand(*v.shape[:3], -1, -1)
                for kind, weights in zip(
                    ATTENTION,
                    (  # the mixture of unit vectors is the weights themselves
                        layer.forward(q, k, eye, bias, visible),
                        layer.forward(0 * q, k, eye, bias, visible),
                        layer.forward(0 * q, k, eye, 0 * bias, visible),
                    ),
                    strict=True,
                ):
                    found[kind, number].append(mass_by_distance(weights, visible))

            handles.append(block.dot_product.register_forward_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def mass_by_distance(weights: Float[Tensor, "b k m n n"], visible: Tensor) -> Float[Tensor, " distances"]:
    """Mean over heads and visible queries of the share at each distance; 1 in all."""
    cells = weights.shape[-1]
    away = torch.tensor(window_distances(math.isqrt(2 * cells)))
    mean = weights.mean((0, 2))[visible].double()  # [queries, keys]
    distances = away.expand(visible.shape[0], -1, -1)[visible]
    total = torch.bincount(distances.flatten(), mean.flatten(), int(away.max()) + 1)
    return total / len(mean)


def self_similarity(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """How much the autocorrelation of the luma's gradient rises again, at lags of 32 .. 128 pixels; 0 .. 1.

    The largest rise in any direction: textures that repeat have one, while along an edge and in smooth areas
    the correlation only falls (along a slanted, very sharp one not quite).  Mean over pieces of 256x256
    pixels, weighted by their energy.
    """
    luma = image @ np.array([0.299, 0.587, 0.114])  # BT.601
    steps = np.stack([np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1]])
    size = 2 * PIECE  # zeros around a piece: lags do not wrap
    lag = np.abs(np.fft.fftfreq(size, 1 / size))
    overlap = np.maximum(PIECE - lag[:, None], 1) * np.maximum(PIECE - lag, 1) / PIECE**2
    frequency = 2 * np.pi * np.fft.fftfreq(size)
    soft = np.exp(-np.add.outer(frequency**2, frequency**2) * SOFT**2 / 2)
    angle, radius = np.radians(np.arange(180))[:, None], np.arange(LAGS[1] + 1)
    rows, columns = (np.rint(radius * part(angle)).astype(np.int64) for part in (np.sin, np.cos))
    rises, energies = [], []
    tops, lefts = (range(0, side - PIECE + 1, PIECE // 2) for side in steps.shape[1:])
    for top in tops:
        for left in lefts:
            piece = steps[:, top : top + PIECE, left : left + PIECE]
            piece = piece - piece.mean((1, 2), keepdims=True)
            power = np.square(np.abs(np.fft.fft2(piece, (size, size)))).sum(0) * soft
            product = np.fft.ifft2(power).real
            energies.append(max(product[0, 0], 1e-9))
            correlation = (product / overlap / energies[-1])[rows, columns]
            fallen = np.maximum(np.minimum.accumulate(correlation, 1), 0)  # so far, from lag 0 on
            rises.append((correlation - fallen)[:, LAGS[0] :].max())
    return float(np.average(rises, weights=energies))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values of which no two are equal."""
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def interval_of_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Half of the 95 % interval of the rank correlation, by a bootstrap over the images."""
    rng = np.random.default_rng(0)
    pairs = np.stack([a, b], 1)
    found = []
    for _ in range(RESAMPLED):
        chosen = pairs[rng.integers(len(pairs), size=len(pairs))]
        chosen = chosen + 1e-9 * rng.random(chosen.shape)  # no two are equal
        found.append(rank_correlation(*chosen.T))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(high - low) / 2


@torch.inference_mode()
def measure(
    model: Model, images: Mapping[str, UInt8[np.ndarray, "h w 3"]], anchors: int
) -> tuple[Found, dict[float, dict[str, float]]]:
    """(values by key, for each image; gain of the global context in %, by q and image)."""
    bare = copy.deepcopy(model.prior)
    switch_off(bare, ["global"], hold=False)
    whole, without = (EntropyNetworks(model.h_a, prior) for prior in (model.prior, bare))
    found: Found = defaultdict(list)
    gains: dict[float, dict[str, float]] = {q: {} for q in QUALITIES}
    for name, image in images.items():
        rng = torch.Generator().manual_seed(0)
        latent = analyzed(model.g_a, torch.from_numpy(image), None)[None].float()
        for q in QUALITIES:
            quality = torch.tensor([q])
            y = latent * model.gain(quality)
            gains[q][name] = 100 * (without.rounded_bits(y, q) / whole.rounded_bits(y, q) - 1)
            with attention(model.prior) as masses:
                chunks = coded_chunks(model.prior, y, model.h_a(y), quality)
            for (kind, number), parts in masses.items():
                for distance, share in enumerate(torch.stack(parts).mean(0).tolist()):
                    if distance % 2 == 0:
                        found[kind, q, number, distance].append(share)
            for number, coded in enumerate(chunks, start=1):
                found[BITS, q, number, 0].append(float(coded.bits(coded.anchors).mean()))
                extra, cells = redraw(coded, anchors, rng)
                for distance in range(1, FARTHEST + 1, 2):
                    each = float(extra[distance] / max(cells[distance], 1))
                    found[EXTRA, q, number, distance].append(each)
                    found[TOTAL, q, number, distance].append(float(extra[distance] / anchors))
        print(name, *(f"{gains[q][name]:.2f} % at q {q:g}" for q in QUALITIES), flush=True)
    return found, gains


def rows(
    found: Found, gains: Mapping[float, Mapping[str, float]], similar: Mapping[str, float]
) -> list[list[object]]:
    """Of the table, without the model."""
    out: list[list[object]] = []
    for (what, q, chunk, distance), values in found.items():
        figures = f"{np.mean(values):.6f}", f"{half_interval(values):.6f}"
        out.append([what, f"{q:g}", chunk, distance, "", *figures, len(values)])
    out += [[SIMILARITY, "", "", "", name, f"{value:.4f}", "", 1] for name, value in similar.items()]
    for q, by_image in gains.items():
        values = list(by_image.values())
        out += [[GAIN, f"{q:g}", "", "", name, f"{gain:.3f}", "", 1] for name, gain in by_image.items()]
        mean = f"{np.mean(values):.3f}", f"{half_interval(values):.3f}"
        out.append([GAIN, f"{q:g}", "", "", "all", *mean, len(values)])
        pair = values, [similar[name] for name in by_image]
        if len(values) > 2:
            figures = f"{rank_correlation(*pair):.3f}", f"{interval_of_correlation(*pair):.3f}"
            out.append([CORRELATION, f"{q:g}", "", "", "all", *figures, len(values)])
    return out


def draw(
    path: Path, found: Found, gains: Mapping[float, Mapping[str, float]], similar: Mapping[str, float]
) -> None:
    """Attention and redrawn anchors by distance at the middle quality; gain by self-similarity."""
    q = QUALITIES[1]
    numbers = sorted({chunk for _, _, chunk, _ in found})
    figure = Figure(figsize=(6.4, 8.4), layout="constrained")
    mass, extra, gain = figure.subplots(3, 1)
    mass.set(xlabel="distance, cells", ylabel=f"share of the attention, q {q:g}")
    extra.set(xlabel="distance, cells", ylabel=f"% more bits of a non-anchor, q {q:g}")
    gain.set(xlabel="self-similarity", ylabel="% more bits without g_gs")

    def curve(what: str, chunk: int) -> tuple[list[int], list[float], list[float]]:
        keys = sorted(d for w, at, n, d in found if (w, at, n) == (what, q, chunk))
        values = [found[what, q, chunk, d] for d in keys]
        halves = [half_interval(v) if len(v) > 1 else 0.0 for v in values]
        return keys, [float(np.mean(v)) for v in values], halves

    colours = ("#7a7a7a", *OTHERS)
    for number in numbers:
        style = {"color": colours[(number - 1) % len(colours)], "label": f"chunk {number}"}
        mass.plot(*curve(ATTENTION[0], number)[:2], marker="o", markersize=3, **style)
        distances, means, halves = curve(EXTRA, number)
        percent = 100 / max(1e-9, float(np.mean(found[BITS, q, number, 0])))
        shown = [percent * v for v in means], [percent * v for v in halves]
        extra.errorbar(distances, *shown, marker="o", markersize=3, capsize=2, **style)
    mass.plot(*curve(ATTENTION[1], numbers[0])[:2], "--", color="black", label="bias alone, chunk 1")
    mass.plot(*curve(ATTENTION[2], numbers[0])[:2], ":", color="black", label="all keys alike")
    extra.set_yscale("symlog", linthresh=0.01)
    extra.axhline(0, color="grey", linewidth=0.8)
    for number, (at, by_image) in enumerate(gains.items()):
        places = [similar[name] for name in by_image]
        gain.plot(places, list(by_image.values()), "o", markersize=4, color=OTHERS[number], label=f"q {at:g}")
    for axes in (mass, extra, gain):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    first: int | None = None,
    anchors: int = 16,
) -> None:
    """Measure on every image of a folder, and write the table and, beside it, a figure.

    Args:
        images: folder of images of more than 257 pixels a side.
        output: the CSV file: means and halves of 95 % intervals over images.
        model: weights by name, or a path.
        first: only so many images.
        anchors: redrawn in each image, chunk and quality.
    """
    weights = load_weights(model)
    pixels = {path.name: read(path) for path in images_in(images)[:first]}
    similar = {name: self_similarity(image) for name, image in pixels.items()}
    found, gains = measure(weights.model, pixels, anchors)
    table = rows(found, gains, similar)
    write_csv(output, HEADING, ([*row, f"{weights.model_id:08x}"] for row in table))
    draw(output.with_suffix(".svg"), found, gains, similar)


if __name__ == "__main__":
    tyro.cli(main)
