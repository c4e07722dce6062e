"""python -m acceptance.edge_cases -o CSV: images of every kind, and what is none, through the command.

Each case is a file, made here, and a command line.  Recorded: exit code, message, size of the files.  A run
fails if a case ends otherwise than it should, shows a traceback, or leaves a file that is not whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image, ImageCms

from sfumato import __main__ as command
from sfumato.files import write_csv

WIDTH, HEIGHT = 70, 50
INTERRUPTED = """
import contextlib, os, signal, sys
from sfumato import __main__ as command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
bar = command._bar
@contextlib.contextmanager
def interrupting():
    with bar() as progress:
        def report(what, part):
            progress(what, part)
            if part >= 0.4:
                os.kill(os.getpid(), signal.SIGINT)
        yield report
command._bar = interrupting
command.main()
"""


@dataclass(frozen=True)
class Case:
    """A file and what should become of it.

    name     file to make, in the folder of the run; or a path that is there
    make     writes it; None if there is nothing to make
    message  what the command must print, on either stream
    code     exit code of the command
    command  words before the file; "encode" is followed by a decode that must give the same size
    output   name of the file to write
    limit    bytes that a file may have (RLIMIT_FSIZE), for a full disk; 0 for no limit
    """

    name: str
    make: Callable[[Path], object] | None = None
    message: str = ""
    code: int = 0
    command: str = "encode"
    output: str = "out.sfu"
    limit: int = 0
    interrupt: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a case: exit code, the last line printed, bytes of the file, channels after decoding."""

    case: Case
    code: int
    message: str
    size: int = 0
    channels: int = 0


def base_image() -> np.ndarray:
    """Smooth colours with an edge, uint8 [50, 70, 3]."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH] / 20
    pixels = np.stack([np.sin(row + k) + np.cos(column - k) for k in range(3)], -1) * 60 + 128
    pixels[20:30, 10:40] = (200, 30, 60)
    return pixels.astype(np.uint8)


COLUMNS = ("input", "command", "exit_code", "bytes", "channels", "message")
RGB = Image.fromarray(base_image())
GREY = RGB.convert("L")
DISC = Image.fromarray((np.hypot(*(np.mgrid[0:HEIGHT, 0:WIDTH] - 25)) < 20).astype(np.uint8) * 255)


def unreadable(path: Path) -> None:
    RGB.save(path)
    path.chmod(0)


def save(image: Image.Image, **options: Any) -> Callable[[Path], object]:
    return lambda path: image.save(path, **options)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(DISC)
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def data(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> Callable[[Path], object]:
    """A PNG written by hand: Pillow writes none with 16-bit colour, and none that is too large."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return data(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def lab() -> Image.Image:
    source, target = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(RGB, source, target, outputMode="LAB")
    assert made is not None
    return made


