"""The format as Pillow's users meet it: open, save, verify, thumbnail, copies, threads and broken files."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError

import sfumato
import sfumato.pillow
from sfumato import container
from tests.test_codec import photo


@pytest.fixture
def path(data: bytes, tmp_path: Path) -> Path:
    (tmp_path / "a.sfu").write_bytes(data)
    return tmp_path / "a.sfu"


def test_open_reads_the_header_only_and_pixels_are_those_of_decode(path: Path, data: bytes) -> None:
    script = "import sys, sfumato.pillow; from PIL import Image; im = Image.open(sys.argv[1])"
    script += "; print(im.size, im.mode, im.format, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == "(160, 96) RGB SFU False\n"
    with Image.open(path) as im:
        assert im.info["quality"] == 40.0 and im.info["model"] == f"{sfumato.load().model_id:08x}"
        assert im.get_format_mimetype() == "image/x-sfumato"
        assert np.array_equal(np.asarray(im), sfumato.decode(data))
        assert im.tobytes() == sfumato.decode(data).tobytes()
        assert im.getpixel((3, 2)) == tuple(sfumato.decode(data)[2, 3])
    with Image.open(io.BytesIO(data), formats=["SFU"]) as im:
        assert im.crop((10, 10, 30, 20)).size == (20, 10)
    assert Image.registered_extensions()[".sfu"] == "SFU"


def test_save_is_encode(path: Path, data: bytes, tmp_path: Path) -> None:
    im = Image.fromarray(photo(96, 160))
    im.save(tmp_path / "b.sfu", quality=40)
    assert (tmp_path / "b.sfu").read_bytes() == data
    buffer = io.BytesIO()
    im.save(buffer, "SFU")
    assert buffer.getvalue() == sfumato.encode(im, q=0.5)
    im.save(tmp_path / "c.sfu", quality=10, seed=9)
    assert container.unpack((tmp_path / "c.sfu").read_bytes()).header.seed == 9
    with Image.open(path) as opened:  # a file of the format goes on as any image does
        opened.save(tmp_path / "d.png")
        opened.rotate(90, expand=True).save(tmp_path / "d.sfu")
    with Image.open(tmp_path / "d.sfu") as turned:
        assert turned.size == (96, 160)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_modes_that_can_be_saved(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(20, 30)).convert(mode).save(buffer, "SFU")
    with Image.open(buffer) as im:
        assert im.size == (30, 20)


def test_alpha_grey_and_what_comes_with_an_image(tmp_path: Path) -> None:
    im = Image.fromarray(photo(20, 30))
    im.putalpha(im.convert("L"))
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    im.save(tmp_path / "a.sfu", exif=exif, xmp=b"<x/>")
    with Image.open(tmp_path / "a.sfu") as back:
        assert back.mode == "RGBA" and back.getexif()[0x010F] == "Maker" and back.info["xmp"] == b"<x/>"
        assert np.array_equal(np.asarray(back)[..., 3], np.asarray(im)[..., 3])
    im.convert("LA").save(tmp_path / "b.sfu")
    with Image.open(tmp_path / "b.sfu") as back:
        assert back.mode == "LA" and np.array_equal(
            np.asarray(back), sfumato.decode(Path(tmp_path, "b.sfu").read_bytes())
        )


def test_what_cannot_be_saved_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    im = Image.fromarray(photo(20, 30))
    with pytest.raises(OSError, match="cannot write mode F as SFU"):
        im.convert("F").save(tmp_path / "a.sfu")
    with pytest.raises(ValueError, match=r"quality is 101, not in 0\.\.100"):
        im.save(tmp_path / "a.sfu", quality=101)
    with pytest.raises(ValueError, match="quality is 'keep'"):
        im.save(tmp_path / "a.sfu", quality="keep")
    assert not list(tmp_path.iterdir())


def test_pixels_are_written_as_they_are_and_one_frame_of_many(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as im:
        im.save(tmp_path / "a.sfu")
        ImageOps.exif_transpose(im).save(tmp_path / "b.sfu")
    with Image.open(tmp_path / "a.sfu") as a, Image.open(tmp_path / "b.sfu") as b:
        assert a.size == (30, 20) and b.size == (20, 30)
    frames = [Image.new("L", (16, 16), shade) for shade in (0, 120, 250)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "moving.gif") as im:
        for i, frame in enumerate(ImageSequence.Iterator(im)):
            frame.save(tmp_path / f"{i}.sfu")
    with Image.open(tmp_path / "2.sfu") as last:
        assert abs(np.asarray(last).mean() - 250) < 30 < abs(np.asarray(last).mean() - 120)


def test_a_folder_of_mixed_formats(path: Path) -> None:
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(photo(50, 60)).save(path.with_name(f"b.{suffix}"))
    path.with_name("notes.txt").write_text("no image")
    path.with_name("bad.sfu").write_bytes(b"SFU\xf0 of a version that is not there yet")
    formats, refused = {}, []
    for file in sorted(path.parent.iterdir()):
        try:
            with Image.open(file) as im:
                im.thumbnail((32, 32))
                formats[file.name] = im.format, im.size
        except UnidentifiedImageError:
            refused.append(file.name)
    assert formats == {
        "a.sfu": ("SFU", (32, 19)),
        "b.jpg": ("JPEG", (32, 27)),
        "b.png": ("PNG", (32, 27)),
        "b.webp": ("WEBP", (32, 27)),
    }
    assert refused == ["bad.sfu", "notes.txt"]


def test_a_thumbnail_is_made_from_the_first_chunks(path: Path, data: bytes) -> None:
    with Image.open(path) as small, Image.open(path) as whole:
        whole.load()
        small.thumbnail((20, 20))
        whole.thumbnail((20, 20))
        assert small.size == whole.size == (20, 12)
        assert 0 < np.abs(np.asarray(small).astype(int) - np.asarray(whole)).mean() < 6
    with Image.open(path) as im:
        assert im.draft(None, (20, 20)) == ("RGB", (0, 0, 160, 96))
        assert np.array_equal(np.asarray(im), sfumato.decode(data, chunks=2))
        assert im.draft(None, (20, 20)) is None, "loaded already"
    with Image.open(path) as im:
        assert im.draft("L", (150, 90)) is None
        assert np.array_equal(np.asarray(im), sfumato.decode(data))


def test_copies_pickles_and_threads(path: Path, data: bytes) -> None:
    right = sfumato.decode(data)
    with Image.open(path) as im:
        for other in (copy.copy(im), copy.deepcopy(im), im.copy(), pickle.loads(pickle.dumps(im))):
            assert np.array_equal(np.asarray(other), right)

    def load(_: int) -> np.ndarray:
        with Image.open(path) as im:
            return np.asarray(im)

    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(pixels, right) for pixels in pool.map(load, range(8)))


def test_verify(path: Path, data: bytes) -> None:
    with Image.open(path) as im:
        im.verify()
    for bad in (data[:-1], data + b"x"):
        with Image.open(io.BytesIO(bad)) as im, pytest.raises(OSError, match="sections are whole|1 bytes"):
            im.verify()


def test_bad_files_raise_what_pillow_raises(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(io.BytesIO(data[: len(data) // 2])) as im, pytest.raises(OSError, match="file ends at"):
        im.load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data[:6]))
    with pytest.raises(UnidentifiedImageError):  # a version of the future
        Image.open(io.BytesIO(b"SFU\xf0" + data[4:]))
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x55
    with Image.open(io.BytesIO(bytes(flipped))) as im, pytest.raises(OSError, match="chunk|symbol|payload"):
        im.load()
    file = container.unpack(data)
    foreign = container.pack(container.Header(160, 96, 1, 0x12345678), file.sections)
    with Image.open(io.BytesIO(foreign)) as im, pytest.raises(OSError, match="12345678, which is not in"):
        im.load()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_truncated_files_are_honoured(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    part = data[: 2 * len(data) // 3]
    with Image.open(io.BytesIO(part)) as im:
        assert np.array_equal(np.asarray(im), sfumato.decode(part, partial=True))
    with Image.open(io.BytesIO(data[:30])) as im:
        assert not np.asarray(im).any(), "no section is whole"


def test_parser(data: bytes) -> None:
    parser = ImageFile.Parser()
    for at in range(0, len(data), 100):
        parser.feed(data[at : at + 100])
    assert np.array_equal(np.asarray(parser.close()), sfumato.decode(data))
    parser = ImageFile.Parser()
    parser.feed(data[:-1])
    with pytest.raises(OSError, match="incomplete"):
        parser.close()
