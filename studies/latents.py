"""The common base of studies of the entropy model: cached latents, short trainings on them, and their bits.

g_a and the gains stay those of the shipped weights.  y before the gain is kept in fp16; h_a and an entropy
model are trained alone on random windows of it.  Equal seeds give all variants equal windows, qualities and
noise, so that differences between variants are paired.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor, nn

from sfumato.autoregressive import autoregressive_pass
from sfumato.transforms import HYPER_STRIDE, STRIDE
from training.data import Images
from training.networks.model import Model
from training.networks.prior import Prior
from training.networks.quantise import Gain
from training.optimiser import autocast_dtype
from training.validation import rounding

CPU = torch.device("cpu")
QUALITIES = (0.2, 0.5, 0.8)  # at which bits are counted
WINDOW = 16  # latents a side of what a step sees; 256 pixels
KNOTS = 9  # qualities at which the reference's bits are known


@dataclass(frozen=True)
class Latents:
    """y of many images before the gain, one after another."""

    values: Float16[Tensor, " total"]
    channels: int
    shapes: tuple[tuple[int, int], ...]  # height, width

    def __len__(self) -> int:
        return len(self.shapes)

    def image(self, number: int) -> Float16[Tensor, "m h w"]:
        sizes = [self.channels * h * w for h, w in self.shapes[: number + 1]]
        start = sum(sizes[:-1])
        return self.values[start : start + sizes[-1]].view(self.channels, *self.shapes[number])

    def windows(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count m side side"]:
        """Random windows, images by their area."""
        area = np.array([h * w for h, w in self.shapes], dtype=np.float64)
        out = []
        for number in rng.choice(len(self), count, p=area / area.sum()):
            y = self.image(int(number))
            top, left = (int(rng.integers(side - WINDOW + 1)) for side in y.shape[1:])
            out.append(y[:, top : top + WINDOW, left : left + WINDOW])
        return torch.stack(out).float()


@torch.inference_mode()
def analyzed(g_a: nn.Module, image: UInt8[Tensor, "h w 3"], dtype: torch.dtype | None) -> Tensor:
    """y [m, h / 16, w / 16] of the largest part whose sides are multiples of 64, in fp16."""
    height, width = (side // HYPER_STRIDE * HYPER_STRIDE for side in image.shape[:2])
    x = image[:height, :width].permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.autocast("cpu", dtype) if dtype else nullcontext():
        y: Tensor = g_a(x)[0]
    return y.half()


def cached(model: Model, images: Images, chosen: list[int], path: Path, dtype: torch.dtype | None) -> Latents:
    """Latents of some of the images: from the file, or made and written there."""
    state = model.g_a.state_dict()
    digest = hashlib.sha256(json.dumps([chosen, images.shapes]).encode())
    for name in sorted(state):
        digest.update(state[name].numpy().tobytes())
    data = path.with_name(f"{path.name}-{digest.hexdigest()[:12]}.latents")
    channels = model.config.latent
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        part = data.with_suffix(".part")
        with part.open("wb") as file:
            for number in chosen:
                file.write(analyzed(model.g_a, images.image(number), dtype).contiguous().numpy().tobytes())
        part.replace(data)
    cells = HYPER_STRIDE // STRIDE
    sides = [images.shapes[number] for number in chosen]
    shapes = tuple((h // HYPER_STRIDE * cells, w // HYPER_STRIDE * cells) for h, w in sides)
    total = channels * sum(h * w for h, w in shapes)
    values = torch.from_file(str(data), shared=False, size=total, dtype=torch.float16)
    return Latents(values, channels, shapes)


class EntropyNetworks(nn.Module):
    """What is trained: h_a and the entropy model; y comes in the domain of the gains."""

    def __init__(self, h_a: nn.Module, prior: Prior) -> None:
        super().__init__()
        self.h_a, self.prior = h_a, prior

    def forward(self, y: Float[Tensor, "b m h w"], q: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Bits of each window, of noisy values."""
        bits: Tensor = self.prior(y, self.h_a(y), q).bits.sum(1)
        return bits

    @torch.inference_mode()
    def rounded_bits(self, y: Float[Tensor, "b m h w"], q: float) -> float:
        """Bits of rounded values, as an ideal coder would write them."""
        bits: list[Tensor] = []
        z, quality = self.h_a(y), torch.full((len(y),), q)
        size = z.shape[2], z.shape[3]
        autoregressive_pass(self.prior, rounding(bits), quality, size, z, y, passes=self.prior.passes)
        return float(torch.stack(bits).sum())


