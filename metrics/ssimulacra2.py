"""Two images in, one score of visual quality out: SSIMULACRA 2.1 (Sneyers, Cloudinary, 2023).

    sRGB -> linear -> six scales, each half of the last -> XYB -> blurred means, variances, covariance
      -> three maps a channel (structure, edges made, edges lost) -> 1-norms and 4-norms -> a weighted sum

100 is lossless, 90 looks so, 70 is high, 50 medium, 30 low quality; very bad images go below zero.

Written here because the package of that name on PyPI (0.3.0) treats borders otherwise than the reference
program and leaves out its last scale on small images: on photographs of half a megapixel it is off by 1
to 4 points. The tests hold this one to scores of the reference program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

SCALES = 6
MINIMUM_SIDE = 8  # no scale is added below an image with a shorter side
SIGMA = 1.5  # pixels
STABLE = 9e-4  # C2 of SSIM

# libjxl's opsin absorbance: linear RGB -> mixed cone responses, and the bias under its cube root.
ABSORBANCE = ((0.30, 0.622, 0.078), (0.23, 0.692, 0.078),
              (0.24342268924547819, 0.20476744424496821, 0.5518098665095536))  # fmt: skip
BIAS = 0.0037930732552754493

# The weights that are not zero, of 108.  Positions count up by channel (X, Y, B), scale, norm (1, 4) and map
# (structure, made, lost), the last the fastest.
WEIGHTS = {
    1: 0.0007376606707406586, 4: 0.0007793481682867309, 7: 0.0004371155730107379, 9: 1.1041726426657346,
    10: 0.00066284834129271, 11: 0.00015231632783718752, 13: 0.0016406437456599754, 15: 1.8422455520539298,
    16: 11.441172603757666, 18: 0.0007989109436015163, 19: 0.000176816438078653, 21: 1.8787594979546387,
    22: 10.94906990605142, 24: 0.0007289346991508072, 25: 0.9677937080626833, 27: 0.00014003424285435884,
    28: 0.9981766977854967, 29: 0.00031949755934435053, 30: 0.0004550992113792063, 33: 0.0013648766163243398,
    39: 7.466890328078848, 41: 17.445833984131262, 42: 0.0006235601634041466, 45: 6.683678146179332,
    46: 0.00037724407979611296, 47: 1.027889937768264, 48: 225.20515300849274, 51: 19.213238186143016,
    52: 0.0011401524586618361, 53: 0.001237755635509985, 54: 176.39317598450694, 57: 24.43300999870476,
    58: 0.28520802612117757, 59: 0.0004485436923833408, 63: 34.77906344483772, 64: 44.835625328877896,
    73: 0.0008680556573291698, 79: 0.0005313191874358747, 81: 0.00016533814161379112,
    87: 0.0004179171803251336, 88: 0.0017290828234722833, 90: 0.0020827005846636437, 93: 8.826982764996862,
    94: 23.19243343998926, 96: 95.1080498811086, 97: 0.9863978034400682, 98: 0.9834382792465353,
    99: 0.0012286405048278493, 100: 171.2667255897307, 101: 0.9807858872435379,
    105: 0.0005130064588990679, 107: 0.00010854057858411537,
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """One original at one scale."""

    image: Float[Tensor, "3 h w"]  # XYB, moved to positive values
    mean: Float[Tensor, "3 h w"]  # blurred
    square: Float[Tensor, "3 h w"]  # the squared image, blurred


def ssimulacra2(x: np.ndarray, x_hat: np.ndarray) -> float:
    """The score of `x_hat` beside `x`, both uint8 [H, W, 3]; at most 100.

    ValueError for other types or shapes, and for sides under 8.
    """
    return score(reference(x), x_hat)


@torch.no_grad()
def reference(x: np.ndarray) -> list[Scale]:
    """What `score` needs of an original, for several decoded images.  ValueError as for `ssimulacra2`."""
    return [Scale(p, _blur(p), _blur(p * p)) for p in _scales(x)]


@torch.no_grad()
def score(original: list[Scale], x_hat: np.ndarray) -> float:
    """The score of a decoded image.  ValueError for another size than the original's."""
    if x_hat.shape[:2] != tuple(original[0].image.shape[1:]):
        sizes = f"{list(original[0].image.shape[1:])} and {list(x_hat.shape[:2])}"
        raise ValueError(f"images differ in size: {sizes}")
    norms = torch.stack([_norms(a, b) for a, b in zip(original, _scales(x_hat), strict=True)], 1)
    sums = norms.flatten().tolist()  # with fewer scales, positions count up all the same, as in the reference
    total = 0.9562382616834844 * sum(WEIGHTS.get(i, 0.0) * value for i, value in enumerate(sums))
    total = 2.326765642916932 * total - 0.020884521182843837 * total**2 + 6.248496625763138e-05 * total**3
    return 100.0 - 10.0 * total**0.6276336467831387 if total > 0 else 100.0


