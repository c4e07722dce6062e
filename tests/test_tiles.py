"""Large images in tiles: each tile by itself, no seam between them, crops that read only what they need."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sfumato
import sfumato.pillow
from fuzz import toy
from sfumato import container, tiles
from sfumato.codec import Codec
from sfumato.container import Header, Section
from sfumato.decode_options import Crop
from sfumato.errors import FormatError
from sfumato.latents import quality
from sfumato.progressive import ProgressiveDecoder
from sfumato.rate_control import TargetBytes
from sfumato.tiles import Tile, grid

HEIGHT, WIDTH = 300, 420

HEADER = Header(1, 1, 0, 0)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128 pixels already for small images: 3 x 4 of them here."""
    monkeypatch.setattr(tiles, "WHOLE", 128 * 128)
    monkeypatch.setattr(tiles, "SIDE", 2)


@pytest.fixture
def codec() -> Codec:
    return toy.codec()


def test_the_grid_covers_every_cell_once() -> None:
    for height, width in ((1, 1), (2048, 2048), (2049, 2048), (5000, 9000), (65535, 100), (1, 65535)):
        rows, columns = tiles.cells(height, width)
        covered = np.zeros((rows, columns), int)
        found = grid(height, width)
        for number, tile in enumerate(found):
            assert tile.number == number
            assert len(found) == 1 or max(tile.height, tile.width) <= 16
            covered[tile.slices()] += 1
        assert (covered == 1).all()
        assert (len(found) == 1) == (rows * columns * 64 * 64 <= 1 << 22)


def test_meets_is_a_shared_cell() -> None:
    tile = Tile(0, 2, 2, 2, 2)
    assert tile.meets(3, 3, 4, 4) and tile.meets(0, 0, 9, 9) and tile.meets(1, 1, 3, 3)
    assert not tile.meets(0, 0, 2, 9) and not tile.meets(4, 0, 5, 9) and not tile.meets(0, 4, 9, 5)


@pytest.mark.usefixtures("small_tiles")
def test_an_image_in_tiles_comes_back(codec: Codec) -> None:
    photo = toy.test_image(HEIGHT, WIDTH)
    data = codec.encode(photo, q=0.8)
    file = container.unpack(data)
    assert len(grid(HEIGHT, WIDTH)) == 12
    y, _ = codec._latents(codec.analyze(photo), quality(file.header))
    y_hat = codec._latent_coder.read(file.header, file.sections)
    assert y.shape == y_hat.shape and np.abs(y - y_hat).max() <= 1.5, (
        "half a step, `seams` half at each border"
    )
    assert np.abs(y - y_hat)[:, :, :4, :4].max() <= 0.5, "away from borders half a step"
    assert codec.decode(data).shape == photo.shape
    assert 8 * len(data) == pytest.approx(sum(codec.estimate_bits(photo, q=0.8)), rel=0.1)


@pytest.mark.usefixtures("small_tiles")
def test_tiles_leave_no_seam(codec: Codec) -> None:
    """What differs from the image in one tile is rounding by other means, at borders as inside."""
    photo = toy.test_image(HEIGHT, WIDTH)
    in_tiles = codec.decode(codec.encode(photo, q=1.0)).astype(int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "WHOLE", 1 << 22)
        whole = codec.decode(codec.encode(photo, q=1.0)).astype(int)
    difference = np.abs(in_tiles - whole).mean((0, 2))
    border = np.zeros(WIDTH, bool)
    for column in (128, 256, 384):
        border[column - 8 : column + 8] = True
    assert difference[border].mean() < 2 * difference[~border].mean() + 0.2


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "crop", [(0, 0, 1, 1), (130, 100, 40, 70), (419, 299, 1, 1), (0, 0, WIDTH, HEIGHT), (300, 0, 120, 20)]
)
def test_a_crop_is_that_part_of_the_whole(codec: Codec, crop: tuple[int, int, int, int]) -> None:
    data = codec.encode(toy.test_image(HEIGHT, WIDTH), q=0.8)
    x, y, width, height = crop
    part = codec.decode(data, crop=Crop(*crop)).astype(int)
    whole = codec.decode(data)[y : y + height, x : x + width]
    assert part.shape == whole.shape and np.abs(part - whole).max() <= 1