def good() -> list[Case]:
    """Images that become files and come back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.asarray(RGB).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    palette = RGB.quantize(16)
    floats = np.asarray(GREY).astype(np.int32) * 257
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    second = {"save_all": True, "append_images": [GREY]}
    reduced = "16-bit samples were reduced to 8 bits"
    cmyk = "CMYK was converted to RGB without a colour profile"
    return [
        Case("rgb.png", save(RGB)),
        Case("grey.png", save(GREY)),
        Case("bilevel.png", save(RGB.convert("1"))),
        Case("grey-alpha.png", save(with_alpha(GREY))),
        Case("alpha.png", save(with_alpha(RGB))),
        Case("alpha.webp", save(with_alpha(RGB), lossless=True)),
        Case("invisible.png", save(Image.new("RGBA", (WIDTH, HEIGHT)))),
        Case("opaque-alpha.tif", save(RGB.convert("RGBA"))),
        Case("palette.png", save(palette)),
        Case("palette-key.png", save(palette, transparency=3)),
        Case("colour-key.png", save(RGB, transparency=(200, 30, 60))),
        Case("still.gif", save(palette, transparency=3)),
        Case("16-bit-grey.png", save(Image.fromarray(deep[..., 0])), reduced),
        Case("16-bit-rgb.png", png(WIDTH, HEIGHT, 16, 2, rows), reduced),
        Case("16-bit-grey.tif", save(Image.fromarray(deep[..., 0])), reduced),
        Case("16-bit.ppm", data(b"P6 70 50 65535\n" + deep.astype(">u2").tobytes()), reduced),
        Case("16-bit.jp2", save(Image.fromarray(deep[..., 0])), reduced),
        Case("32-bit-in-16.tif", save(Image.fromarray(floats)), reduced),
        Case("cmyk.jpg", save(RGB.convert("CMYK")), cmyk),
        Case("cmyk.tif", save(RGB.convert("CMYK"), compression="tiff_lzw"), cmyk),
        Case("lab.tif", save(lab()), "LAB was converted to sRGB"),
        Case("profile.png", save(RGB, icc_profile=icc)),
        Case("bad-profile.png", save(RGB, icc_profile=b"no profile"), "a colour profile that does not fit"),
        Case("lying.jpg", save(RGB, exif=exif)),
        Case("progressive.jpg", save(RGB, progressive=True)),
        Case("two-views.mpo", save(RGB, **second)),
        Case("image.avif", save(RGB)),
        Case("image.bmp", save(RGB)),
        Case("image.tga", save(with_alpha(RGB))),
        Case("jpeg-named.png", data(saved(RGB, "JPEG"))),
        Case("damaged-exif.png", data(saved(RGB, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))),
        Case("one-pixel.png", save(Image.new("RGB", (1, 1), "teal"))),
        Case("long-exif.webp", save(RGB, exif=b"Exif\0\0II*\0" + bytes(1 << 24)), "the limit is 16777216"),
        Case("narrow.png", save(Image.new("RGB", (1, 3000), "teal"))),
    ]


def bad() -> list[Case]:
    """What is refused, in one line."""
    jpeg, plain = saved(RGB, "JPEG"), saved(RGB, "PNG")
    flipped = bytearray(plain)
    flipped[len(plain) // 2] ^= 1
    second = {"save_all": True, "append_images": [GREY.convert("RGB")]}
    floats = np.asarray(GREY).astype(np.float32) / 255
    nans = np.where(floats > 0.5, np.nan, floats).astype(np.float32)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return [
        Case("animation.gif", save(RGB, **second), "has 2 frames", 1),
        Case("animation.webp", save(RGB, **second), "has 2 frames", 1),
        Case("pages.tif", save(RGB, **second), "has 2 frames", 1),
        Case("float.tif", save(Image.fromarray(floats)), "mode F: the range", 1),
        Case("nan.tif", save(Image.fromarray(nans)), "mode F: the range", 1),
        Case("32-bit.tif", save(Image.fromarray(np.asarray(GREY).astype(np.int32) << 20)), "samples from", 1),
        Case("truncated.jpg", data(jpeg[: len(jpeg) // 2]), "truncated", 1),
        Case("broken.jpg", data(jpeg[:20] + b"\xff\xd9" + jpeg[40:]), "broken.jpg: ", 1),
        Case("truncated.png", data(plain[: len(plain) // 2]), "truncated.png: cannot be read", 1),
        Case("flipped.png", data(bytes(flipped)), "flipped.png: cannot be read", 1),
        Case("bomb.png", png(100_000, 100_000, 1, 0, b""), "more pixels than Pillow opens", 1),
        Case("large.png", png(11586, 11585, 1, 0, b""), "11586x11585 pixels, over", 1),
        Case("wide.png", png(65536, 1, 1, 0, b""), "65536x1 pixels, over", 1),
        Case("empty.png", data(b""), "not an image", 1),
        Case("page.jpg", data(b"<!DOCTYPE html><title>404</title>"), "not an image", 1),
        Case("missing.png", None, "No such file", 1),
        Case("folder.png", lambda path: path.mkdir(), "folder.png: no files to read", 1),
        Case("unreadable.png", unreadable, "Permission denied", 1),
        Case("/dev/null", None, "not an image", 1),
        Case("/dev/zero", None, "not an image", 1),
        Case("to-nowhere.png", save(RGB), "no such folder", 1, output="missing/out.sfu"),
        Case("to-full-device.png", save(RGB), "/dev/full: No space left", 1, output="/dev/full"),
        Case("to-full-disk.png", save(noise), "out.sfu: File too large", 1, limit=200),
        Case("decode-to-full-disk.sfu", encoded(noise), "File too large", 1, "decode", "out.png", 200),
        Case("decode-png.sfu", save(RGB, format="PNG"), "not a sfumato file", 1, "decode", "out.png"),
        Case("decode-alpha.sfu", encoded(with_alpha(RGB)), "JPEG has no alpha", 1, "decode", "out.jpg"),
        Case("decode-cut.sfu", encoded(RGB, cut=5), "the file ends at byte", 1, "decode", "out.png"),
        Case("interrupted.png", save(RGB), "", 130, interrupt=True),
        Case("interrupted.sfu", encoded(RGB), "", 130, "decode", "out.png", interrupt=True),
    ]


def encoded(image: Image.Image, cut: int = 0) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        import sfumato

        content = sfumato.encode(image)
        path.write_bytes(content[: len(content) - cut])

    return make


def run(words: list[str], limit: int = 0) -> tuple[int, str]:
    """(exit code, output) of the command, in this process."""
    printed, before, arguments = io.StringIO(), resource.getrlimit(resource.RLIMIT_FSIZE), sys.argv
    sys.argv = ["sfumato", *words]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            command.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            return 1, printed.getvalue() + end.code
        return int(end.code or 0), printed.getvalue()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.argv = arguments
    return 0, printed.getvalue()


def interrupted(words: list[str]) -> tuple[int, str]:
    """(exit code, output) of the command in another process, interrupted in the middle of its work."""
    script = [sys.executable, "-c", INTERRUPTED, *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def outcome(case: Case, folder: Path) -> Outcome:
    """Makes a case's file in an empty folder and runs its command; AssertionError if it ends otherwise."""
    source, target = folder / case.name, folder / case.output
    if case.make is not None:
        case.make(source)
    before = sorted(folder.iterdir())
    words = [case.command, str(source), "-o", str(target)]
    code, printed = interrupted(words) if case.interrupt else run(words, case.limit)
    lines = [line for line in printed.replace(f"{folder}/", "").splitlines() if line]
    good = code == case.code and case.message in printed and "Traceback" not in printed
    assert good, f"{case.name}: {code}, {printed}"
    if code:
        assert sorted(folder.iterdir()) == before, f"{case.name}: files were left"
        assert len(lines) == (code != 130), f"{case.name}: {printed}"
        return Outcome(case, code, " ".join(lines))
    assert run(["decode", str(target), "-o", str(folder / "back.png")])[0] == 0, case.name
    left = sorted({*before, target, folder / "back.png"})
    assert sorted(folder.iterdir()) == left, f"{case.name}: {list(folder.iterdir())}"
    with Image.open(folder / "back.png") as back:
        return Outcome(case, code, "; ".join(lines[:-1]), target.stat().st_size, len(back.getbands()))


def cases() -> list[Case]:
    """All cases that this user can run: nothing is unreadable to root."""
    return [case for case in (*good(), *bad()) if case.name != "unreadable.png" or os.geteuid()]


def main(output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None) -> None:
    """Runs every case; a case that ends otherwise than it should ends the run.

    Args:
        output: CSV file, one row a case.
    """
    rows = []
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(case, Path(folder).resolve())
        size, channels = found.size or "", found.channels or ""
        rows.append((case.name, case.command, found.code, size, channels, found.message))
        print(*rows[-1], sep="  ")
    if output is not None:
        write_csv(output, COLUMNS, rows)


if __name__ == "__main__":
    tyro.cli(main)
