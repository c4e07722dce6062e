"""The command as a person uses it: files in, files out, errors in one line and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato import container


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sfumato", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    row, column = np.mgrid[0:60, 0:90]
    pixels = np.stack([row * 4, column * 2, row + column], -1).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_encode_info_decode(photo: Path) -> None:
    done = run("encode", photo, "-q", 0.3)
    assert done.returncode == 0, done.stderr
    file = photo.with_suffix(".sfu")
    assert f"{file.stat().st_size} bytes" in done.stdout and "60" in done.stdout

    done = run("info", file)
    assert done.returncode == 0 and "90x60" in done.stdout and "chunk 5" in done.stdout, done.stderr

    done = run("decode", file, "-o", photo.with_name("back.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(photo.with_name("back.png")) as back, Image.open(photo) as original:
        assert back.size == original.size
        assert np.abs(np.asarray(back).astype(int) - np.asarray(original)).mean() < 12
    assert sorted(p.name for p in photo.parent.iterdir()) == ["back.png", "photo.png", "photo.sfu"]


def test_alpha_and_metadata_go_through_the_command(photo: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    with Image.open(photo) as image:
        image.putalpha(image.convert("L"))
        image.save(photo, exif=exif)
    file, back = photo.with_suffix(".sfu"), photo.with_name("back.png")
    assert run("encode", photo).returncode == 0
    done = run("info", file)
    assert "with alpha" in done.stdout and "metadata 'EXIF'" in done.stdout, done.stderr
    assert run("decode", file, "-o", back).returncode == 0
    with Image.open(back) as decoded, Image.open(photo) as original:
        assert decoded.getexif()[0x010F] == "Maker"
        assert np.array_equal(np.array(decoded)[..., 3], np.array(original)[..., 3])
    done = run("decode", file, "-o", photo.with_name("back.jpg"))
    assert done.returncode == 1 and "JPEG has no alpha" in done.stderr
    assert run("encode", photo, "-o", photo.with_name("bare.sfu"), "--strip").returncode == 0
    assert not container.unpack(photo.with_name("bare.sfu").read_bytes()).metadata


def test_nothing_is_overwritten_unasked(photo: Path) -> None:
    assert run("encode", photo).returncode == 0
    before = photo.read_bytes()
    done = run("decode", photo.with_suffix(".sfu"))  # would become photo.png, the original
    assert done.returncode == 1 and "photo.png exists" in done.stderr
    assert photo.read_bytes() == before
    done = run("encode", photo, "-o", photo)
    assert done.returncode == 1 and "is the input" in done.stderr
    assert photo.read_bytes() == before


def test_info_model_prints_costs(photo: Path) -> None:
    done = run("info", "--model", "small")
    assert done.returncode == 0, done.stderr
    for word in ("g_a", "h_a", "prior", "g_s", "denoiser", "kMAC/pixel", "Laplacian"):
        assert word in done.stdout


def errors(tmp_path: Path) -> list[tuple[tuple[object, ...], str]]:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.sfu").write_bytes(b"")
    (tmp_path / "text.sfu").write_text("no sfumato file at all")
    return [
        (("encode", tmp_path / "absent.png"), "No such file"),
        (("encode", tmp_path / "text.png", "-o", tmp_path / "b.sfu"), "text.png: not a picture"),
        (("encode", tmp_path / "photo.png", "-q", "1.5"), "q is 1.5"),
        (("encode", tmp_path / "photo.png", "--model", "huge"), "no weights 'huge'"),
        (("encode", tmp_path / "photo.png", "-o", tmp_path / "no" / "a.sfu"), "no such folder"),
        (("decode", tmp_path / "empty.sfu"), "ends at byte 0"),
        (("decode", tmp_path / "text.sfu", "-o", tmp_path / "b.png"), "not a sfumato file"),
        (("decode", tmp_path / "text.sfu", "-o", tmp_path / "a.xyz"), "unknown suffix '.xyz'"),
        (("info",), "give a file or --model"),
        (("info", "--model", "huge"), "no preset 'huge'"),
    ]


def test_every_error_is_one_line_and_leaves_nothing(photo: Path) -> None:
    cases = errors(photo.parent)
    before = sorted(p.name for p in photo.parent.iterdir())
    for arguments, message in cases:
        done = run(*arguments)
        assert done.returncode == 1, arguments
        assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(p.name for p in photo.parent.iterdir()) == before


def test_info_shows_metadata_as_it_is(photo: Path) -> None:
    """A tag may look like markup to the terminal library."""
    assert run("encode", photo).returncode == 0
    file = photo.with_suffix(".sfu")
    plain = container.unpack(file.read_bytes())
    file.write_bytes(container.pack(plain.header, plain.sections, {"[/x]": b"abc"}))
    done = run("info", file)
    assert done.returncode == 0 and "[/x]" in done.stdout, done.stderr


def test_bytes_can_go_to_standard_output(photo: Path) -> None:
    command = [sys.executable, "-m", "sfumato", "encode", str(photo), "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert container.unpack(done.stdout).complete and b"90x60" in done.stderr


def test_a_crop_can_be_decoded_alone(photo: Path) -> None:
    file = photo.with_suffix(".sfu")
    run("encode", photo)
    assert run("decode", file, "-o", photo.with_name("part.png"), "--crop", 10, 20, 30, 7).returncode == 0
    run("decode", file, "-o", photo.with_name("whole.png"))
    with Image.open(photo.with_name("part.png")) as part, Image.open(photo.with_name("whole.png")) as whole:
        assert part.size == (30, 7)
        difference = np.array(part).astype(int) - np.array(whole)[20:27, 10:40]
    assert np.abs(difference).max() <= 1
    done = run("decode", file, "-o", photo.with_name("no.png"), "--crop", 80, 0, 30, 7)
    assert done.returncode == 1 and "crop 80,0,30,7 is no part of 90x60 pixels" in done.stderr


def test_version() -> None:
    assert run("--version").stdout == "sfumato 0.0.2, format 2\n"


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("encode", "decode", "info"))
