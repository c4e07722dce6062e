"""What comes with an image stays true, is carried, or is reported."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import sfumato
import sfumato.pillow
from sfumato import container, metadata, profiles
from sfumato.image import ImageData, ImageError, load, write
from tests.conftest import Call
from tests.test_image import RGB, png

WIDE = profiles.matrix_profile(profiles.PRIMARIES[12], "P3")


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer


def tiff(tags: dict[int, tuple[int, ...]], pixels: np.ndarray, kinds: dict[int, int] | None = None) -> bytes:
    """A little-endian TIFF of one strip whose further tags are given as longs, or of `kinds`."""
    height, width = pixels.shape[:2]
    raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    bits = 8 * pixels.dtype.itemsize
    known = {256: (width,), 257: (height,), 258: (bits,), 259: (1,), 262: (1,), 273: (0,), 277: (1,)}
    known |= {278: (height,), 279: (len(raw),)} | tags
    at = 8 + 2 + 12 * len(known) + 4
    known[273] = (at,)
    entries = b"".join(
        struct.pack("<HHII", tag, (kinds or {}).get(tag, 4), len(v), v[0]) for tag, v in sorted(known.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(known)) + entries + bytes(4) + raw


GREY = RGB[..., 0]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({50706: (0x0401,)}, "a raw photograph"),
        ({254: (1,)}, "a reduced one"),
        ({262: (32803,)}, "a raw photograph"),
        ({262: (34892,)}, "a raw photograph"),
    ],
)
def test_thumbnails_of_raw_photographs_are_not_taken_for_the_image(
    tags: dict[int, tuple[int, ...]], message: str
) -> None:
    assert load(io.BytesIO(tiff({}, GREY))).pixels.shape == GREY.shape
    with pytest.raises(ImageError, match=message):
        load(io.BytesIO(tiff(tags, GREY)))


def test_a_larger_image_inside_a_tiff_is_found() -> None:
    data = tiff({330: (0,)}, GREY)
    inner = (
        struct.pack("<H", 2) + struct.pack("<HHII", 256, 4, 1, 6000) + struct.pack("<HHII", 257, 4, 1, 4000)
    )
    data = tiff({330: (len(data),)}, GREY) + inner + bytes(4)
    with pytest.raises(ImageError, match="smaller than one of 6000x4000 inside"):
        load(io.BytesIO(data))


def test_white_is_zero_in_16_bits() -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    right = load(io.BytesIO(tiff({}, values))).pixels
    inverted = load(io.BytesIO(tiff({262: (0,)}, 65535 - values))).pixels
    assert np.array_equal(inverted, right)


def test_heic_where_the_plugin_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif writes the HEIC")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(np.full((64, 96, 3), (200, 60, 30), np.uint8))).save(buffer, quality=90)
    assert np.abs(load(buffer).pixels.astype(int) - (200, 60, 30)).max() < 12
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="HEIC, which is read where pillow-heif is installed"):
        load(buffer)


def test_formats_that_start_programs_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS started Ghostscript."""
    started: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a))
    eps = saved(Image.fromarray(RGB), "EPS").getvalue()
    for data, what in (
        (eps, "EPS"),
        (b"%PDF-1.4\n", "PDF"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"8BPS", "PSD"),
    ):
        with pytest.raises(ImageError, match=f"{what}.*which is not read"):
            load(io.BytesIO(data))
    assert not started


def test_what_is_too_much_for_a_format_is_left_out_and_reported(tmp_path: Path) -> None:
    large = WIDE + bytes(1_200_000)
    large = struct.pack(">I", len(large)) + large[4:]
    exif = b"II*\0" + struct.pack("<IHI", 8, 0, 0) + bytes(70_000)
    xmp = b"<x>" + b"m" * 1_100_000 + b"</x>"
    rgb = ImageData(RGB, icc=large, exif=exif, xmp=xmp, text={"Comment": "c" * 70_000})
    for suffix, expected in (
        (".png", ("ICC of", "XMP of")),
        (".jpg", ("EXIF of", "XMP of", "text 'Comment' of")),
        (".webp", ("WEBP holds no text",)),
    ):
        notes = write(tmp_path / f"a{suffix}", rgb)
        assert all(any(line.startswith(start) for line in notes) for start in expected), notes
        back = load(tmp_path / f"a{suffix}")
        if suffix == ".png":
            assert back.icc is None and "colours were converted to sRGB" in notes
            assert np.abs(back.pixels.astype(int) - load_srgb(rgb)).max() <= 1
        if suffix == ".jpg":
            assert back.icc == large and back.exif is None and back.xmp is None


