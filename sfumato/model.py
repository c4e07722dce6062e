"""The networks put together: presets, weights on disk, and the model that codec and training share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.denoiser import LightDenoiser, UNet
from sfumato.diffusion import Blurring
from sfumato.prior import Prior
from sfumato.quantise import Gain
from sfumato.transform import (
    HYPER_STRIDE,
    STRIDE,
    HyperAnalysis,
    LightAnalysis,
    LightSynthesis,
    PaperAnalysis,
    PaperSynthesis,
    Synthesised,
)

WEIGHTS = Path(__file__).parent / "weights"
TABLES = {"counts", "widths", "fractions"}
"""Integer tables beside the networks: those of `scales.Tables`, and `exact.convert`'s fractions."""


@dataclass(frozen=True)
class Config:
    """Sizes of all networks; 1/16, 1/8 and 1/4 are of the picture's resolution."""

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
    d_min: float = 0.001  # what the blur leaves of the highest frequencies
    times_power: float = 2.0  # of the sampler's times; 1: evenly spaced
    gain_span: float = 2.85  # log gain from q = 0 to 1 before training: half of ln(lambda ratio)

    @property
    def latent(self) -> int:
        return sum(self.chunks)


# fmt: off
PRESETS: dict[str, Config] = {
    "paper": Config(
        family="paper", chunks=(16, 16, 32, 64, 128),
        encoder=((0, 0, 0), (0, 0, 0)), decoder=((0, 0, 0), (0, 0, 0)), denoiser=((0, 0, 0), (0, 0, 0)),
        z_channels=256, hyper_width=256, hyper_kernel=5, psi=512,
        channel_width=192, parameter_width=320, pairs=2, mlp_ratio=4, sigma_b_max=1.0, t0=1.0,
    ),
    "base": Config(
        family="light", chunks=(16, 16, 32, 64, 128),
        encoder=((320, 256, 0), (2, 7, 0)), decoder=((320, 256, 96), (1, 6, 3)),
        denoiser=((96, 192, 256), (4, 4, 2)),
        z_channels=96, hyper_width=128, hyper_kernel=3, psi=256,
        channel_width=96, parameter_width=256, pairs=1, mlp_ratio=2, sigma_b_max=6.0, t0=0.3,
    ),
    "small": Config(
        family="light", chunks=(16, 16, 32, 64, 64),
        encoder=((192, 128, 0), (1, 4, 0)), decoder=((192, 128, 48), (1, 4, 2)),
        denoiser=((48, 80, 0), (2, 1, 0)),
        z_channels=64, hyper_width=64, hyper_kernel=3, psi=96,
        channel_width=64, parameter_width=128, pairs=1, mlp_ratio=2, sigma_b_max=20.0, t0=0.3,
    ),
    "toy": Config(  # for tests and fuzzing: too small for pictures
        family="light", chunks=(2, 2, 2, 4, 4),
        encoder=((16, 16, 0), (1, 1, 0)), decoder=((16, 16, 8), (1, 1, 1)),
        denoiser=((8, 8, 0), (1, 1, 0)),
        z_channels=4, hyper_width=8, hyper_kernel=3, psi=8,
        channel_width=8, parameter_width=8, pairs=1, mlp_ratio=1, sigma_b_max=6.0, t0=0.3,
    ),
}
# fmt: on