@dataclass(frozen=True)
class Schedule:
    """A short training: linear warm-up, constant, linear down to 1 %; evaluated is the moving average."""

    steps: int
    windows: int = 8  # a step
    rate: float = 3e-4
    warmup: int = 20
    decay_start: float = 0.5
    ema: float = 0.98
    clip: float = 1.0

    def rate_at(self, step: int) -> float:
        decay = max(0.0, (step / self.steps - self.decay_start) / (1 - self.decay_start))
        return self.rate * min(1.0, (step + 1) / self.warmup) * max(0.01, 1 - 0.99 * decay)


@dataclass(frozen=True)
class Base:
    """What all variants of a study share."""

    model: Model  # the shipped weights
    train: Latents
    test: Latents
    pixels: int  # of the images of `test`
    reference: Float[Tensor, " knots"]  # log of the shipped model's bits a window, at evenly spaced q

    @classmethod
    def load(cls, model: Model, images: Images, number: int, test: Images, folder: Path) -> Base:
        """Latents of `number` images, evenly spread over those that hold a window, and of all of `test`."""
        large = [n for n, shape in enumerate(images.shapes) if min(shape) >= WINDOW * STRIDE]
        chosen = [large[n] for n in np.linspace(0, len(large) - 1, min(number, len(large))).astype(int)]
        train = cached(model, images, chosen, folder / "train", autocast_dtype(CPU))
        held = cached(model, test, list(range(len(test))), folder / "test", None)
        total = sum(h * w for h, w in held.shapes) * STRIDE**2
        return cls(model, train, held, total, reference_bits(model, train))

    @property
    def gain(self) -> Gain:
        return self.model.gain

    def bpp(self, networks: EntropyNetworks) -> list[float]:
        """Rounded bits a pixel of the test images, at each of `QUALITIES`."""
        networks.eval()
        return [
            sum(networks.rounded_bits(y * self.gain(torch.tensor([q])), q) for y in self._images())
            / self.pixels
            for q in QUALITIES
        ]

    def _images(self) -> Iterator[Tensor]:
        return (self.test.image(number)[None].float() for number in range(len(self.test)))


@torch.inference_mode()
def reference_bits(model: Model, latents: Latents) -> Float[Tensor, " knots"]:
    """Log of the mean bits of 16 windows at each of `KNOTS` qualities: by it each q counts alike."""
    y = latents.windows(16, np.random.default_rng(0))
    networks = EntropyNetworks(model.h_a, model.prior)
    found = []
    for q in np.linspace(0, 1, KNOTS).tolist():
        found.append(networks.rounded_bits(y * model.gain(torch.tensor([q])), q) / len(y))
    return torch.tensor(found).clamp_min(1.0).log()


def train(
    networks: EntropyNetworks,
    base: Base,
    schedule: Schedule,
    seed: int,
    is_trained: Callable[[str], bool] = lambda name: True,
) -> EntropyNetworks:
    """Train in place the parameters whose name is to be, and return the moving average."""
    networks.train()
    for name, parameter in networks.named_parameters():
        parameter.requires_grad_(is_trained(name))
    average = copy.deepcopy(networks).requires_grad_(False)
    parameters: list[Tensor] = [p for p in networks.parameters() if p.requires_grad]
    smooth: list[Tensor] = [p for name, p in average.named_parameters() if is_trained(name)]
    optimiser = torch.optim.AdamW(
        parameters, lr=schedule.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    rng = np.random.default_rng((seed, 1))
    dtype = autocast_dtype(CPU)
    for step in range(schedule.steps):
        y = base.train.windows(schedule.windows, rng)
        q = torch.from_numpy(rng.random(schedule.windows, dtype=np.float32))
        torch.manual_seed(1_000_003 * seed + step)  # equal noise for all variants
        with torch.no_grad():
            y = y * base.gain(q)
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            bits = networks(y, q)
        loss = (bits / interpolated(base.reference, q).exp()).mean()
        optimiser.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, schedule.clip))
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        if math.isfinite(norm):
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(smooth, parameters, 1 - min(schedule.ema, (step + 1) / (step + 10)))
    return average.eval()


def interpolated(rows: Float[Tensor, " knots"], q: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The value at q of what is linear between evenly spaced knots."""
    place = q * (len(rows) - 1)
    below = place.long().clamp(max=len(rows) - 2)
    return torch.lerp(rows[below], rows[below + 1], place - below)


def load_matching(module: nn.Module, state: dict[str, Tensor], keep: Callable[[str], bool]) -> list[str]:
    """Load what has the same name and shape and is to be kept; returns the names that were not loaded."""
    own = module.state_dict()
    found = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape and keep(k)}
    missing, _ = module.load_state_dict(found, strict=False)
    return list(missing)
