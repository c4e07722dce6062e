"""The networks put together: the presets, and the model that is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.diffusion import Blurring
from sfumato.errors import WeightsError
from sfumato.transforms import BaseReconstruction
from training.networks.denoiser import LightDenoiser, UNet
from training.networks.positions import Position
from training.networks.prior import Prior
from training.networks.quantise import Gain
from training.networks.transform import (
    HyperAnalysis,
    LightAnalysis,
    LightSynthesis,
    PaperAnalysis,
    PaperSynthesis,
)


@dataclass(frozen=True)
class Config:
    """Sizes of all networks; 1/16, 1/8 and 1/4 are of the image's resolution."""

    family: Literal["light", "paper"]  # of g_a, g_s and the denoiser
    chunks: tuple[int, ...]  # channels of y, chunk by chunk
    encoder: tuple[tuple[int, int, int], tuple[int, int, int]]  # widths, depths at 1/16, 1/8, 1/4 (light)
    decoder: tuple[tuple[int, int, int], tuple[int, int, int]]
    denoiser: tuple[tuple[int, int, int], tuple[int, int, int]]  # at 1/4, 1/8, 1/16 (light)
    z_channels: int
    hyper_width: int
    hyper_kernel: int
    psi: int  # channels of the hyper context
    channel_width: int  # of g_ch
    parameter_width: int  # of g_ep
    pairs: int  # of Swin blocks in g_gs
    mlp_ratio: int
    sigma_b_max: float  # blur of the diffusion at t = 1, pixels
    t0: float  # where the reverse process starts, from x_base; 1: from noise alone
    blurred_base: bool = False  # whether the denoiser gets no more of x_base than the blur leaves at t0
    without_base: bool = False  # whether it gets nothing of x_base: only the features of the main decoder
    d_min: float = 0.001  # what the blur leaves of the highest frequencies
    blur_power: int = 2  # of the sine by which it grows with t
    times_power: float = 2.0  # of the sampler's times; 1: evenly spaced
    window: int = 8  # of the attention in g_gs, latents a side; a multiple of 4
    position: Position = "laplacian"  # encoding in g_gs, a row of `positions.ENCODINGS`
    passes: int = 2  # over each chunk: anchors and non-anchors, or 1 for all without spatial context
    gain_span: float = 2.85  # log gain from q = 0 to 1 before training: half of ln(lambda ratio)

    @property
    def latent(self) -> int:
        return sum(self.chunks)


DIFFUSION = ("sigma_b_max", "t0", "d_min", "times_power")
"""Fields of a preset that say what the diffusion is; a recipe may change them."""
TRAINING_ONLY = ("blurred_base", "without_base", "blur_power")
"""More of them, for studies; weights with one other than a preset's cannot be shipped."""

# fmt: off
PRESETS: dict[str, Config] = {
    "paper": Config(
        family="paper", chunks=(16, 16, 32, 64, 128),
        encoder=((0, 0, 0), (0, 0, 0)), decoder=((0, 0, 0), (0, 0, 0)), denoiser=((0, 0, 0), (0, 0, 0)),
        z_channels=256, hyper_width=256, hyper_kernel=5, psi=512,
        channel_width=192, parameter_width=320, pairs=2, mlp_ratio=4,
        sigma_b_max=1.0, t0=1.0, times_power=1.0,
    ),
    "base": Config(
        family="light", chunks=(16, 16, 32, 64, 64),  # the entropy model of `small`, from which it grows
        encoder=((320, 256, 0), (2, 7, 0)), decoder=((320, 256, 96), (1, 6, 3)),
        denoiser=((96, 192, 256), (4, 4, 2)),
        z_channels=64, hyper_width=64, hyper_kernel=3, psi=96,
        channel_width=64, parameter_width=128, pairs=1, mlp_ratio=2, sigma_b_max=20.0, t0=0.3,
    ),
    "small": Config(
        family="light", chunks=(16, 16, 32, 64, 64),
        encoder=((192, 128, 0), (1, 4, 0)), decoder=((192, 128, 48), (1, 4, 2)),
        denoiser=((48, 80, 0), (2, 1, 0)),
        z_channels=64, hyper_width=64, hyper_kernel=3, psi=96,
        channel_width=64, parameter_width=128, pairs=1, mlp_ratio=2, sigma_b_max=20.0, t0=0.3,
    ),
    "toy": Config(  # for tests and fuzzing: too small for images
        family="light", chunks=(2, 2, 2, 4, 4),
        encoder=((16, 16, 0), (1, 1, 0)), decoder=((16, 16, 8), (1, 1, 1)),
        denoiser=((8, 8, 0), (1, 1, 0)),
        z_channels=4, hyper_width=8, hyper_kernel=3, psi=8,
        channel_width=8, parameter_width=8, pairs=1, mlp_ratio=1, sigma_b_max=6.0, t0=0.3,
    ),
}
# fmt: on