def damaged(data: bytes, tile: int) -> bytes:
    """The file with a bit flipped in one tile of chunk 1."""
    file = container.unpack(data)
    pieces = list(container.split(file.header, 1, file.sections[1], 12))
    payload = bytearray(pieces[tile].payload)
    payload[len(payload) // 2] ^= 16
    pieces[tile] = Section(bytes(payload), pieces[tile].check)
    sections = list(file.sections)
    sections[1] = container.join(file.header, 1, pieces)
    return container.pack(file.header, sections)


@pytest.mark.usefixtures("small_tiles")
def test_a_crop_reads_only_the_tiles_that_it_needs(codec: Codec) -> None:
    bad = damaged(codec.encode(toy.test_image(HEIGHT, WIDTH), q=0.8), tile=11)
    codec.decode(bad, crop=Crop(0, 0, 64, 64))
    with pytest.raises(FormatError, match="chunk 1: check is"):
        codec.decode(bad, crop=Crop(410, 290, 4, 4))
    with pytest.raises(FormatError, match="chunk 1: check is"):
        codec.decode(bad)


@pytest.mark.usefixtures("small_tiles")
def test_a_prefix_is_a_preview_of_all_tiles(codec: Codec) -> None:
    data = codec.encode(toy.test_image(HEIGHT, WIDTH), q=0.8)
    cut = data[: len(data) * 2 // 3]
    assert 0 < len(container.unpack(cut, partial=True).sections) < 6
    assert codec.decode(cut, partial=True).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.usefixtures("small_tiles")
def test_goals_previews_and_streams_take_tiles(codec: Codec) -> None:
    photo = toy.test_image(HEIGHT, WIDTH)
    limit = len(codec.encode(photo, q=0.7)) + 20
    fit = TargetBytes(limit).search(codec, photo)
    assert 0.9 * limit < len(fit.data) <= limit
    data, decoded = codec.encode_with_reconstruction(codec.analyze(photo), q=fit.q)
    assert data == fit.data and np.array_equal(decoded, codec.decode(data))
    previews = [codec.decode(data, chunks=k).astype(int) for k in range(6)]
    base = codec.decode(data, steps=0)
    errors = [np.abs(preview - base).mean() for preview in previews]
    assert errors[0] > errors[2] > errors[4] > errors[5] == 0
    part = codec.decode(data, chunks=2, crop=Crop(130, 100, 40, 70))
    assert np.abs(previews[2][100:170, 130:170] - part).max() <= 1
    reader = ProgressiveDecoder(toy.WEIGHTS)
    for at in range(0, len(data), 5000):
        sections = reader.feed(data[at : at + 5000])
        if sections > 1:
            assert np.array_equal(reader.image(), decoded if reader.complete else previews[sections - 1])
    assert reader.complete


@pytest.mark.usefixtures("small_tiles")
def test_the_plugin_takes_tiles() -> None:
    buffer = io.BytesIO()
    Image.fromarray(toy.test_image(HEIGHT, WIDTH)).save(buffer, "SFU", quality=30)
    with Image.open(buffer) as whole, Image.open(buffer) as draft:
        assert np.array_equal(np.asarray(whole), sfumato.decode(buffer.getvalue()))
        draft.thumbnail((100, 100))
        assert draft.size == (100, 71)


@pytest.mark.parametrize("number", range(6))
def test_join_and_split_are_inverse_and_checked(number: int) -> None:
    pieces = [Section(bytes([i]) * (i * 70), 1000 + i) for i in range(5)]
    whole = container.join(HEADER, number, pieces)
    assert container.split(HEADER, number, whole, 5) == tuple(pieces)
    assert container.join(HEADER, number, pieces[:1]) == pieces[0]
    assert container.split(HEADER, number, pieces[3], 1) == (pieces[3],)
    with pytest.raises(FormatError, match="table's check is"):
        container.split(HEADER, number, Section(whole.payload, whole.check ^ 1), 5)
    with pytest.raises(FormatError, match="tiles do not fit into"):
        container.split(HEADER, number, Section(whole.payload[:-1], whole.check), 5)
    with pytest.raises(FormatError, match="1 bytes follow the last tile"):
        container.split(HEADER, number, Section(whole.payload + b"\0", whole.check), 5)
    with pytest.raises(FormatError, match="5 tiles do not fit"):
        container.split(HEADER, number, Section(b"\x01" * HEADER.check_size(number), 0), 5)


@given(st.binary(max_size=60), st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(2, 5))
@settings(max_examples=300, deadline=None)
def test_any_table_of_tiles_is_read_or_refused(data: bytes, check: int, number: int, count: int) -> None:
    size = HEADER.check_size(number)
    for claimed in (check % 256**size, *(zlib.crc32(data[:end]) % 256**size for end in range(len(data)))):
        try:
            tiles = container.split(HEADER, number, Section(data, claimed), count)
        except FormatError:
            continue
        assert len(tiles) == count and container.join(HEADER, number, tiles).payload == data


def test_crops_outside_the_image_are_named(codec: Codec) -> None:
    data = codec.encode(toy.test_image(20, 30))
    for crop in (Crop(-1, 0, 5, 5), Crop(0, 0, 31, 5), Crop(0, 16, 5, 5), Crop(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="is no part of 30x20 pixels"):
            codec.decode(data, crop=crop)
