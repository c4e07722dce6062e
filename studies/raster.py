"""A raster scan, the reference of `grouping_cost`: y position by position, each from those before it.

                z_hat -> h_s -> psi_h -------------------+
    y_hat of the 12 positions before -> 5x5 masked conv -+-> g_ep -> (mu, index) of all channels of a position

The serial context model of Minnen et al. 2018 (Joint Autoregressive and Hierarchical Priors) with the layers
of a preset: h_s, the width of g_ep, and as in its chunks two features a channel from the masked convolution.
In exact arithmetic and with the real coder, as `autoregressive` is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sfumato.arrays import Array, namespace
from sfumato.autoregressive import (
    INDEX_STEP,
    RADIUS,
    Layers,
    SymbolCoder,
    entropy_parameters,
    hyper_synthesis,
    leaky_relu,
    pad,
)
from sfumato.exact import Linear
from training.networks.model import Config, entropy_model
from training.networks.prior import Prior

TAPS = [(dy, dx) for dy in range(RADIUS + 1) for dx in range(2 * RADIUS + 1) if (dy, dx) < (RADIUS, RADIUS)]
"""The 12 of the 5x5 kernel that come before its centre: two rows above, and two positions to the left."""


def network(config: Config) -> Prior:
    """Untrained layers of a preset for one chunk of all channels, without the global context."""
    prior = entropy_model(replace(config, chunks=(config.latent,)))
    chunk = prior.chunks[0]
    # the preset's 12 checkerboard taps become the 12 causal ones: the layer is the same
    del chunk.global_context
    chunk.in_projection_spatial = nn.Conv2d(2 * config.latent, config.parameter_width, 1, bias=False)
    return prior


def parallel(prior: Layers, y_hat: Array, psi_h: Array) -> tuple[Array, Array]:
    """mu and scale index [B, C, H, W] of all positions at once, where y_hat is known: as in training."""
    height, width = y_hat.shape[2:]
    full = pad(pad(y_hat, 2, RADIUS, 0), 3, RADIUS, RADIUS)
    seen = [full[:, :, dy : dy + height, dx : dx + width] for dy, dx in TAPS]
    chunk = prior.chunks[0]
    return entropy_parameters(chunk, psi_h, chunk.local.weight(namespace(y_hat).concatenate(seen, 1)))


def calibrate(prior: Prior, y: torch.Tensor, z: torch.Tensor) -> None:
    """All layers once, for `training.calibration`."""
    parallel(prior, y, hyper_synthesis(prior.h_s, z, torch.tensor([0.5])))


def raster_scan(
    prior: Layers,
    code: SymbolCoder,
    q: Array,
    z_shape: tuple[int, int],
    z: NDArray[np.float64] | None = None,
    y: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `autoregressive_pass`, in exact arithmetic only: (y_hat, z_hat), coded position by position.

    Only what needs the two positions to the left is serial.  The hyper context's part is computed for the
    whole image, that of the two rows above for a row: sums of integers, so their order changes nothing.
    """
    mu, index = prior.z_mu(q), prior.z_level(q) * INDEX_STEP
    size = (*mu.shape[:2], *z_shape)
    z_hat = code(0, True, np.broadcast_to(mu, size), np.broadcast_to(index, size), z)
    chunk = prior.chunks[0]
    context = chunk.local.weight
    hyper = _channels_last(chunk.in_projection(hyper_synthesis(prior.h_s, z_hat, q)))
    height, width, _ = hyper.shape
    channels = context.matrix.shape[1] // len(TAPS)
    above, left = np.split(context.matrix, [-RADIUS * channels], axis=1)
    left = np.ascontiguousarray(left)
    values = None if y is None else _channels_last(y)
    y_hat = np.empty((height, width, channels))
    known = np.zeros((RADIUS + height, RADIUS + width + RADIUS, channels))  # y_hat in fixed point, padded
    for row in range(height):
        seen = [known[row + dy, dx : dx + width] for dy, dx in TAPS[:-RADIUS]]
        sums = np.concatenate(seen, 1) @ above.T
        current = known[row + RADIUS]
        for column in range(width):
            phi = (sums[column] + left @ current[column : column + RADIUS].reshape(-1)) * context.unit
            h = hyper[row, column] + _at_position(chunk.in_projection_spatial, phi + context.bias)
            h = _at_position(chunk.hidden_projection, leaky_relu(h))
            h = _at_position(chunk.out_projection, leaky_relu(h))
            value = None if values is None else values[row, column]
            is_last = (row, column) == (height - 1, width - 1)
            found = code(1, is_last, h[:channels], h[channels:] * INDEX_STEP, value)
            y_hat[row, column] = found
            current[column + RADIUS] = context.to_fixed(found)
    return np.moveaxis(y_hat, 2, 0)[None], z_hat


def _at_position(layer: Linear, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A 1x1 convolution of the channels of one position, [C] -> [O]: a product with its matrix."""
    return Linear.__call__(layer, x)


def _channels_last(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[1, C, H, W] -> [H, W, C], in this order in memory."""
    return np.ascontiguousarray(np.moveaxis(x[0], 0, 2))
