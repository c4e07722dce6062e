"""docs/: examples run as they stand, in order; what commands write is up to date; links lead somewhere."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from docs import command, figures, images
from evaluation.codecs import CODECS, codec
from evaluation.metrics import METRICS
from fuzz import toy
from sfumato import container
from training.networks.model import PRESETS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "DESIGN"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.S | re.M)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write to from which the repository looks as it does from its root."""
    for folder in ("examples", "fuzz"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXAMPLES = (("python.md", 12), ("format.md", 2), ("building-on-it.md", 5), ("everyday.md", 5))


@pytest.mark.parametrize(("page", "count"), EXAMPLES)
def test_python_examples(page: str, count: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the lines which the page adds to the tables leave with the test.
    for name in ("wider", "even"):
        monkeypatch.setitem(PRESETS, name, PRESETS["toy"])
    monkeypatch.setitem(METRICS, "mae", METRICS["psnr_db"])
    monkeypatch.setitem(CODECS, "webp-fast", CODECS["webp"])
    scope: dict[str, object] = {"__name__": "docs"}
    found = blocks(page, "python")
    assert len(found) == count
    for block in found:
        exec(compile(block, page, "exec", dont_inherit=True), scope)
    if page == "building-on-it.md":
        assert METRICS["mae"].title == "mean absolute error" and codec("webp-fast").settings == (10, 50, 90)
    if page == "everyday.md":
        assert scope["sections"] == 6 and scope["im"].size == (64, 43)  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("file") is None, reason="the program file(1) is not there")
def test_magic_line(tmp_path: Path) -> None:
    (lines,) = blocks("everyday.md", "magic")
    (tmp_path / "magic").write_text(lines)
    (tmp_path / "nameless").write_bytes(sfumato.encode(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "other").write_bytes(b"SFU\x02 has no version")
    for options, name, expected in (
        ([], "nameless", f"sfumato image, version {container.VERSION}"),
        (["--mime-type"], "nameless", "image/x-sfumato"),
        (["--mime-type"], "other", "application/octet-stream"),
    ):
        command = ["file", "-b", "-m", tmp_path / "magic", *options, tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_shell_examples(tmp_path: Path) -> None:
    """In a copy of the repository, since shipping writes into the package."""
    for folder in ("sfumato", "training", "metrics"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "sfumato" / "weights").mkdir(exist_ok=True)
    (tmp_path / "images").mkdir()
    with Image.open(ROOT / "examples" / "chelsea.png") as whole:
        for i in range(3):
            whole.crop((100 * i, 40, 100 * i + 128, 140)).save(tmp_path / "images" / f"{i}.png")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("python", ""), ("sfumato", "-m sfumato")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    person = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-q", "--allow-empty", "-m", "a"]
    for words in (["init", "-q"], person):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    found = blocks("building-on-it.md", "sh")
    assert len(found) == 2
    for block in found:
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "toy.png") as back:
        assert back.size == (128, 100)
    assert (tmp_path / "sfumato" / "weights" / "toy.safetensors").is_file()
    assert "my images" in (tmp_path / "results" / "training.csv").read_text()


def test_the_reference_of_the_command_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    assert command.text() == command.PAGE.read_text(), "run python -m docs.command"


@pytest.mark.parametrize("path", figures.PAGES, ids=lambda path: path.name)
def test_the_figures_are_up_to_date(path: Path) -> None:
    assert figures.page(path) == path.read_text(), "run python -m docs.figures"


def test_images_are_made_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [path for path in images.FOLDER.glob("*.webp") if not path.stem.startswith(("web-", "domains"))]
    found = {path.stem: path for path in made}
    assert set(found) == set(images.VIEWS)
    assert sum(path.stat().st_size for path in found.values()) <= 600_000
    pages = (DOCS / "good-and-bad.md", DOCS / "results.md", ROOT / "README.md")
    page = "".join(path.read_text() for path in pages)
    assert set(re.findall(r"images/([\w-]+)\.webp\)", page)) == set(found)
    Image.fromarray(toy.test_image(96, 128)).save(tmp_path / "kodim99.png")
    waves = images.View("kodim99", 8, 8, 0.5)
    monkeypatch.setattr(images, "VIEWS", {"waves": waves})
    images.main(tmp_path, ("waves",), tmp_path / "out", str(toy.WEIGHTS))
    with Image.open(io.BytesIO((tmp_path / "out" / "waves.webp").read_bytes())) as sheet:
        assert sheet.size == (3 * waves.width + 2 * images.GAP, waves.height + images.BAR)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:sfumato|docs|training|evaluation|results|tests|fuzz)/[\w./-]+)`", text):
        assert list(ROOT.glob(re.sub("[A-Z]{4,}", "*", target))), target
