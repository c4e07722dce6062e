"""evaluation.codecs: names, real files, errors for what is missing, and how a codec is added."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import codecs
from evaluation.codecs import Codec, CodecMissing, codec, parse_names
from metrics.distortion import psnr

LIBRARIES = {"jxl": "imagecodecs", "heic": "pillow_heif"}


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth gradient with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def write_npy(image: np.ndarray, setting: float, path: Path) -> None:
    """Of a codec for tests: every sample in steps of the setting."""
    with open(path, "wb") as file:
        np.save(file, image // int(setting) * int(setting))


def read_npy(path: Path) -> np.ndarray:
    return np.load(path)  # type: ignore[no-any-return]


def coarse(name: str = "coarse", settings: tuple[float, ...] = (1, 32)) -> Codec:
    return Codec(name, ".npy", settings, write_npy, read_npy, "steps of equal size")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe of docs/building-on-it.md: one line of the table."""
    monkeypatch.setitem(codecs.CODECS, "coarse", coarse)
    return "coarse"


def test_a_codec_is_added_by_one_line(added: str, tmp_path: Path) -> None:
    one, image = codec(added), smooth_image(8, 9)
    one.encode(image, 1, tmp_path / "a.npy")
    assert (one.decode(tmp_path / "a.npy") == image).all()
    with pytest.raises(ValueError, match="known are .*, heic, coarse$"):
        codec("vp9")


def test_names_keep_options_with_their_codec() -> None:
    text = "sfumato:steps=4,realism=0.5, jpeg,avif"
    assert parse_names(text) == ["sfumato:steps=4,realism=0.5", "jpeg", "avif"]
    with pytest.raises(ValueError, match="an empty name"):
        parse_names("jpeg,,avif")
    with pytest.raises(ValueError, match="jpeg comes twice"):
        parse_names("jpeg,avif,jpeg")


@pytest.mark.parametrize("name", codecs.CODECS)
def test_codecs_spend_more_bytes_on_better_images(name: str, tmp_path: Path) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
    one, image = codec(name), smooth_image(96, 120)
    sizes, qualities = [], []
    for setting in (one.settings[1], one.settings[-1]):
        path = tmp_path / f"{setting:g}{one.suffix}"
        one.encode(image, setting, path)
        decoded = one.decode(path)
        assert decoded.dtype == np.uint8 and decoded.shape == image.shape
        sizes.append(path.stat().st_size)
        qualities.append(psnr(image, decoded))
    assert sizes[0] < sizes[1] and 15 < qualities[0] < qualities[1]
    assert any(character.isdigit() for character in one.description)
    pickle.loads(pickle.dumps(one))  # it is sent to the process that codes
    if name == "avif":
        assert "max_threads 1" in one.description  # the same bytes for any number of cores


@pytest.mark.parametrize(
    "name", ["vp9", "", "sfumato:", "sfumato:x", "sfumato:steps=x", "sfumato:speed=2", "jpeg:4"]
)
def test_unknown_codecs_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown codec '{name}'"):
        codec(name)


@pytest.mark.parametrize(("name", "module"), LIBRARIES.items())
def test_the_error_without_a_library_names_its_package(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(CodecMissing, match=rf"^{name}: the package {package} is not installed"):
        codec(name)


def test_sfumato_goes_through_its_public_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Weights:
        denoiser_id, preset, model_id = "5678abcd", "tiny", 0x1234

    def encode(image: np.ndarray, q: float, model: str) -> bytes:
        calls.append(("encode", q, model))
        return image.tobytes()

    def decode(data: bytes, **options: object) -> np.ndarray:
        calls.append(("decode", options))
        return np.frombuffer(data, np.uint8).reshape(8, 9, 3)

    functions: dict[str, Callable[..., object]] = {"load": lambda model: Weights}
    for name, function in (functions | {"encode": encode, "decode": decode}).items():
        monkeypatch.setattr(codecs.sfumato, name, function, raising=False)
    path, image = tmp_path / "a.sfu", smooth_image(8, 9)
    for name, options in {
        "sfumato": {"model": "small"},
        "sfumato:2": {"model": "small", "steps": 2},
        "sfumato:steps=4,realism=0.5,model=w": {"model": "w", "steps": 4, "realism": 0.5},
    }.items():
        one = codec(name, model="small")
        assert one.name == name and one.settings == tuple(i / 8 for i in range(9))
        # The denoiser changes images, if not files.
        assert "tiny 00001234" in one.description and "denoiser 5678abcd" in one.description
        one.encode(image, 0.25, path)
        assert (one.decode(path) == image).all()
        assert calls[-2:] == [("encode", 0.25, options["model"]), ("decode", options)]
    assert "denoiser" not in codec("sfumato:0").description
    Weights.denoiser_id = ""
    with pytest.raises(CodecMissing, match=r"sfumato:2: the tiny weights hold no trained denoiser"):
        codec("sfumato:2")


def test_jpeg_is_measured_as_compressai_measures_it() -> None:
    """Pillow's defaults over Kodak against CompressAI's published curve: rate to 1 %, PSNR to 0.2 dB."""
    import io
    import os

    from evaluation import published
    from sfumato.image import read

    if "SFUMATO_KODAK" not in os.environ:
        pytest.skip("SFUMATO_KODAK names no folder with the Kodak images")
    images = [read(path) for path in sorted(Path(os.environ["SFUMATO_KODAK"]).glob("kodim*.png"))]
    [theirs] = [one for one in published.published_curves("kodak") if one.codec == published.JPEG]
    for quality, rate, decibels in list(
        zip(range(5, 100, 5), theirs.rate("psnr_db"), theirs.values["psnr_db"], strict=True)
    )[::6]:
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            Image.fromarray(image).save(file, "JPEG", quality=quality)
        bpp = np.mean(
            [8 * file.tell() / image[..., 0].size for image, file in zip(images, files, strict=True)]
        )
        assert bpp == pytest.approx(rate, rel=0.01)
        pairs = zip(images, map(partial(Image.open), files), strict=True)
        values = [psnr(image, np.asarray(decoded.convert("RGB"))) for image, decoded in pairs]
        assert np.mean(values) == pytest.approx(decibels, abs=0.2)
