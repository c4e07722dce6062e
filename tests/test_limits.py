"""What a caller or a stranger gives in costs no more than it should."""

from __future__ import annotations

import io
import multiprocessing
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
import sfumato.pillow
from sfumato import container, jobs, lossless
from sfumato.coder import Decoder, Encoder
from sfumato.container import Header, Section
from sfumato.image import ImageError, load
from sfumato.scales import Tables
from tests.conftest import Call
from tests.test_codec import photo
from tests.test_image import png, raw_png


def huge(width: int, height: int, plane: bytes | None = None) -> bytes:
    """A file of a few bytes that is many pixels."""
    header = Header(width, height, 128, sfumato.load().model_id)
    return container.pack(header, [Section(b"", 0)] * 6, None, plane)


def test_more_pixels_than_allowed_are_refused_before_they_cost_anything(tmp_path: Path) -> None:
    small, large = huge(2048, 2048), huge(16384, 8192)
    assert len(large) < 50
    for source, choices in ((large, {}), (small, {"max_pixels": 1 << 20}), (large, {"max_pixels": 1 << 26})):
        begun = time.process_time()
        tracemalloc.start()
        with pytest.raises(sfumato.FormatError, match="when padded, are more than max_pixels"):
            sfumato.decode(source, **choices)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 23 and time.process_time() - begun < 0.5
    with pytest.raises(sfumato.FormatError, match="max_pixels"):
        sfumato.ProgressiveDecoder().feed(large)
    with pytest.raises(sfumato.FormatError, match="max_pixels = 1000"):
        sfumato.ProgressiveDecoder(max_pixels=1000).feed(small)
    with pytest.raises(sfumato.FormatError, match="65535x1 pixels, 4194304 when padded"):
        sfumato.decode(huge(65535, 1), max_pixels=1 << 20)


def test_the_limit_is_on_padded_pixels_and_of_a_crop_on_its_tiles(data: bytes) -> None:
    assert sfumato.decode(data, max_pixels=128 * 192).shape == (96, 160, 3)
    with pytest.raises(sfumato.FormatError, match="24576 when padded, are more than max_pixels = 24575"):
        sfumato.decode(data, max_pixels=128 * 192 - 1)
    wide = huge(8192, 1024)
    with pytest.raises(sfumato.FormatError, match="the tiles of the crop, 1048576 when padded"):
        sfumato.decode(wide, crop=(0, 0, 1, 1), max_pixels=1 << 19)
    with pytest.raises(sfumato.FormatError, match="8 tiles do not fit"):  # allowed, then forged
        sfumato.decode(wide, crop=(0, 0, 1, 1), max_pixels=1 << 20)
    plane = io.BytesIO()
    Image.new("L", (8192, 1024), 7).save(plane, "WEBP", lossless=True)
    with pytest.raises(sfumato.FormatError, match="8192x1024 pixels, 8388608"):  # alpha is decoded whole
        sfumato.decode(huge(8192, 1024, plane.getvalue()), crop=(0, 0, 1, 1), max_pixels=1 << 20)


def test_the_command_and_the_plugin_have_the_limit(
    data: bytes, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.sfu").write_bytes(data)
    Image.fromarray(photo(96, 160)).save(tmp_path / "a.png")
    for command, target in (("decode", "b.png"), ("encode", "b.sfu")):
        source = tmp_path / ("a.sfu" if command == "decode" else "a.png")
        done: Call = call(command, source, "-o", tmp_path / target, "--max-pixels", 1000)
        assert done.returncode == 1 and "24576 when padded, are more than max_pixels = 1000" in done.stderr
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_000)
    with pytest.raises(Image.DecompressionBombError, match="24576 when padded"):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(io.BytesIO(data)) as im:
        im.load()