def load_srgb(rgb: ImageData) -> np.ndarray:
    from sfumato.image import in_srgb

    return in_srgb(rgb).pixels


def test_too_much_for_a_sfu_file_is_left_out_and_reported() -> None:
    rgb = metadata.fitted(ImageData(RGB, exif=b"II*\0" + bytes(1 << 24), xmp=b"<x/>"))
    assert rgb.exif is None and rgb.xmp == b"<x/>"
    assert rgb.warnings == ("EXIF of 16777220 bytes was left out: the limit is 16777216",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_does_not_stay_sideways(order: str) -> None:
    thumbnail = b"\xff\xd8 a small image, on its side \xff\xd9"
    p = lambda form, *v: struct.pack(order + form, *v)  # noqa: E731
    head = (b"II*\0" if order == "<" else b"MM\0*") + p("I", 8)
    first = p("H", 1) + p("HHIHH", 0x0112, 3, 1, 6, 0) + p("I", 26)
    second = p("H", 3) + p("HHIHH", 0x0112, 3, 1, 6, 0) + p("HHII", 0x0201, 4, 1, 68)
    second += p("HHII", 0x0202, 4, 1, len(thumbnail)) + p("I", 0)
    exif = head + first + second + thumbnail
    assert exif.index(thumbnail) == 68 and metadata.orientation(exif) == 6
    turned = metadata.upright_exif(exif, turned=True)
    assert thumbnail not in turned and metadata.orientation(turned) == 1 and len(turned) == len(exif)
    kept = Image.Exif()
    kept.load(turned)
    assert kept[0x0112] == 1 and not kept.get_ifd(1)
    upright = metadata.upright_exif(exif)
    assert thumbnail in upright and p("HHIHH", 0x0112, 3, 1, 6, 0) not in upright


@pytest.mark.parametrize(
    "words",
    [
        b'tiff:Orientation="6"',
        b"tiff:Orientation='6'",
        b"tiff:Orientation = '8'",
        b"<tiff:Orientation>3</tiff:Orientation>",
        b"<t:Orientation >\n 6\n</t:Orientation>",
    ],
)
def test_every_form_of_orientation_in_xmp_is_set_upright(words: bytes) -> None:
    for packet in (b"<x " + words + b"/>", ("<x " + words.decode() + "/>").encode("utf-16")):
        found = metadata.upright_xmp(packet)
        assert b"1" in found and not any(digit in found for digit in b"368")


def test_the_plugin_turns_what_its_exif_says(tmp_path: Path) -> None:
    """FORMAT.md, section 3: an orientation is 1.  The plugin wrote others."""
    pixels = np.repeat(np.repeat(RGB, 20, 0), 20, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.sfu", exif=exif, xmp=b"<x tiff:Orientation='6'/>", dpi=(300, 150))
    found = sfumato.decode_image((tmp_path / "a.sfu").read_bytes())
    assert found.pixels.shape[:2] == (180, 120) and found.exif is not None
    assert metadata.orientation(found.exif) == 1 and found.xmp == b"<x tiff:Orientation='1'/>"
    upright = sfumato.decode(sfumato.encode(np.ascontiguousarray(np.rot90(pixels, -1)), q=0.5))
    assert np.array_equal(found.pixels, upright)
    with Image.open(tmp_path / "a.sfu") as back:
        assert back.getexif()[0x0112] == 1 and back.info["dpi"] == (300, 150)


def test_resolution_and_text_come_along(tmp_path: Path, call: Callable[..., Call]) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a castle, steps 20")
    texts.add_itxt("Author", "Zo\u00eb")
    Image.fromarray(RGB).save(tmp_path / "a.png", dpi=(300, 150), pnginfo=texts)
    assert call("encode", tmp_path / "a.png").returncode == 0
    assert call("decode", tmp_path / "a.sfu", "-o", tmp_path / "b.png").returncode == 0
    back = load(tmp_path / "b.png")
    assert back.dpi == pytest.approx((300, 150), abs=0.02)
    assert back.text == {"parameters": "a castle, steps 20", "Author": "Zo\u00eb"}
    done = call("decode", tmp_path / "a.sfu", "-o", tmp_path / "b.jpg")
    assert "JPEG holds a comment and no other text: 'parameters' left out" in done.stderr
    assert load(tmp_path / "b.jpg").dpi == pytest.approx((300, 150), abs=0.6)
    rgb = load(saved(Image.fromarray(RGB), "JPEG", comment=b"caption"))
    assert rgb.text == {"Comment": "caption"} and rgb.dpi is None
    write(tmp_path / "c.jpg", rgb)
    assert load(tmp_path / "c.jpg").text == {"Comment": "caption"}


def test_entries_of_a_wrong_form_are_left_out() -> None:
    for tag, value in (("DPI ", b"123"), ("DPI ", bytes(8)), ("TEXT", b"abc"), ("TEXT", b"a\0b\0c\0")):
        found = metadata.fields({tag: value})
        assert found["dpi"] is None and found["text"] == {}, (tag, value)
    rgb = ImageData(RGB, dpi=(72.5, 96.0), text={"a": "b\0c", "": "x"})
    fields = metadata.fields(metadata.entries(rgb))
    assert fields["dpi"] == (72.5, 96.0) and fields["text"] == {"a": "b c", "": "x"}


GAIN = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/'
    b'1.0/" xmlns:Container="http://ns.google.com/photos/1.0/container/" hdrgm:Version="1.0" dc:rights="me">'
    b'<Container:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap"/></rdf:Seq></Container:Directory>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_a_gain_map_is_reported_and_nothing_speaks_of_it_any_more() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:], xmp=GAIN)
    rgb = load(buffer)
    assert "its gain map (HDR) was left out" in rgb.warnings
    assert rgb.xmp is not None and b'dc:rights="me"' in rgb.xmp
    assert not any(word in rgb.xmp for word in (*metadata.GAIN_MAP, b"Container"))
    assert metadata.without_gain_map(b"<odd>GainMap</odd>") is None
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:])
    assert load(buffer).warnings == ("1 further images in the file were left out",)


