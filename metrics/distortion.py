"""Two 8-bit images in, one figure out: PSNR in dB, and MS-SSIM."""

from __future__ import annotations

import numpy as np
import torch

from sfumato import distortion

# Five scales with a window of 11 pixels: the coarsest one needs 11 positions, so (11 - 1) * 2^4 < side.
MS_SSIM_MINIMUM_SIDE = 161


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 [H, W, 3]: 10 log10(255^2 / MSE), over all samples.

    Equal images give infinity.  Raises ValueError for other types or shapes.
    """
    _check(x, y)
    return distortion.psnr(x, y)


def ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM (Wang et al. 2003) of two uint8 [H, W, 3]; 1 for equal images.

    Data range 255, mean over channels.

    Raises ValueError for other types or shapes, and for sides under 161 pixels (`MS_SSIM_MINIMUM_SIDE`).
    Needs the package pytorch-msssim, which comes with `sfumato[evaluate]`.
    """
    from pytorch_msssim import ms_ssim as on_tensors  # here, because PSNR has to work without the package

    _check(x, y)
    height, width = x.shape[:2]
    if min(height, width) < MS_SSIM_MINIMUM_SIDE:
        raise ValueError(f"MS-SSIM needs sides of {MS_SSIM_MINIMUM_SIDE} pixels, got {width}x{height}")
    pair = [torch.tensor(image).permute(2, 0, 1)[None].float() for image in (x, y)]
    return float(on_tensors(pair[0], pair[1], data_range=255))


def _check(x: np.ndarray, y: np.ndarray) -> None:
    for image in (x, y):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if x.shape != y.shape:
        raise ValueError(f"images differ in size: {list(x.shape)} and {list(y.shape)}")