def test_images_to_encode_have_the_limit_too() -> None:
    """34 bytes of WebP, or a JPEG of 823, were 134 megapixels."""
    webp = b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<IB", 14, 0x2F)
    webp += struct.pack("<I", 16383 | 8190 << 14) + bytes(9)
    for source in (io.BytesIO(raw_png(16000, 8000, 8, 0, b"")), io.BytesIO(webp)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(ImageError, match="max_pixels = 89478485"):
                load(source)
    small = io.BytesIO(png(Image.fromarray(photo(96, 160))))
    with pytest.raises(ImageError, match="max_pixels = 1000"):
        sfumato.encode(small, max_pixels=1000)
    with pytest.raises(ImageError, match="max_pixels = 1000"):
        sfumato.encode_to(small, sfumato.TargetBytes(900), max_pixels=1000)
    assert load(photo(96, 160), max_pixels=1).pixels.shape == (96, 160, 3), "an array is there already"


def test_alpha_keeps_the_writer_s_own_limits() -> None:
    assert len(lossless.pack(np.full((5000, 5000), 9, np.uint8))) > 8 and lossless.WEBP_PIXELS < 5000 * 5000
    stream = io.BytesIO()
    Image.new("L", (5000, 5000), 9).save(stream, "WEBP", lossless=True)
    with pytest.raises(sfumato.FormatError, match="a WebP of 5000x5000 pixels, the limit is 16777216"):
        lossless.unpack(stream.getvalue(), 5000, 5000)


@pytest.mark.parametrize("section", range(6))
@pytest.mark.parametrize("extra", [b"\1", b"\0", bytes(1000), b"x" * 1000])
def test_a_payload_ends_where_its_symbols_end(data: bytes, section: int, extra: bytes) -> None:
    """1,000 appended bytes were accepted in any section."""
    file = container.unpack(data)
    sections = list(file.sections)
    sections[section] = Section(sections[section].payload + extra, sections[section].check)
    forged = container.pack(file.header, sections)
    with pytest.raises(sfumato.FormatError, match="not end where they end|check is|no symbol"):
        sfumato.decode(forged)


def test_only_the_encoder_s_own_payload_is_read() -> None:
    rng = np.random.default_rng(0)
    tables = Tables.gaussian()
    for size in (0, 1, 3, 200):
        index = rng.integers(0, 64, size).astype(np.uint8)
        symbols = rng.integers(-3000, 3000, size).astype(np.int32)
        encoder = Encoder(tables)
        encoder.code(index, symbols)
        payload = encoder.finish()
        decoder = Decoder(tables, payload)
        assert np.array_equal(decoder.code(index), symbols)
        decoder.finish()
        other = Decoder(tables, payload + b"\5")
        other.code(index)
        with pytest.raises(sfumato.FormatError, match=f"holds {len(payload) + 1} bytes, its symbols take"):
            other.finish()


def test_lengths_that_the_pixels_cannot_need_are_refused_at_once() -> None:
    tiny = Header(1, 1, 0, 0)
    start = tiny.pack()
    for body, message in (
        (struct.pack("<BBB", 0xFF, 0xFF, 0x7F), "z: length 2097151, the limit is 98304"),
        ((b"\0\0\0" * 5 + b"\0\0\0\0\0"), None),
    ):
        if message:
            with pytest.raises(sfumato.FormatError, match=message):
                container.unpack(start + body, partial=True)
        else:
            assert container.unpack(start + body).complete
    assert container.file_limit(tiny) < 20_000_000
    flags = bytearray(container.pack(tiny, [Section(b"", 0)] * 6))
    flags[3] |= 4
    with pytest.raises(sfumato.FormatError, match="alpha: length 2097151, the limit is 65538"):
        container.unpack(bytes(flags) + struct.pack("<BBB", 0xFF, 0xFF, 0x7F))


def test_feeding_a_reader_takes_time_in_proportion() -> None:
    """16 MB in blocks of 4 KB took 22 s, as each block made the whole be looked through."""
    header = Header(4096, 4096, 128, sfumato.load().model_id)
    payload = bytes(4_000_000)
    file = container.pack(header, [Section(payload, 0)] * 4 + [Section(b"", 0)] * 2)
    reader = sfumato.ProgressiveDecoder()
    begun = time.process_time()
    counts = [reader.feed(file[at : at + 4096]) for at in range(0, len(file), 4096)]
    assert counts[-1] == 6 and reader.complete and counts == sorted(counts)
    assert time.process_time() - begun < 3


def test_loads_in_threads_leave_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    data = png(Image.fromarray(photo(64, 64)), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        before = list(warnings.filters)
        seen = []

        def work(_: int) -> None:
            load(io.BytesIO(data))
            seen.append(list(warnings.filters) == before)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(60)))
        assert all(seen) and list(warnings.filters) == before
    source = Path(sfumato.__file__).parent
    for path in source.glob("*.py"):
        assert "catch_warnings" not in path.read_text(), f"{path.name}: its filters belong to the host"


