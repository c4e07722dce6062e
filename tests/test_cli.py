"""The command as a person uses it: files in, files out, errors in one line and nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato import container
from sfumato.distortion import psnr
from tests.conftest import Call


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sfumato", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    row, column = np.mgrid[0:60, 0:90]
    pixels = np.stack([row * 4, column * 14 // 5, row + column], -1).clip(0, 255).astype(np.uint8)
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


def test_alpha_and_metadata_go_through_the_command(photo: Path, call: Callable[..., Call]) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    with Image.open(photo) as image:
        image.putalpha(image.convert("L"))
        image.save(photo, exif=exif)
    file, back = photo.with_suffix(".sfu"), photo.with_name("back.png")
    assert call("encode", photo).returncode == 0
    done = call("info", file)
    assert "with alpha" in done.stdout and "metadata 'EXIF'" in done.stdout, done.stderr
    assert call("decode", file, "-o", back).returncode == 0
    with Image.open(back) as decoded, Image.open(photo) as original:
        assert decoded.getexif()[0x010F] == "Maker"
        assert np.array_equal(np.array(decoded)[..., 3], np.array(original)[..., 3])
    done = call("decode", file, "-o", photo.with_name("back.jpg"))
    assert done.returncode == 1 and "JPEG has no alpha" in done.stderr
    assert call("encode", photo, "-o", photo.with_name("bare.sfu"), "--strip").returncode == 0
    assert not container.unpack(photo.with_name("bare.sfu").read_bytes()).metadata


def test_nothing_is_overwritten_unasked(photo: Path, call: Callable[..., Call]) -> None:
    assert call("encode", photo).returncode == 0
    before = photo.read_bytes()
    done = call("decode", photo.with_suffix(".sfu"))  # would become photo.png, the original
    assert done.returncode == 1 and "photo.png: exists" in done.stderr
    assert photo.read_bytes() == before
    done = call("encode", photo, "-o", photo)
    assert done.returncode == 2 and "is the input" in done.stderr
    assert photo.read_bytes() == before


def test_info_model_prints_costs(call: Callable[..., Call]) -> None:
    done = call("info", "--model", "small")
    assert done.returncode == 0, done.stderr
    for word in ("g_a", "h_a", "prior", "g_s", "denoiser", "kMAC/pixel", "Laplacian"):
        assert word in done.stdout


BAD_ARGUMENTS = ("q is", "name a file", "unknown suffix", "give files")


def errors(tmp_path: Path) -> list[tuple[tuple[object, ...], str]]:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.sfu").write_bytes(b"")
    (tmp_path / "text.sfu").write_text("no sfumato file at all")
    return [
        (("encode", tmp_path / "absent.png"), "No such file"),
        (("encode", tmp_path / "text.png", "-o", tmp_path / "b.sfu"), "text.png: not an image"),
        (("encode", tmp_path / "photo.png", "-q", "1.5"), "q is 1.5"),
        (("encode",), "name a file"),
        (("encode", tmp_path / "photo.png", "--model", "huge"), "no weights 'huge'"),
        (("encode", tmp_path / "photo.png", "-o", tmp_path / "no" / "a.sfu"), "no such folder"),
        (("decode", tmp_path / "empty.sfu"), "ends at byte 0"),
        (("decode", tmp_path / "text.sfu", "-o", tmp_path / "b.png"), "not a sfumato file"),
        (("decode", tmp_path / "text.sfu", "-o", tmp_path / "a.xyz"), "unknown suffix '.xyz'"),
        (("info",), "give files or --model"),
        (("info", "--model", "huge"), "no weights 'huge'"),
    ]


def test_every_error_is_one_line_and_leaves_nothing(photo: Path, call: Callable[..., Call]) -> None:
    cases = errors(photo.parent)
    before = sorted(p.name for p in photo.parent.iterdir())
    for arguments, message in cases:
        done = call(*arguments)
        assert done.returncode == (2 if message.startswith(BAD_ARGUMENTS) else 1), arguments
        assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(p.name for p in photo.parent.iterdir()) == before


def test_info_shows_metadata_as_it_is(photo: Path, call: Callable[..., Call]) -> None:
    """A tag may look like markup to the terminal library."""
    assert call("encode", photo).returncode == 0
    file = photo.with_suffix(".sfu")
    plain = container.unpack(file.read_bytes())
    file.write_bytes(container.pack(plain.header, plain.sections, {"[/x]": b"abc"}))
    done = call("info", file)
    assert done.returncode == 0 and "[/x]" in done.stdout, done.stderr


def test_bytes_can_go_to_standard_output(photo: Path) -> None:
    command = [sys.executable, "-m", "sfumato", "encode", str(photo), "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert container.unpack(done.stdout).complete and b"90x60" in done.stderr


def test_a_crop_can_be_decoded_alone(photo: Path, call: Callable[..., Call]) -> None:
    file = photo.with_suffix(".sfu")
    call("encode", photo)
    assert call("decode", file, "-o", photo.with_name("part.png"), "--crop", 10, 20, 30, 7).returncode == 0
    call("decode", file, "-o", photo.with_name("whole.png"))
    with Image.open(photo.with_name("part.png")) as part, Image.open(photo.with_name("whole.png")) as whole:
        assert part.size == (30, 7)
        difference = np.array(part).astype(int) - np.array(whole)[20:27, 10:40]
    assert np.abs(difference).max() <= 1
    done = call("decode", file, "-o", photo.with_name("no.png"), "--crop", 80, 0, 30, 7)
    assert done.returncode == 1 and "crop 80,0,30,7 is no part of 90x60 pixels" in done.stderr


def test_version_and_help(call: Callable[..., Call]) -> None:
    assert run("--version").stdout == f"sfumato {sfumato.__version__}, format {container.VERSION}\n"
    listed = call("-h").stdout
    commands = ("encode", "decode", "batch", "compare", "info", "register")
    assert all(word in listed for word in commands) and "--version" in listed
    for command in commands:
        done = call(command, "--help")
        assert done.returncode == 0 and "None" not in done.stdout and "--no-" not in done.stdout, done.stdout


def test_several_inputs_on_one_line(photo: Path, call: Callable[..., Call]) -> None:
    folder = photo.parent
    photos = [photo, folder / "b.png", folder / "b.bmp"]
    with Image.open(photo) as image:
        for path in photos[1:]:
            image.crop((0, 0, 20, 10)).save(path)
    done = call("encode", *photos, "--jobs", 1)
    assert done.returncode == 0 and (folder / "photo.sfu").is_file(), done.stderr
    files = [folder / name for name in ("photo.sfu", "b.png.sfu", "b.bmp.sfu")]
    assert all(path.is_file() for path in files) and "b.bmp: becomes" in done.stderr
    found = [line["width"] for line in call("info", *files, "--json").objects]
    assert found == [90, 20, 20]
    (folder / "cut.sfu").write_bytes(files[0].read_bytes()[:60])
    back = folder / "back"
    done = call("decode", *files, folder / "cut.sfu", "-o", f"{back}/", "--jobs", 1)
    assert done.returncode == 1 and done.stderr.count("sfumato: ") == 1 and "cut.sfu: " in done.stderr
    assert sorted(path.name for path in back.iterdir()) == ["b.bmp.png", "b.png.png", "photo.png"]
    files[1].unlink()
    done = call("decode", *files, "-o", back, "--jobs", 1)
    assert done.returncode == 1 and "2 files skipped" in done.stderr
    assert "b.png.sfu: No such file" in done.stderr and (back / "b.png.png").stat().st_size


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "one.sfu"], "one.sfu is no folder, and there are several inputs"),
        (["."], "give several files, or one folder"),
        (["-"], "give several files, or one folder"),
        (["folder/photo.png", "-o", "folder"], "would be one file in folder"),
    ],
)
def test_several_inputs_that_cannot_be_meant(
    more: list[str], message: str, photo: Path, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("folder").mkdir()
    done = call("encode", "photo.png", "other.png", *more)
    assert done.returncode == 2 and message in done.stderr and not list(photo.parent.rglob("*.sfu"))


def test_a_name_that_begins_with_a_dash(
    photo: Path, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    photo.rename("-photo.png")
    done = call("encode", "-photo.png")
    assert done.returncode == 2 and "write ./-photo.png" in done.stderr
    assert call("encode", "./-photo.png").returncode == 0 and Path("-photo.sfu").is_file()


def test_json_of_every_command(photo: Path, call: Callable[..., Call]) -> None:
    file, back = photo.with_suffix(".sfu"), photo.with_name("back.bmp")
    done = call("encode", photo, "-q", 0.2, "--json")
    (printed,) = done.objects
    size = file.stat().st_size
    assert done.returncode == 0 and done.stderr == ""
    assert (printed["input"], printed["output"]) == (str(photo), str(file))
    assert (printed["width"], printed["height"], printed["bytes"]) == (90, 60, size)
    assert printed["image_bytes"] == photo.stat().st_size
    assert printed["bpp"] == pytest.approx(8 * size / 5400) and printed["quality"] == 51 / 255
    assert printed["seconds"] > 0 and len(printed["model"]) == 8

    (again,) = call("decode", file, "-o", back, "--json").objects
    assert again["output"] == str(back) and again["image_bytes"] == back.stat().st_size
    same = ("width", "height", "bytes", "bpp", "quality", "model")
    assert all(again[key] == printed[key] for key in same)

    (inside,) = call("info", file, "--json").objects
    assert all(inside[key] == printed[key] for key in same)
    names = ["z", *(f"chunk {number}" for number in range(1, 6))]
    assert inside["complete"] and list(inside["sections"]) == names
    (costs,) = call("info", "--model", "small", "--json").objects
    assert {part["part"] for part in costs["parts"]} == {"g_a", "h_a", "prior", "g_s", "denoiser"}


def test_json_of_errors(photo: Path, call: Callable[..., Call]) -> None:
    for arguments, message in errors(photo.parent):
        done = call(*arguments, "--json")
        assert done.returncode == (2 if message.startswith(BAD_ARGUMENTS) else 1), arguments
        assert not done.stderr
        (printed,) = done.objects
        assert list(printed) == ["error"] and message in printed["error"]
    assert call("encode", photo, "--unheard-of", "--json").returncode == 2


def test_errors_stay_out_of_a_stream_of_bytes(photo: Path, call: Callable[..., Call]) -> None:
    bad = photo.with_name("bad.sfu")
    bad.write_bytes(b"x" * 99)
    done = call("decode", bad, "-o", "-", "--json")
    assert (
        done.returncode == 1
        and done.stdout == ""
        and "not a sfumato file" in json.loads(done.stderr)["error"]
    )


def test_info_goes_on_after_a_bad_file(photo: Path, call: Callable[..., Call]) -> None:
    bad, good = photo.with_name("bad.sfu"), photo.with_name("good.sfu")
    bad.write_bytes(b"x" * 99)
    assert call("encode", photo, "-o", good).returncode == 0
    done = call("info", bad, good)
    assert done.returncode == 1 and "good.sfu: 90x60" in done.stdout and "bad.sfu: not a" in done.stderr
    first, second = call("info", bad, good, "--json").objects
    assert first["input"] == str(bad) and "error" in first and second["width"] == 90


@pytest.mark.parametrize("option", [("--seed", -1), ("--max-pixels", -5), ("-q", "nan")])
def test_settings_that_cannot_be_meant_end_with_2(
    photo: Path, call: Callable[..., Call], option: tuple[str, object]
) -> None:
    done = call("encode", photo, *option)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_missing_weights_of_a_target_are_one_error_for_a_folder(
    photo: Path, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(photo, photo.with_name("other.png"))
    monkeypatch.setenv("SFUMATO_METRICS", str(tmp_path / "nowhere"))
    done = call("encode", tmp_path, "-o", tmp_path / "out", "--target-lpips", 0.1)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "no such file" in done.stderr


def test_targets(photo: Path, call: Callable[..., Call]) -> None:
    (printed,) = call("encode", photo, "--target-bytes", 150, "--json").objects
    assert 0.9 * 150 < printed["bytes"] == photo.with_suffix(".sfu").stat().st_size <= 150
    (printed,) = call("encode", photo, "--target-bpp", 0.25, "--json", "--overwrite").objects
    assert 0.22 < printed["bpp"] <= 0.25
    original = np.asarray(Image.open(photo))
    reached = [psnr(original, sfumato.decode(sfumato.encode(original, q=q))) for q in (0.3, 0.6)]
    (printed,) = call("encode", photo, "--target-psnr", sum(reached) / 2, "--json", "--overwrite").objects
    assert 0.3 < printed["quality"] < 0.6
    done = call("encode", photo, "--target-bytes", 40, "--overwrite")
    assert done.returncode == 1 and "40 bytes cannot be met: this image has" in done.stderr
    done = call("encode", photo, "--target-bytes", 150, "-q", 0.5, "--overwrite")
    assert done.returncode == 2 and "give one of --quality, --target-bytes" in done.stderr


def test_pipes(photo: Path) -> None:
    """Bytes in and out of standard streams; what is printed goes to standard error."""
    command = [sys.executable, "-m", "sfumato"]
    encoded = subprocess.run(
        [*command, "encode", "-", "-o", "-", "--json"],
        input=photo.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert container.unpack(encoded.stdout).complete
    assert json.loads(encoded.stderr)["bytes"] == len(encoded.stdout)
    decoded = subprocess.run(
        [*command, "decode", "-", "-o", "-", "--chunks", "3"],
        input=encoded.stdout,
        capture_output=True,
        check=True,
    )
    with Image.open(io.BytesIO(decoded.stdout)) as back:
        assert back.size == (90, 60) and back.format == "PNG"
        assert np.array_equal(np.asarray(back), sfumato.decode(encoded.stdout, chunks=3))


def test_standard_input_needs_a_name_to_write(call: Callable[..., Call]) -> None:
    done = call("encode", "-")
    assert done.returncode == 2 and "name a file with -o, or - for standard output" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="the program bash is not there")
def test_completion(call: Callable[..., Call], tmp_path: Path) -> None:
    done = call("--completion", "bash")
    assert done.returncode == 0
    (tmp_path / "completion").write_text(done.stdout)
    script = """
        source "$1"; COMP_WORDS=(sfumato encode --target); COMP_CWORD=2
        $(complete -p sfumato | sed 's/.*-F \\([^ ]*\\).*/\\1/') sfumato --target encode
        echo "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, "bash", str(tmp_path / "completion")]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(completed.stdout.split()) == {f"--target-{what}" for what in ("bytes", "bpp", "psnr", "lpips")}
    for shell in ("zsh", "fish"):
        assert "--target-bytes" in call("--completion", shell).stdout
    done = call("--completion", "ksh")
    assert done.returncode == 2 and "takes the name of a shell: bash, zsh, fish" in done.stderr
