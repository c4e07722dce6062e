"""In: sfumato.container.  Out: files come back as they were, and a bad file is a FormatError, no more."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import container
from sfumato.checks import Checksum
from sfumato.container import File, Header, Section, overhead_bytes, pack, unpack
from sfumato.errors import FormatError
from sfumato.fields import packed_varint

HEADER = Header(width=768, height=512, q=128, model=0x12345678)
SECTIONS = tuple(Section(bytes([i]) * (3 * i), 200 * i + 1) for i in range(6))
CHECK_BYTES = (2, 2, 2, 2, 2, 4)
METADATA = {"EXIF": b"\x00\x01", "NOTE": b""}

u32 = st.integers(0, 2**32 - 1)
headers = st.builds(
    Header,
    grey=st.booleans(),
    width=st.integers(1, 65535),
    height=st.integers(1, 2048),
    q=st.integers(0, 255),
    model=u32,
    seed=st.none() | u32,
)
sections = st.tuples(
    *(st.builds(Section, st.binary(max_size=200), st.integers(0, 256**size - 1)) for size in CHECK_BYTES)
)
tags = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=4, max_size=4)
metadatas = st.dictionaries(tags, st.binary(max_size=20), max_size=3)


def refused(data: bytes, *, partial: bool = False) -> str:
    with pytest.raises(FormatError) as error:
        unpack(data, partial=partial)
    return str(error.value)


@given(headers, sections, metadatas)
def test_round_trip(header: Header, sections: tuple[Section, ...], metadata: dict[str, bytes]) -> None:
    data = pack(header, sections, metadata)
    for partial in (False, True):
        assert unpack(data, partial=partial) == File(header, sections, metadata, complete=True)
    assert data.startswith(container.MAGIC)


@given(headers, sections, metadatas)
def test_every_prefix_is_a_preview(
    header: Header, sections: tuple[Section, ...], metadata: dict[str, bytes]
) -> None:
    data = pack(header, sections, metadata)
    ends = [len(header.pack())]
    for section, size in zip(sections, CHECK_BYTES, strict=True):
        ends.append(ends[-1] + (1 if len(section.payload) < 128 else 2) + size + len(section.payload))
    for cut in range(len(data)):
        if cut < ends[0]:
            assert f"ends at byte {cut}, inside" in refused(data[:cut], partial=True)
            continue
        whole = sum(end <= cut for end in ends[1:])
        assert unpack(data[:cut], partial=True) == File(header, sections[:whole], {}, complete=False)
        assert f"{whole} of 6 sections are whole" in refused(data[:cut])


@pytest.mark.parametrize("chunks", [1, 3, 5, 6, 16])
def test_any_number_of_chunks_is_read(chunks: int) -> None:
    """Six chunks once crashed, and three left empty sections in the file."""
    header = Header(70, 80, 9, 7, chunks=chunks)
    sections = tuple(Section(bytes([i]) * i, 70000 if i == chunks else i) for i in range(chunks + 1))
    assert header.sections == ("z", *(f"chunk {i}" for i in range(1, chunks + 1)))
    data = pack(header, sections, METADATA)
    assert unpack(data) == File(header, sections, METADATA)
    whole = unpack(pack(header, sections)[:-1], partial=True)
    assert whole == File(header, sections[:-1], complete=False)
    with pytest.raises(ValueError, match=f"{chunks} sections, not {chunks + 1}"):
        pack(header, sections[:-1])
    found = refused(data.replace(bytes([9, chunks]), bytes([9, 0]), 1))
    assert "model 00000007, seed None of a file without a latent, not 00000000, None" in found


@pytest.mark.parametrize("partial", [False, True])
def test_every_change_of_one_byte_is_read_or_refused(partial: bool) -> None:
    good = pack(Header(130, 7, 3, 99, seed=5), SECTIONS, METADATA)
    for at in range(len(good)):
        bad = bytearray(good)
        for value in range(256):
            bad[at] = value
            try:
                unpack(bytes(bad), partial=partial)
            except FormatError as error:
                assert str(error)


@settings(max_examples=300)
@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_any_bytes_are_read_or_refused(noise: bytes, partial: bool, begun: bool) -> None:
    try:
        unpack((HEADER.pack() if begun else b"") + noise, partial=partial)
    except FormatError as error:
        assert str(error)


def test_overhead_leaves_out_payloads_and_metadata() -> None:
    for size, cost in ((127, 34), (128, 40), (16383, 40), (16384, 46)):
        assert overhead_bytes(pack(Header(768, 768, 255, 2**32 - 1), [Section(bytes(size), 0)] * 6)) == cost
    data = pack(HEADER, SECTIONS, METADATA)
    assert overhead_bytes(data) == overhead_bytes(pack(HEADER, SECTIONS)) == 34
    assert overhead_bytes(HEADER.pack()) == 14
    assert overhead_bytes(data[: 14 + 3]) == 17
    with pytest.raises(FormatError, match="not a sfumato file"):
        overhead_bytes(b"PNG")


START = b"SFU\x30"
REST = b"\x80\x05\x78\x56\x34\x12"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends at byte 0, inside the magic"),
        (b"JFU\x30" + bytes(60), "starts with b'JFU'"),
        (b"SFU\x40" + bytes(60), "version 4 is unknown"),
        (b"SFU\x20" + bytes(60), "version 2, written by sfumato 0.1, is not read any more; this reader"),
        (b"SFU\x10" + bytes(60), "version 1, written by sfumato 0.0.1"),
        (b"SFU\x00" + bytes(60), "version 0 is unknown"),
        (START + packed_varint(0) + packed_varint(5) + REST, "width is 0"),
        (START + packed_varint(5) + packed_varint(65536) + REST, "height is 65536"),
        (START + packed_varint(65535) + packed_varint(65535) + REST, "65535 x 65535 pixels"),
        (START + b"\x81\x00" + packed_varint(5) + REST, "the width: 1 is not in the shortest form"),
        (START + b"\xff" * 6 + REST, "the width: varint of more than 5 bytes"),
        (HEADER.pack() + b"\xff\xff\xff\xff\x7f\x00\x00", "z: length 34359738367, the limit is 3211264"),
        (HEADER.pack() + packed_varint(2**28 + 1) + b"\x00\x00", "z: length 268435457"),
        (HEADER.pack() + packed_varint(8 * 768 * 512 + 2**16 + 1) + b"\x00\x00", "z: length 3211265"),
        (HEADER.pack() + packed_varint(8 * 768 * 512 + 2**16) + b"\x00\x00", "inside z's payload; 0 of 6"),
        (pack(HEADER, SECTIONS) + b"\x00", "1 bytes follow the end of the file at byte 79"),
    ],
)
def test_bad_values_are_named(data: bytes, message: str) -> None:
    assert message in refused(data)


def test_alpha_is_carried_and_checked() -> None:
    data = pack(HEADER, SECTIONS, METADATA, b"plane")
    assert unpack(data) == File(HEADER, SECTIONS, METADATA, alpha=b"plane")
    assert unpack(pack(HEADER, SECTIONS, alpha=b"plane")).metadata == {}
    assert overhead_bytes(data) == overhead_bytes(pack(HEADER, SECTIONS))
    at = data.index(b"plane")
    for cut in range(at - 5, at + 5):
        prefix = unpack(data[:cut], partial=True)
        assert prefix.alpha == b"" and len(prefix.sections) == 6 and not prefix.complete
    assert unpack(data[: at + 5], partial=True).alpha == b"plane"
    for bad in (data.replace(b"plane", b"plain"), data[: at - 5] + b"\x00" * 5):
        for partial in (False, True):
            assert "alpha: " in refused(bad, partial=partial)
    assert "inside alpha" in refused(data[: at + 4])
    with pytest.raises(ValueError, match="alpha of 0 bytes"):
        pack(HEADER, SECTIONS, alpha=b"")


def test_grey_belongs_to_the_plain_header_and_alpha_does_not() -> None:
    grey = Header(768, 512, 128, 0x12345678, grey=True)
    assert grey.pack()[3] == 0x38 and grey.noise_seed != HEADER.noise_seed
    assert unpack(pack(grey, SECTIONS, alpha=b"plane")).header == grey
    assert pack(HEADER, SECTIONS, METADATA, b"plane")[3] == 0x36
    assert unpack(pack(HEADER, SECTIONS, alpha=b"plane")).header.noise_seed == HEADER.noise_seed


def deflated(entries: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(entries) + deflate.flush()


def metadata_file(payload: bytes, crc: int | None = None) -> bytes:
    plain = pack(HEADER, SECTIONS)
    crc = zlib.crc32(payload) if crc is None else crc
    return plain[:3] + b"\x32" + plain[4:] + packed_varint(len(payload)) + crc.to_bytes(4, "little") + payload


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (metadata_file(b""), "metadata: length 0"),
        (metadata_file(b"no deflate"), "metadata: cannot be inflated"),
        (metadata_file(deflated(b"")), "are not one whole stream of DEFLATE with entries"),
        (metadata_file(deflated(b"NOTE\x01a")[:-1]), "are not one whole stream of DEFLATE"),
        (metadata_file(deflated(b"NOTE\x01a") + b"x"), "are not one whole stream of DEFLATE"),
        (metadata_file(deflated(bytes((1 << 24) + 1))), "over 16777216 bytes when inflated"),
        (metadata_file(deflated(b"NOTE\x01a"), crc=7), "the file says 00000007"),
        (metadata_file(deflated(b"NOTE\x02a")), "the entry at byte 5 passes the end at 6"),
        (metadata_file(deflated(b"NOT")), "the entry at byte 0 passes the end at 3"),
        (metadata_file(deflated(b"NO\nE\x00")), "tag 'NO\\nE' is not 4 printable"),
        (metadata_file(deflated(b"NO\xe9E\x00")), "tag 'NO\xe9E' is not 4 printable"),
        (metadata_file(deflated(b"NOTE\x00NOTE\x00")), "tag 'NOTE' comes twice"),
        (metadata_file(deflated(b"NOTE\xff\xff\xff\x7f")), "length 268435455, the limit is 16777216"),
    ],
)
def test_bad_metadata_is_named(data: bytes, message: str, partial: bool) -> None:
    assert message in refused(data, partial=partial)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"height": 65536}, "height is 65536"),
        ({"width": 65535, "height": 4096}, "65535 x 4096 pixels"),
        ({"q": 256}, "q is 256"),
        ({"q": -1}, "q is -1"),
        ({"model": 2**32}, "model is 4294967296"),
        ({"seed": -1}, "seed is -1"),
        ({"chunks": -1}, "chunks is -1, not in 0..16"),
        ({"chunks": 17}, "chunks is 17, not in 0..16"),
        ({"chunks": 0, "model": 1}, "model 00000001, seed None of a file without a latent"),
        ({"chunks": 0, "seed": 0}, "model 00000000, seed 0 of a file without a latent"),
    ],
)
def test_header_refuses_values_that_its_fields_cannot_hold(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Header(**{"width": 1, "height": 1, "q": 0, "model": 0} | values)


def test_pack_refuses_what_it_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="5 sections, not 6"):
        pack(HEADER, SECTIONS[:5])
    with pytest.raises(ValueError, match="z: check 0x10000 does not fit into 2 bytes"):
        pack(HEADER, [Section(b"", 0x10000), *SECTIONS[1:]])
    with pytest.raises(ValueError, match="tag 'long tag' is not 4"):
        pack(HEADER, SECTIONS, {"long tag": b""})
    monkeypatch.setattr(container, "SECTION_MAX", 8)
    with pytest.raises(ValueError, match="chunk 2: payload of 9 bytes, the limit is 8"):
        pack(HEADER, [*SECTIONS[:2], Section(bytes(9), 0), *SECTIONS[3:]])
    monkeypatch.setattr(container, "SECTION_MAX", 100)
    monkeypatch.setattr(container, "METADATA_MAX", 5)
    with pytest.raises(ValueError, match=r"metadata of 6 bytes \(NOTE 1\), the limit is 5"):
        pack(HEADER, SECTIONS, {"NOTE": b"1"})


def test_seed_comes_from_the_field_or_the_plain_header() -> None:
    assert Header(1, 1, 0, 0, seed=0).noise_seed == 0
    assert Header(1, 1, 0, 0, seed=77).noise_seed == 77
    assert HEADER.noise_seed == zlib.crc32(HEADER.pack())
    with_metadata = unpack(pack(HEADER, SECTIONS, METADATA)).header
    assert with_metadata.noise_seed == HEADER.noise_seed


def test_checksum_is_one_crc_over_header_and_all_symbols() -> None:
    symbols = [np.arange(-i, i, dtype=np.int32) for i in range(6)]
    checksum = Checksum(HEADER)
    assert checksum.value == zlib.crc32(HEADER.pack())
    so_far = HEADER.pack()
    for number, part in enumerate(symbols):
        for piece in np.array_split(part, 2):
            checksum.update(piece)
        so_far += part.astype("<i4").tobytes()
        assert checksum.value == zlib.crc32(so_far)
        assert checksum.check(number) == zlib.crc32(so_far) & (0xFFFFFFFF if number == 5 else 0xFFFF)
        checksum.verify(number, Section(b"", checksum.check(number)))


def test_checksum_notices_every_earlier_difference() -> None:
    base, other_symbol = Checksum(HEADER), Checksum(HEADER)
    other_header = Checksum(Header(768, 512, 127, 0x12345678))
    with pytest.raises(ValueError, match="int64"):
        base.update(np.arange(3))  # type: ignore[arg-type]
    for checksum in (base, other_header):
        checksum.update(np.array([1, 2, 3], np.int32))
    other_symbol.update(np.array([1, 2, -3], np.int32))
    for checksum in (base, other_header, other_symbol):
        checksum.update(np.array([4], np.int32))
    section = Section(b"", base.check(1))
    base.verify(1, section)
    for checksum in (other_header, other_symbol):
        found = f"{checksum.check(1):x}, the file says {section.check:x}"
        with pytest.raises(FormatError, match=f"chunk 1: check is {found}"):
            checksum.verify(1, section)


def test_example_in_the_standard() -> None:
    text = (Path(container.__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")
    names = r"header|z|chunk \d|alpha|metadata"
    rows = dict(re.findall(rf"^    ({names}) +((?:[0-9a-f]{{2}} ?)+)$", text, re.MULTILINE))
    assert list(rows) == ["header", *HEADER.sections, "alpha", "metadata"]
    data = bytes.fromhex("".join(rows[name] for name in ("header", *HEADER.sections)))
    checksum = Checksum(HEADER)
    symbols = ([0, -1, 2], [5], [], [], [], [1, 0])
    sections = []
    for number, (part, payload) in enumerate(zip(symbols, ("aabb", "cc", "", "", "", "dd"), strict=True)):
        checksum.update(np.array(part, np.int32))
        sections.append(Section(bytes.fromhex(payload), checksum.check(number)))
    assert data == pack(HEADER, sections)
    assert f"noise seed is {HEADER.noise_seed:#x}" in text
    with_alpha = data[:3] + b"\x34" + data[4:] + bytes.fromhex(rows["alpha"])
    assert with_alpha == pack(HEADER, sections, alpha=b"\xee\xff")
    with_note = data[:3] + b"\x32" + data[4:] + bytes.fromhex(rows["metadata"])
    assert with_note == pack(HEADER, sections, {"NOTE": b"hi"})
    assert unpack(with_note).metadata == {"NOTE": b"hi"}