def test_arguments_of_other_types_give_our_errors(data: bytes) -> None:
    pixels = photo(20, 30)
    for value in ("0.4", None, True, [0.4], float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="q is "):
            sfumato.encode(pixels, q=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed is 'a'"):
        sfumato.encode(pixels, q=0.5, seed="a")  # type: ignore[arg-type]
    sources: list[Any] = [b"bytes", bytearray(b"x"), [[1, 2], [3, 4]], torch.zeros(4, 4, 3), 7, None, {}]
    for source in sources:
        with pytest.raises(ImageError, match="an image is a path, an open binary file"):
            sfumato.encode(source)
    choices: list[tuple[str, Any]] = [
        ("steps", "1"),
        ("steps", 1.5),
        ("steps", -1),
        ("chunks", "2"),
        ("chunks", 9),
    ]
    choices += [("realism", "x"), ("realism", 1.5), ("eta", None), ("max_pixels", "x"), ("max_pixels", 0)]
    choices += [("crop", (0, 0, 9)), ("crop", (0, 0, "9", 9)), ("crop", "all"), ("crop", [0, 0, 9, 9])]
    for name, value in choices:
        with pytest.raises(ValueError, match=f"{name} is "):
            sfumato.decode(data, **{name: value})
    assert sfumato.decode(data, crop=(0, 0, 9, 5)).shape == (5, 9, 3)
    with pytest.raises(ValueError, match="crop 0,0,9999,5 is no part of"):
        sfumato.decode(data, crop=(0, 0, 9999, 5))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_child_works_after_its_parent() -> None:
    """It hung for ever, waiting for threads that had not come along."""
    script = """
import multiprocessing as mp, numpy as np, torch, sfumato
torch.set_num_threads(4)
a = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
def work(i):
    data = sfumato.encode(a, q=0.3); return len(data), sfumato.decode(data).shape
first = work(0)
pool = mp.get_context("fork").Pool(2)
assert pool.map_async(work, range(3)).get(60) == [first] * 3
pool.terminate()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=100)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_very_wide_image_takes_no_more_memory_than_a_square_one() -> None:
    """65535x1 was one strip of 4 megapixels and 1 GB."""
    script = (
        "import numpy, sfumato\n"
        "pixels = numpy.arange(3 * 65535, dtype='u4').reshape(1, 65535, 3) // 7 % 256\n"
        "sfumato.decode(sfumato.encode(pixels.astype('u1'), q=0.3))\n"
        "status = open('/proc/self/status').read()\n"  # getrusage counts the parent's memory before exec
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700


def test_a_small_file_of_a_large_image_is_read_in_little_memory(tmp_path: Path) -> None:
    header = container.Header(8000, 8000, 100, 1)
    path = tmp_path / "a.sfu"
    path.write_bytes(container.pack(header, [container.Section(b"", 0)] * 6))
    tracemalloc.start()
    data = jobs.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data == path.read_bytes() and peak < 8 << 20