def _norms(a: Scale, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 2 3"]:
    """1-norm and 4-norm of the three error maps of each channel at one scale; float64."""
    mean = _blur(image)
    variances = (a.square - a.mean.square()) + (_blur(image * image) - mean.square())
    covariance = _blur(a.image * image) - a.mean * mean
    luma = 1 - (a.mean - mean).square()  # no division by the means, unlike SSIM
    structure = (1 - luma * (2 * covariance + STABLE) / (variances + STABLE)).clamp(min=0)
    edges = (1 + (image - mean).abs()) / (1 + (a.image - a.mean).abs()) - 1
    maps = torch.stack([structure, edges.clamp(min=0), (-edges).clamp(min=0)], 1).double().flatten(2)
    return torch.stack([maps.mean(2), (maps**4).mean(2) ** 0.25], 1)


def _scales(x: np.ndarray) -> list[Float[Tensor, "3 _ _"]]:
    """The image in XYB at every scale, the largest first; halved in linear light."""
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 3 or min(x.shape[:2]) < MINIMUM_SIDE:
        kind = f"{x.dtype} {list(x.shape)}"
        raise ValueError(f"SSIMULACRA2 needs uint8 [H, W, 3] with sides of at least 8, got {kind}")
    linear = torch.tensor(_LINEAR[x]).permute(2, 0, 1)
    images = [_xyb(linear)]
    while len(images) < SCALES and min(linear.shape[1:]) >= MINIMUM_SIDE:
        height, width = linear.shape[1:]
        even = pad(linear[None], (0, width % 2, 0, height % 2), mode="replicate")
        linear = torch.nn.functional.avg_pool2d(even, 2)[0]
        images.append(_xyb(linear))
    return images


def _xyb(linear: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    cones = torch.einsum("ij,jhw->ihw", torch.tensor(ABSORBANCE), linear) + BIAS
    cones = cones.clamp(min=0) ** (1 / 3) - BIAS ** (1 / 3)
    x, y = (cones[0] - cones[1]) / 2, (cones[0] + cones[1]) / 2
    return torch.stack([14 * x + 0.42, y + 0.01, cones[2] - y + 0.55])


def _blur(x: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """A near-Gaussian along both axes, zero outside the image as in the reference program."""
    x = conv2d(x[:, None], _KERNEL[None, None, :, None], padding=(_RADIUS, 0))
    return conv2d(x, _KERNEL[None, None, None, :], padding=(0, _RADIUS))[:, 0]


def _kernel() -> Float[Tensor, " taps"]:
    """Impulse response of libjxl's recursive filter: three cosines cut off at the radius.

    Charalampidis 2016, "Recursive implementation of the Gaussian filter using truncated cosine functions":
    the amplitudes make the sum 1 and the variance sigma^2, and come close to a Gaussian's spectrum
    otherwise.
    """
    n = round(3.2795 * SIGMA + 0.2546)  # eq. 57; the cosines vanish at n itself
    omega = np.pi / (2 * n) * np.array([1, 3, 5])
    p = np.array([1, -1, 1]) / np.tan(omega / 2)
    r = np.array([1, -1, 1]) * p**2 / np.sin(omega)
    rho = np.exp(-(SIGMA**2) * omega**2 / 2) / n
    minor = p[0] * r[1] - r[0] * p[1]
    z = np.array([p[1] * r[2] - r[1] * p[2], p[2] * r[0] - r[2] * p[0], minor]) / minor
    wanted = np.array([1, n**2 - SIGMA**2, z @ rho])  # eqs. 50 .. 53
    amplitudes = np.linalg.solve(np.array([p, r, z]), wanted)
    taps = np.arange(-n + 1, n)
    return torch.tensor(amplitudes @ np.cos(omega[:, None] * taps), dtype=torch.float32)


def _linear_light() -> np.ndarray:
    """IEC 61966-2-1: sRGB code value -> light, 0 .. 1."""
    v = np.arange(256) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_light()
_KERNEL = _kernel()
_RADIUS = len(_KERNEL) // 2
