"""The entropy model's computation, written once on plain array operations: numpy to code, torch to train.

                 z_hat -> h_s -> psi_h --------------+--------------------+
    y_hat of chunks < j -> g_ch_j -> phi_ch ---------+--------------------+
                                                   g_ep_j               g_ep_j -> (mu, index) of non-anchors
                                                     |                    |
                                     (mu, index) of anchors               +-- phi_ls = g_ls_j(anchors)
                                                                          +-- phi_gs = g_gs_j(phi_ls)

Uneven channel chunks, each in two checkerboard passes: anchors are the cells whose row + column is even
(Khoshkhahtinat et al. 2024, entropy model figure; chunks after He et al. 2022, ELIC; checkerboard after He
et al. 2021).  For anchors the local and global context are zeros, and are not computed.

The layers come as a tree whose attributes are the layers' names: `exact.from_arrays` when coding, the torch
modules of the same names when training.  Arrays are [B, C, H, W] of either library.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from sfumato.arrays import Array, namespace

Layers: TypeAlias = Any
"""A tree of layers: attributes by name, children of a list by number, callable at the leaves."""

ANCHOR, NON_ANCHOR = 0, 1  # parity of row + column
INDEX_STEP = 8.0  # scale indexes per unit of a net's output: a little under one e-fold of sigma
SLOPE = 0.1  # of leaky ReLU below 0
RADIUS = 2  # of the 5x5 local context
TAPS = [(dy, dx) for dy in range(2 * RADIUS + 1) for dx in range(2 * RADIUS + 1) if (dy + dx) % 2]
"""Of its 25 taps the 12 with odd offset meet anchors; the others are not computed."""


@runtime_checkable
class SymbolCoder(Protocol):
    """One coding pass: codes the symbols of z, or of a chunk's anchors or non-anchors.

    section  0 for z and j for chunk j
    is_last  whether this is the last pass of its section
    mu       means
    index    real scale indexes, of the shape of mu
    value    what the symbols stand for; None where that is to be found out
    returns  the values after quantisation, of the shape of mu
    """

    def __call__(
        self, section: int, is_last: bool, mu: Array, index: Array, value: Array | None, /
    ) -> Array: ...


def autoregressive_pass(
    prior: Layers,
    code: SymbolCoder,
    q: Array,
    z_shape: tuple[int, int],
    z: Array | None = None,
    y: Array | None = None,
    chunks: int | None = None,
    passes: int = 2,
) -> tuple[Array, Array]:
    """Visit z, then every chunk's anchors and non-anchors; (y_hat, z_hat) in the domain of the gains.

    q [B] is the quality, `z_shape` the height and width of z; y is four times as large each way.  Without z
    and y, `code` has to know the values: that is decoding.  Of a preview only the first `chunks` are visited;
    the means of the others follow from hyper and channel context alone, which costs less than half.

    With `passes` = 1 every chunk is coded whole, from these two contexts (Minnen & Singh 2020): no anchors.
    """
    mu, index = prior.z_mu(q), prior.z_level(q) * INDEX_STEP
    xp = namespace(mu)
    size = (mu.shape[0], mu.shape[1], *z_shape)
    z_hat = code(0, True, xp.broadcast_to(mu, size), xp.broadcast_to(index, size), z)
    psi_h = hyper_synthesis(prior.h_s, z_hat, q)
    known: list[Array] = []
    first = 0
    for section, chunk in enumerate(prior.chunks, start=1):
        features = hyper_and_channel_context(chunk, psi_h, known)
        if chunks is not None and section > chunks:
            mu, _ = entropy_parameters(chunk, features, None)
            known.append(mu)
            continue
        if passes == 1:
            mu, index = entropy_parameters(chunk, features, None)
            value = None if y is None else y[:, first : first + mu.shape[1]]
            known.append(code(section, True, mu, index, value))
            first += mu.shape[1]
            continue
        spatial = None
        coded = []
        for parity in (ANCHOR, NON_ANCHOR):
            mu, index = entropy_parameters(chunk, pack(features, parity), spatial)
            channels = slice(first, first + mu.shape[1])
            value = None if y is None else pack(y[:, channels], parity)
            coded.append(code(section, parity == NON_ANCHOR, mu, index, value))
            if parity == ANCHOR:
                spatial = spatial_context(chunk, coded[ANCHOR])
        known.append(unpack(coded[ANCHOR], coded[NON_ANCHOR]))
        first += known[-1].shape[1]
    return xp.concatenate(known, 1), z_hat


def hyper_synthesis(h_s: Layers, z_hat: Array, q: Array) -> Array:
    """h_s: z_hat -> psi_h, the hyper context of every chunk, at the resolution of y."""
    f = pixel_shuffle(h_s.up1(z_hat)) + h_s.quality(q)
    f = pixel_shuffle(h_s.up2(leaky_relu(f)))
    return leaky_relu(h_s.head(leaky_relu(f)))


def hyper_and_channel_context(chunk: Layers, psi_h: Array, known: list[Array]) -> Array:
    """[phi_ch, psi_h], which both passes of a chunk use; the first chunk has no channel context."""
    if not known:
        return psi_h
    xp = namespace(psi_h)
    g_ch = chunk.channel
    phi_ch = g_ch[2](leaky_relu(g_ch[0](xp.concatenate(known, 1))))
    return xp.concatenate((phi_ch, psi_h), 1)


def spatial_context(chunk: Layers, anchors: Array) -> Array:
    """[phi_ls, phi_gs] at the non-anchors; the local features are the input of the global branch."""
    phi_ls = local_context(chunk.local, anchors)
    return namespace(anchors).concatenate((phi_ls, global_context(chunk.global_context, phi_ls)), 1)


def entropy_parameters(chunk: Layers, features: Array, spatial: Array | None) -> tuple[Array, Array]:
    """g_ep: mean and real scale index (in units of `scales.LOG_STEP`) of the symbols of one pass.

    Its first layer is split in two, as anchors lack the spatial context.
    """
    h = chunk.in_projection(features)
    if spatial is not None:
        h = h + chunk.in_projection_spatial(spatial)
    h = chunk.out_projection(leaky_relu(chunk.hidden_projection(leaky_relu(h))))
    channels = h.shape[1] // 2
    return h[:, :channels], h[:, channels:] * INDEX_STEP


def local_context(local: Layers, anchors: Array) -> Array:
    """g_ls: checkerboard-masked 5x5 convolution, packed anchors in, features at the non-anchors out."""
    xp = namespace(anchors)
    height, width = anchors.shape[2], anchors.shape[3] * 2
    full = unpack(anchors, xp.zeros_like(anchors))
    full = pad(pad(full, 2, RADIUS, RADIUS), 3, RADIUS, RADIUS)
    seen = [pack(full[:, :, dy : dy + height, dx : dx + width], NON_ANCHOR) for dy, dx in TAPS]
    return local.weight(xp.concatenate(seen, 1))


def global_context(context: Layers, local: Array) -> Array:
    """g_gs: pairs of plain and shifted window attention over packed non-anchors (Liu et al. 2021)."""
    xp = namespace(local)
    x = xp.moveaxis(local, 1, 3)
    bias = context.bias()
    for number, block in enumerate(context.blocks):
        x = swin_block(block, x, bias, number % 2 * (window_of(bias) // 2))
    return xp.moveaxis(x, 3, 1)


def swin_block(block: Layers, x: Array, bias: Array, offset: int) -> Array:
    """x + attention(norm(x)), then x + MLP(norm(x)), in windows that begin at `offset`; x is [B, H, W, C]."""
    x = x + window_attention(block, block.norm1(x), bias, offset)
    return x + block.mlp_out(leaky_relu(block.mlp_in(block.norm2(x))))


def window_attention(block: Layers, x: Array, bias: Array, offset: int) -> Array:
    """Attention among the non-anchors of each window of a packed map [B, H, W, C] (Liu et al. 2021).

    Only non-anchors are keys (the checkerboard mask of the paper's figure): they alone hold local context,
    and that is computed from anchors only, so nothing undecoded is read.  A row of a packed map holds every
    second cell, so an 8x8 window has 32.  `bias` [.., 32, 32] is added to the logits, and says how large a
    window is.
    """
    batch, height, width, channels = x.shape
    rows, columns = window_of(bias), window_of(bias) // 2
    # the shifted grid is padded, not rolled: no window joins two opposite borders
    top, left = offset, offset // 2
    bottom, right = -(height + top) % rows, -(width + left) % columns
    i, j = (height + top + bottom) // rows, (width + left + right) // columns

    def windows(map_: Array) -> Array:
        """[B, H, W, C] -> [B, windows, cells, C]."""
        grid = pad(pad(map_, 1, top, bottom), 2, left, right)
        grid = grid.reshape(len(map_), i, rows, j, columns, -1).swapaxes(2, 3)
        return grid.reshape(len(map_), i * j, rows * columns, -1)

    visible = windows(namespace(x).ones_like(x[:1, :, :, :1]))[0, :, :, 0] > 0
    heads = block.dot_product.heads
    qkv = block.qkv(windows(x))
    qkv = qkv.reshape(batch, i * j, rows * columns, 3, heads, channels // heads)
    q, k, v = (qkv[:, :, :, part].swapaxes(2, 3) for part in range(3))
    mixed = block.dot_product(q, k, v, bias, visible).swapaxes(2, 3)
    out = block.out(mixed.reshape(batch, i * j, rows * columns, channels))
    grid = out.reshape(batch, i, j, rows, columns, channels).swapaxes(2, 3)
    grid = grid.reshape(batch, i * rows, j * columns, channels)
    return grid[:, top : top + height, left : left + width]


def window_of(bias: Array) -> int:
    """Latents a side of the windows that a bias is of: half of their cells are non-anchors."""
    return math.isqrt(2 * bias.shape[-1])


def pack(x: Array, parity: int) -> Array:
    """The cells whose row + column has this parity, row by row: [B, C, H, W / 2]; H and W even."""
    return _interleave(x[:, :, 0::2, parity::2], x[:, :, 1::2, 1 - parity :: 2], 2)


def unpack(anchors: Array, non_anchors: Array) -> Array:
    """The map [B, C, H, 2 W] whose anchors and non-anchors are these; inverse of `pack`."""
    even = _interleave(anchors[:, :, 0::2], non_anchors[:, :, 0::2], 3)
    odd = _interleave(non_anchors[:, :, 1::2], anchors[:, :, 1::2], 3)
    return _interleave(even, odd, 2)


def _interleave(a: Array, b: Array, axis: int) -> Array:
    """a_0 b_0 a_1 b_1 ... along an axis."""
    shape = list(a.shape)
    shape[axis] *= 2
    return namespace(a).stack((a, b), axis + 1).reshape(shape)


def pixel_shuffle(x: Array) -> Array:
    """Depth to space: [B, 4 C, H, W] -> [B, C, 2 H, 2 W]."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels // 4, 2, 2, height, width)
    x = namespace(x).moveaxis(x, 4, 2).swapaxes(4, 5)
    return x.reshape(batch, channels // 4, 2 * height, 2 * width)


def leaky_relu(x: Array) -> Array:
    """x, or a tenth of it below 0."""
    if isinstance(x, np.ndarray):
        return np.maximum(x, x * SLOPE)
    return namespace(x).nn.functional.leaky_relu(x, SLOPE)  # one kernel, and one tensor kept for the gradient


def pad(x: Array, axis: int, before: int, after: int) -> Array:
    """Zeros before and after along an axis."""
    xp = namespace(x)
    line = xp.zeros_like(x[(slice(None),) * axis + (slice(0, 1),)])
    shape = list(x.shape)
    parts = [x]
    for at, count in ((0, before), (2, after)):
        shape[axis] = count
        if count:
            parts.insert(at, xp.broadcast_to(line, shape))
    return xp.concatenate(parts, axis) if len(parts) > 1 else x