class WeightsError(ValueError):
    """Weights that are not there, not ours, or do not fit; the message names the file and what to do."""


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
        self.prior = Prior(
            c.chunks,
            c.z_channels,
            c.hyper_width,
            c.hyper_kernel,
            c.psi,
            c.channel_width,
            c.parameter_width,
            c.pairs,
            c.mlp_ratio,
        )
        g_s = LightSynthesis(c.latent, *c.decoder) if light else PaperSynthesis(c.latent)
        self.g_s: nn.Module = g_s
        self.denoiser: nn.Module = (
            LightDenoiser(*c.denoiser, g_s.feature_widths) if light else UNet(contexts=g_s.feature_widths)
        )
        self.diffuse_by()
        self.has_denoiser = False  # whether the denoiser is trained; steps > 0 need it

    def diffuse_by(self, **changes: float) -> None:
        """Another diffusion, by fields of `Config`, for studies: files of weights do not tell of it."""
        self.config = c = replace(self.config, **changes)  # type: ignore[arg-type]
        self.schedule = Blurring(c.sigma_b_max, c.d_min)

    @property
    def halo(self) -> int:
        """Pixels around a part of the picture that g_a and g_s need to see, a multiple of 64."""
        reach = max(int(self.g_a.reach), int(self.g_s.reach))  # type: ignore[arg-type]
        return -(-reach // HYPER_STRIDE) * HYPER_STRIDE

    def analyse(self, x: Float[Tensor, "b 3 h w"], q: Float[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """x in [-1, 1], sides multiples of 64 -> (y, z), y in the domain of the gains."""
        y = self.g_a(x) * self.gain(q)
        return y, self.h_a(y)

    def synthesise(self, y_hat: Float[Tensor, "b m h w"], q: Float[Tensor, " b"]) -> Synthesised:
        """y_hat in the domain of the gains -> x_base in [-1, 1] and the features of the denoiser."""
        return self.g_s(y_hat / self.gain(q), q)


def save_weights(model: Model, path: Path, extra: dict[str, Tensor], notes: dict[str, str]) -> str:
    """Write the weights in fp16 with the integer tables `extra` (`TABLES`); returns the model id in hex.

    The id is the first 4 bytes of the SHA-256 over names, shapes and bytes of all tensors but the denoiser's,
    so that a file names the very weights that wrote it, and a better denoiser serves files that are there.
    The denoiser has an id of its own, made alike.
    """
    skip = () if model.has_denoiser else ("denoiser.",)
    state = {k: v.detach() for k, v in model.state_dict().items() if not k.startswith(skip)}
    tensors = {k: v.half().contiguous().cpu() for k, v in state.items()}
    tensors |= {f"tables.{k}": v.contiguous() for k, v in extra.items()}
    model_id, denoiser_id = _ids(tensors)
    metadata = {"preset": model.preset, "model_id": model_id, "denoiser_id": denoiser_id}
    metadata["notes"] = json.dumps(notes, sort_keys=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(save(tensors, metadata))
    temporary.replace(path)
    return model_id


def channels_last(model: Model) -> Model:
    """The model with its convolutions in the memory order that is fast everywhere (changed in place)."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def shipped() -> dict[int, str]:
    """Model id -> name of every file of weights in the package."""
    found = {}
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found[int((file.metadata() or {})["model_id"], 16)] = path.stem
        except (SafetensorError, KeyError, ValueError) as error:
            raise WeightsError(f"{path} is not a file of weights: {error}") from error
    return found


@dataclass(frozen=True)
class Weights:
    """A file of weights, read and checked."""

    model: Model
    model_id: int  # u32, as in the header of a file
    denoiser_id: str  # hex; empty where there is none
    tables: dict[str, Tensor]
    notes: dict[str, str]


def load_weights(name: str | Path) -> Weights:
    """Weights by preset name (those in the package) or by path; WeightsError if they cannot be used."""
    path = Path(name)
    if path.suffix != ".safetensors":
        path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
        raise WeightsError(f"no weights {str(name)!r} at {path}; weights in this package: {shipped}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a file of weights: {error}") from error
    named = metadata.get("model_id"), metadata.get("denoiser_id", "")
    if named != _ids(tensors):
        raise WeightsError(f"{path} is damaged: its tensors do not match its ids {named}")
    with torch.device("cpu"):  # whatever device and type the host program has made the default
        model = Model(metadata.get("preset", "")).float()
    state = {k: v.float() for k, v in tensors.items() if not k.startswith("tables.")}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit preset {model.preset!r}: {error}") from error
    model.has_denoiser = any(k.startswith("denoiser.") for k in state)
    missing = [k for k in missing if model.has_denoiser or not k.startswith("denoiser.")]
    if missing or unexpected:
        raise WeightsError(f"{path} does not fit preset {model.preset!r}: {(missing + unexpected)[:3]}")
    tables = {k.removeprefix("tables."): v for k, v in tensors.items() if k.startswith("tables.")}
    if set(tables) != TABLES:
        raise WeightsError(f"{path} holds the tables {sorted(tables)}, not {sorted(TABLES)}")
    model.eval().requires_grad_(False)
    notes = json.loads(metadata.get("notes", "{}"))
    return Weights(model, int(metadata["model_id"], 16), metadata.get("denoiser_id", ""), tables, notes)


def _ids(tensors: dict[str, Tensor]) -> tuple[str, str]:
    """(of the codec, of the denoiser or "")."""
    denoiser = {k: v for k, v in tensors.items() if k.startswith("denoiser.")}
    codec = {k: v for k, v in tensors.items() if k not in denoiser}
    return _fingerprint(codec), _fingerprint(denoiser) if denoiser else ""


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.digest()[:4].hex()


@dataclass(frozen=True)
class Cost:
    """What one part of a preset costs."""

    part: str
    parameters: int
    kmac_per_pixel: float  # thousands of multiply-accumulates for each pixel of the picture


def costs(preset: str, side: int = 512) -> list[Cost]:
    """The cost of each part, counted by running it on the meta device for a side x side picture.

    Element-wise work is not counted.  `prior` is h_s and all contexts, as both encoder and decoder run them;
    `denoiser` is one step.
    """
    with torch.device("meta"):
        model = Model(preset)
        x, q = torch.empty(1, 3, side, side), torch.empty(1)
        y = torch.empty(1, model.config.latent, side // STRIDE, side // STRIDE)
        z = torch.empty(1, model.config.z_channels, side // HYPER_STRIDE, side // HYPER_STRIDE)
        base = model.g_s(y, q)
        calls: dict[str, tuple[nn.Module, tuple[object, ...]]] = {
            "g_a": (model.g_a, (x,)),
            "h_a": (model.h_a, (y,)),
            "prior": (model.prior, (y, z, q)),
            "g_s": (model.g_s, (y, q)),
            "denoiser": (model.denoiser, (x, q, q, x, base.features)),
        }
        out = []
        for part, (module, arguments) in calls.items():
            with FlopCounterMode(display=False) as counter:
                module(*arguments)
            size = sum(p.numel() for p in module.parameters())
            out.append(Cost(part, size, counter.get_total_flops() / 2 / side**2 / 1e3))
    return out