class Model(nn.Module):
    """All networks of one preset.

    x -> g_a -> y -> gain(q), round -> y_hat -> g_s -> x_base -> denoiser, steps times -> x_hat
                +--> h_a -> z -> z_hat -> prior
    """

    def __init__(self, preset: str) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise WeightsError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        c = PRESETS[preset]
        self.preset, self.config = preset, c
        light = c.family == "light"
        self.g_a: nn.Module = LightAnalysis(c.latent, *c.encoder) if light else PaperAnalysis(c.latent)
        self.gain = Gain(c.latent, c.gain_span)
        self.h_a = HyperAnalysis(c.latent, c.hyper_width, c.z_channels, c.hyper_kernel)
        self.prior = entropy_model(c)
        g_s = LightSynthesis(c.latent, *c.decoder) if light else PaperSynthesis(c.latent)
        self.g_s: nn.Module = g_s
        self.denoiser: nn.Module = (
            LightDenoiser(*c.denoiser, g_s.feature_widths) if light else UNet(contexts=g_s.feature_widths)
        )
        self.set_diffusion()
        self.has_denoiser = False  # whether the denoiser is trained; steps > 0 need it

    @property
    def diffusion(self) -> dict[str, float | bool]:
        """What `set_diffusion` has set, or the preset."""
        return {name: getattr(self.config, name) for name in (*DIFFUSION, *TRAINING_ONLY)}

    def set_diffusion(self, **changes: float | bool) -> None:
        """Another diffusion, by fields of `Config`; files of weights keep it."""
        self.config = c = replace(self.config, **changes)  # type: ignore[arg-type]
        self.schedule = Blurring(c.sigma_b_max, c.d_min, blur_power=c.blur_power)

    def denoise(
        self,
        z_t: Float[Tensor, "b 3 h w"],
        t: Float[Tensor, " b"],
        q: Float[Tensor, " b"],
        base: BaseReconstruction,
    ) -> Float[Tensor, "b 3 h w"]:
        """What the denoiser predicts of z_t at time t."""
        x_base = base.x_base
        if self.config.blurred_base:
            x_base = self.schedule.blur(x_base, self.config.t0)
        if self.config.without_base:
            x_base = torch.zeros_like(x_base)
        return self.denoiser(z_t, t, q, x_base, base.features).float()

    def analyze(self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """x in [-1, 1], sides multiples of 64 -> (y, z), y in the domain of the gains."""
        y = self.g_a(x) * self.gain(q)
        return y, self.h_a(y)

    def synthesize(self, y_hat: Float[Tensor, "b m h w"], q: Float[Tensor, " b"]) -> BaseReconstruction:
        """y_hat in the domain of the gains -> x_base in [-1, 1] and the features of the denoiser."""
        return self.g_s(y_hat / self.gain(q), q)


def entropy_model(c: Config) -> Prior:
    """The entropy model of these sizes, alone."""
    return Prior(
        c.chunks,
        c.z_channels,
        c.hyper_width,
        c.hyper_kernel,
        c.psi,
        c.channel_width,
        c.parameter_width,
        c.pairs,
        c.mlp_ratio,
        c.window,
        c.position,
        c.passes,
    )


def channels_last(model: Model) -> Model:
    """The model with its convolutions in the memory order that is fast everywhere (changed in place)."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def rebuild(model: Model) -> Model:
    """The same parameters and diffusion in networks as they are built now, which may pad otherwise."""
    fresh = Model(model.preset)
    fresh.load_state_dict(model.state_dict())
    fresh.config, fresh.schedule, fresh.has_denoiser = model.config, model.schedule, model.has_denoiser
    return fresh
