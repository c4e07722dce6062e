"""sfumato compare: every codec at the same size, as one page; where there is a Chromium, in a browser too."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from fuzz import toy
from sfumato import compare, image
from sfumato.codec import Codec, load
from sfumato.weights import read_weights
from tests.test_viewer import CHELSEA, comparisons_in
from tests.test_viewer_browser import box, browser, choose, chosen, opened, pixels

__all__ = ["browser", "opened"]  # fixtures
SIDE = 128


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with Image.open(CHELSEA) as whole:
        whole.convert("RGB").crop((120, 60, 120 + SIDE, 60 + SIDE)).save(tmp_path / "<cat>.png")
    return tmp_path / "<cat>.png"


@pytest.fixture
def made(source: Path) -> compare.SameSize:
    return compare.compare(source, ["avif", "webp", "jpeg"], load(), 0.5)


def test_every_file_is_the_largest_that_is_no_larger(source: Path, made: compare.SameSize) -> None:
    ours, *others = (v for v in made.comparison.renditions if "steps" not in v.label)
    assert ours.size_bytes == len(load().encode(image.read(source), q=0.5)), "pixels only"
    assert [v.codec for v in others] == ["AVIF", "WebP", "JPEG"]
    original = image.read(source)
    for baseline, version in zip(compare.BASELINES.values(), others, strict=True):
        assert version.size_bytes == len(version.data)
        assert version.size_bytes <= ours.size_bytes or "as small" in " ".join(made.notes)
        quality = float(version.label.split()[1])
        buffer = io.BytesIO()
        step = 1 / baseline.substeps if baseline.substeps > 1 else 4
        finer = {"quality": quality + step if baseline.substeps > 1 else int(quality + step)}
        Image.fromarray(original).save(buffer, baseline.name, **baseline.options | finer)
        assert buffer.tell() > ours.size_bytes
        with Image.open(io.BytesIO(version.data)) as back:
            mse = np.square(original.astype(float) - np.asarray(back.convert("RGB"))).mean()
        assert version.metrics["PSNR, dB"] == pytest.approx(10 * np.log10(255**2 / mse))
        assert version.bpp == pytest.approx(8 * version.size_bytes / SIDE**2)
    with Image.open(io.BytesIO(made.comparison.original.data)) as back:
        assert np.array_equal(np.asarray(back), original)
    assert made.comparison.original.size_bytes == source.stat().st_size


def test_a_codec_that_cannot_be_as_small_is_noted(source: Path) -> None:
    made = compare.compare(source, ["jpeg"], load(), 0.0)
    ours, *_, jpeg = made.comparison.renditions
    assert jpeg.size_bytes > ours.size_bytes and jpeg.label == "JPEG 0"
    assert "quality 0; it cannot make this image as small." in made.page()


def test_bisection_keeps_the_limit_and_finds_the_largest() -> None:
    def file(setting: int) -> bytes:
        return bytes(10 + 3 * setting)

    for most in (0, 9, 10, 12, 13, 150, 309, 310, 311, 400):
        best = max([s for s in range(101) if len(file(s)) <= most], default=0)
        assert compare.largest_within(file, 100, most) == (best, file(best))
    uneven = [10, 30, 20, 40, 35, 60, 50]
    for most in range(10, 70):
        setting, data = compare.largest_within(lambda s: bytes(uneven[s]), 6, most)
        assert len(data) == uneven[setting] <= most


def test_steps_are_shown_where_there_is_a_denoiser(source: Path, made: compare.SameSize) -> None:
    toy_weights = read_weights(toy.WEIGHTS)
    bare = {name: value for name, value in toy_weights.tensors.items() if "denoiser" not in name}
    bare = dataclasses.replace(toy_weights, tensors=bare)
    assert "no trained denoiser" in compare.compare(source, ["jpeg"], Codec(bare), 0.5).page()
    pair = compare.compare(source, ["jpeg"], toy.codec(), 0.5)
    *ours, _ = pair.comparison.renditions
    wanted = (None, *compare.STEPS)
    assert [v.label for v in ours[1:]] == [f"sfumato 0.5 with {steps} steps" for steps in compare.STEPS]
    assert ours[0].label == "sfumato 0.5" and len({v.size_bytes for v in ours}) == 1
    assert len({v.data for v in ours}) == len(wanted)
    data = toy.codec().encode(source, q=0.5)
    for version, steps in zip(ours, wanted, strict=True):
        with Image.open(io.BytesIO(version.data)) as back:
            assert np.array_equal(np.asarray(back), toy.codec().decode(data, steps=steps))
    assert "no trained denoiser" not in pair.page()


def test_bad_names_and_a_pillow_without_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare.parse_baselines("AVIF, jpeg") == ["avif", "jpeg"]
    with pytest.raises(ValueError, match="no codec 'jxl' to compare with; there are avif, webp, jpeg"):
        compare.parse_baselines("jpeg,jxl")
    with pytest.raises(ValueError, match="no codec ''"):
        compare.parse_baselines("")
    with pytest.raises(ValueError, match="webp comes twice"):
        compare.parse_baselines("webp,webp")
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(ValueError, match="built without AVIF: leave avif out"):
        compare.parse_baselines("avif,jpeg")


def test_a_side_that_a_baseline_cannot_hold(tmp_path: Path) -> None:
    Image.new("RGB", (16400, 8)).save(tmp_path / "wide.png")
    with pytest.raises(image.ImageError, match="16400x8 pixels do not go into WebP"):
        compare.compare(tmp_path / "wide.png", ["webp"], toy.codec(), 0.1)
    made = compare.compare(tmp_path / "wide.png", ["jpeg"], toy.codec(), 0.1)
    assert {v.mime for v in (made.comparison.original, made.comparison.renditions[0])} == {"image/png"}


def test_an_exact_file_is_shown_once(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (0, 90, 200)).save(tmp_path / "flat.png")
    made = compare.compare(tmp_path / "flat.png", ["webp"], load())
    assert [one.codec for one in made.comparison.renditions] == ["sfumato", "WebP"]
    assert made.notes[0].startswith("sfumato: lossless") and "<td>∞</td>" in made.page()


def test_command(source: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sfumato", "compare", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(source, "--baselines", "webp", "-q", 0.3)
    target = source.with_suffix(".html")
    assert done.returncode == 0 and "sfumato 0.3: " in done.stdout and "WebP " in done.stdout, done.stderr
    [found] = comparisons_in(target.read_text(encoding="utf-8"))
    assert found["name"] == "<cat>.png" and found["renditions"][-1]["codec"] == "WebP"
    done = run(source, "--baselines", "webp")
    assert done.returncode == 1 and "exists" in done.stderr
    done = run(source, "--baselines", "gif", "-o", target)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "'gif'" in done.stderr


def test_in_a_browser(opened: Callable[..., Any], made: compare.SameSize) -> None:
    tab = opened(text=made.page(), viewport={"width": 900, "height": 1200})
    assert chosen(tab, "right") == "sfumato 0.5" and "<cat>.png" in tab.inner_text("h1")
    tab.uncheck("#equal")
    for index, label in enumerate(("AVIF", "WebP", "JPEG"), len(made.comparison.renditions) - 2):
        choose(tab, "left", index)
        assert chosen(tab, "left").startswith(label) and not tab.is_visible(".error")
    choose(tab, "left", 0)
    choose(tab, "right", 0)
    tab.click("[data-scale='2']")
    with Image.open(io.BytesIO(made.comparison.original.data)) as original:
        twice = np.asarray(original.convert("RGB")).repeat(2, 0).repeat(2, 1)
    x, y = (round(box(tab)[axis]) for axis in "xy")
    assert np.array_equal(pixels(tab)[y + 60 : y + 120, x + 10 : x + 100], twice[60:120, 10:100])
