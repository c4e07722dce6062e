"""A file that comes in pieces: what has come is known, images get better, the last is that of the file."""

from __future__ import annotations

import numpy as np
import pytest

import sfumato
from sfumato import container
from sfumato.codec import Codec
from sfumato.progressive import ProgressiveDecoder
from tests.test_codec import photo


@pytest.fixture(scope="module")
def original() -> np.ndarray:
    return photo(128, 192)


@pytest.fixture(scope="module")
def data(codec: Codec, original: np.ndarray) -> bytes:
    return codec.encode(original, q=0.7)


def test_images_get_better_as_bytes_come(codec: Codec, original: np.ndarray, data: bytes) -> None:
    reader = ProgressiveDecoder()
    seen, errors = [], []
    for at in range(0, len(data), 29):
        sections = reader.feed(data[at : at + 29])
        if not seen or sections > seen[-1]:
            seen.append(sections)
            shown = reader.image()
            assert (shown is None) == (sections < 2)
            if shown is not None:
                preview = codec.decode(data) if reader.complete else codec.decode(data, chunks=sections - 1)
                assert np.array_equal(shown, preview)
                assert reader.image() is shown
                errors.append(np.square(shown.astype(float) - original).mean())
        assert (reader.header is None) == (at + 29 < 14)
    assert seen == sorted(seen) and seen[-1] == 6 and len(errors) >= 3
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2
    assert reader.complete and reader.header == container.unpack(data).header
    last = reader.image()
    assert last is not None and np.array_equal(last, codec.decode(data))
    reader.close()


def test_bytes_one_by_one(data: bytes) -> None:
    reader = sfumato.ProgressiveDecoder()
    assert reader.feed(b"") == 0 and reader.header is None and reader.image() is None
    counts = [reader.feed(data[i : i + 1]) for i in range(200)]
    assert counts == sorted(counts) and not reader.complete
    with pytest.raises(sfumato.FormatError, match=f"{counts[-1]} of 6 sections are whole"):
        reader.close()


def test_what_is_no_file_is_refused(data: bytes) -> None:
    with pytest.raises(sfumato.FormatError, match="not a sfumato file"):
        ProgressiveDecoder().feed(b"GIF")
    short = ProgressiveDecoder()
    assert short.feed(b"SF") == 0
    with pytest.raises(sfumato.FormatError, match="ends at byte 2"):
        short.close()
    with pytest.raises(sfumato.FormatError, match="ends at byte 0"):
        ProgressiveDecoder().close()
    with pytest.raises(sfumato.FormatError, match="1 bytes follow"):
        ProgressiveDecoder().feed(data + b"x")
    damaged = bytearray(data)
    damaged[40] ^= 0xFF  # inside z
    reader = ProgressiveDecoder()
    assert reader.feed(bytes(damaged)) == 6
    with pytest.raises(sfumato.FormatError):
        reader.image()


def test_chunks_are_the_prefix_of_the_file(codec: Codec, original: np.ndarray, data: bytes) -> None:
    assert np.array_equal(codec.decode(data, chunks=5), codec.decode(data, steps=0))
    errors = [np.square(codec.decode(data, chunks=k).astype(float) - original).mean() for k in range(6)]
    assert errors[5] < errors[3] < errors[1] < errors[0]
    cut = data[: 3 * len(data) // 4]
    have = len(container.unpack(cut, partial=True).sections)
    assert 2 <= have < 6
    kept = codec.decode(cut, chunks=have - 1)  # what follows is not missed
    assert np.array_equal(kept, codec.decode(data, chunks=have - 1))
    assert np.array_equal(kept, codec.decode(cut, chunks=5, partial=True))
    with pytest.raises(sfumato.FormatError, match=f"{have} of 6 sections are whole, chunks=5 needs 6"):
        codec.decode(cut, chunks=5)
    for bad in (-1, 6):
        with pytest.raises(ValueError, match=rf"chunks is {bad}, not in 0\.\.5"):
            codec.decode(data, chunks=bad)
    assert np.array_equal(sfumato.decode(data, chunks=1), codec.decode(data, chunks=1))