def test_info_counts_what_the_file_holds(tmp_path: Path, call: Callable[..., Call]) -> None:
    """Metadata was counted inflated, so the rest came to fewer than no bytes."""
    rgb = replace(load(io.BytesIO(png(Image.fromarray(RGB)))), xmp=b"<x>" + b" " * 9000 + b"</x>", icc=WIDE)
    data = sfumato.encode(rgb)
    (tmp_path / "a.sfu").write_bytes(data)
    done = call("info", tmp_path / "a.sfu")
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    sizes = [int(row[1]) for row in rows]
    assert min(sizes) > 0 and sum(sizes[:-1]) == sizes[-1] == len(data)
    assert "metadata 'XMP ': 9007 bytes before they were deflated" in done.stdout
    assert container.unpack(data).stored < 1500


def test_a_smaller_lossless_file_is_reported(tmp_path: Path, call: Callable[..., Call]) -> None:
    """Text at q = 1 took more bytes than a lossless file, and was not exact."""
    page = np.full((200, 300, 3), 255, np.uint8)
    page[20:180:20, 10:290] = 0
    Image.fromarray(page).save(tmp_path / "page.png")
    done = call("encode", tmp_path / "page.png", "-q", 1, "--latent-only")
    assert "page.png: a lossless file has " in done.stderr
    photo = np.random.default_rng(0).normal(128, 40, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    assert "lossless" not in call("encode", tmp_path / "photo.png", "-q", 0.5).stderr
