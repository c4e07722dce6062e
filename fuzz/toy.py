"""python -m fuzz.toy: the toy weights, and the corpus of files that they wrote.

The networks are untrained and tiny, so that a fuzzer gets through hundreds of files a second; container,
coder and autoregressive pass are those of every codec.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import tyro

from acceptance import determinism
from sfumato import container, image, lossless
from sfumato.codec import Codec
from sfumato.weights import read_weights, to_bytes

HERE = Path(__file__).parent
WEIGHTS = HERE / "toy.safetensors"
CORPUS = HERE / "corpus"
CASES: dict[str, tuple[int, int, int, float | None, int | None, dict[str, bytes]]] = {
    # name: height, width, channels, q (None: a lossless file), seed, metadata
    "pixel": (1, 1, 3, 0.0, None, {}),
    "square": (64, 64, 3, 0.5, None, {}),
    "wide": (40, 130, 3, 1.0, 7, {}),
    "note": (65, 3, 3, 0.3, None, {"NOTE": b"hello"}),
    "flat": (200, 10, 3, 0.0, 2**32 - 1, {"NOTE": b"", "MORE": bytes(200)}),
    "translucent": (33, 70, 2, 0.4, None, {"XMP ": b"<x/>"}),
    "exact": (9, 21, 3, None, None, {"NOTE": b"none is lost"}),
    "mask": (16, 60, 2, None, None, {}),
}


@lru_cache(maxsize=1)
def codec() -> Codec:
    """Encoder and decoder with the toy weights."""
    return Codec(read_weights(WEIGHTS))


def test_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Waves and noise, uint8 [height, width, 3]; for 2 channels, one of them with a round alpha."""
    row, column = np.mgrid[0:height, 0:width] / 16
    waves = np.stack([np.sin(row + k) * np.cos(column - k) for k in range(3)], -1) * 100 + 128
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 9, waves.shape)
    pixels = (waves + noise).clip(0, 255).astype(np.uint8)
    if channels == 3:
        return pixels
    distance = np.hypot(row - height / 32, column - width / 32)
    return np.dstack([pixels[..., 0], (255 * (2 - distance).clip(0, 1)).astype(np.uint8)])


def corpus() -> list[bytes]:
    """The valid files, by name."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.sfu"))]


def write(name: str) -> bytes:
    """The file of a case."""
    height, width, channels, quality, seed, metadata = CASES[name]
    pixels = test_image(height, width, channels)
    if quality is None:
        data = lossless.file(image.load(pixels), 1 << 20)
        assert data is not None
    else:
        data = codec().encode(pixels, q=quality, seed=seed)
    file = container.unpack(data)
    return container.pack(file.header, file.sections, metadata, file.alpha)


def main() -> None:
    """Write the toy weights and the corpus anew."""
    import torch  # only here: fuzzing needs none of it

    from training.export import export
    from training.networks.model import Model
    from training.random_weights import calibrated

    torch.manual_seed(0)
    model = Model("toy").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    model.has_denoiser = True
    model.gain.log_gain.embedding += 2.0  # untrained latents are small; some symbols should not be zero
    trained = calibrated(model, torch.from_numpy(image.to_x(test_image(128, 128))))
    image.write_bytes(WEIGHTS, to_bytes(export(trained)))
    codec.cache_clear()
    CORPUS.mkdir(exist_ok=True)
    for name in CASES:
        (CORPUS / f"{name}.sfu").write_bytes(write(name))
    coded = [path for path in sorted(CORPUS.glob("*.sfu")) if CASES[path.stem][3] is not None]
    found = {path.stem: determinism.latent(codec(), path.read_bytes()) for path in coded}
    (CORPUS / "latents.txt").write_text("".join(f"{name} {crc:08x}\n" for name, crc in found.items()))


if __name__ == "__main__":
    tyro.cli(main)
