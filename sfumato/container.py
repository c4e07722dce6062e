"""In: header, range-coded sections, alpha, metadata.  Out: the file's bytes; and back, every field checked.

    | header | z | chunk 1 | .. | chunk C | alpha | metadata |
    | header | image                      | alpha | metadata |      of a lossless file, which has C = 0

Field by field, little-endian; limits are checked before anything is copied.  The standard is FORMAT.md,
sections 1, 2, 3 and 8.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.errors import FormatError
from sfumato.fields import VARINT_BYTES, Ended, Reader, packed_varint
from sfumato.tiles import METADATA_MAX as METADATA_MAX
from sfumato.tiles import PIXELS_MAX, SIDE_MAX, padded_pixels

MAGIC = b"SFU"
VERSION = 3
OLD_VERSIONS = {1: "0.0.1", 2: "0.1"}
"""Not read any more: version, and who wrote it."""
HEADER_MAX = 64
"""Bytes, more than any header has: after so many a header that cannot be read is a bad one."""
CHUNKS_MAX = 16
SECTION_MAX = 1 << 28
"""Bytes of a section's payload at most, however large the image: `section_limit` has what its pixels
allow.
"""
METADATA_STORED_MAX = METADATA_MAX + (1 << 16)
"""Bytes of the deflated metadata: DEFLATE adds little to what it cannot shorten."""
RAW_DEFLATE = -15  # zlib's word for a stream of RFC 1951 without a frame

_SEED, _METADATA, _ALPHA, _GREY = 1, 2, 4, 8
_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What a file says before its first section.

    width, height  pixels, 1..65535 each, at most 2**27 together
    q              quality as a byte, 0..255 for 0..1
    model          number of the weights, u32
    seed           seed of the decoder's noise, u32; None derives it from the other fields
    grey           whether the image has one channel
    chunks         how many chunks the model's latent has, 1..16; 0 for a file of pixels, which has no latent:
                   its model is 0, it has no seed, and at q = 255 the pixels are the original's

    ValueError for values out of these ranges.
    """

    width: int
    height: int
    q: int
    model: int
    seed: int | None = None
    grey: bool = False
    chunks: int = 5

    def __post_init__(self) -> None:
        for name, low, value, high in (
            ("width", 1, self.width, SIDE_MAX),
            ("height", 1, self.height, SIDE_MAX),
            ("q", 0, self.q, 255),
            ("model", 0, self.model, 2**32 - 1),
            ("seed", 0, self.seed or 0, 2**32 - 1),
            ("chunks", 0, self.chunks, CHUNKS_MAX),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, not in {low}..{high}")
        if self.holds_pixels and (self.model, self.seed) != (0, None):
            found = f"model {self.model:08x}, seed {self.seed}"
            raise ValueError(f"{found} of a file without a latent, not 00000000, None")
        if self.width * self.height > PIXELS_MAX:
            raise ValueError(f"{self.width} x {self.height} pixels are more than {PIXELS_MAX}")

    def pack(self) -> bytes:
        """The plain header: the bytes before z's section, without the flags of metadata and alpha."""
        flags, seed = (0, b"") if self.seed is None else (_SEED, _U32.pack(self.seed))
        flags |= _GREY if self.grey else 0
        sides = packed_varint(self.width) + packed_varint(self.height)
        model = bytes([self.q, self.chunks]) + _U32.pack(self.model)
        return MAGIC + bytes([VERSION << 4 | flags]) + sides + model + seed

    @property
    def holds_pixels(self) -> bool:
        """Whether the file holds a WebP or PNG of pixels in place of a latent."""
        return not self.chunks

    @property
    def model_name(self) -> str:
        """The number of the weights, in hex; without a latent "lossless", or "palette" below q = 1."""
        if self.holds_pixels:
            return "lossless" if self.q == 255 else "palette"
        return f"{self.model:08x}"

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections before alpha, in the order of the file."""
        if self.holds_pixels:
            return ("image",)
        return "z", *(f"chunk {number}" for number in range(1, self.chunks + 1))

    def check_size(self, number: int) -> int:
        """Bytes of the check of section `number`: 4 for the last, 2 for the others."""
        return 4 if number == self.chunks else 2

    @property
    def noise_seed(self) -> int:
        """The seed field, or without one the CRC-32 of the plain header; u32."""
        return self.seed if self.seed is not None else zlib.crc32(self.pack())


@dataclass(frozen=True)
class Section:
    """One section: its payload, and the check of its symbols as `Checksum.check` gives it, or of the image as
    `image_check` does.
    """

    payload: bytes
    check: int


@dataclass(frozen=True)
class File:
    """What `unpack` found.

    complete  False for a prefix, which may hold fewer sections than its header says
    alpha     stream of the plane, not yet decoded; None if the image is opaque, empty if it was cut off
    stored    bytes of the metadata as the file holds them, deflated
    wanted    of a prefix: bytes of the file before which nothing more of it can be read
    """

    header: Header
    sections: tuple[Section, ...]
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    complete: bool = True
    alpha: bytes | None = None
    stored: int = field(default=0, compare=False)
    wanted: int = field(default=0, compare=False)


def section_limit(header: Header) -> int:
    """Bytes of a range-coded section at most: 8 for each pixel, padding included, and 2^16; 2^28 in all.

    A symbol takes less than 64 bits, and no chunk has more symbols than pixels.  Of a lossless image: 4 for
    each pixel, and 2^16.
    """
    if header.holds_pixels:
        return min(SECTION_MAX, 4 * header.width * header.height + (1 << 16))
    return min(SECTION_MAX, 8 * padded_pixels(header.height, header.width) + (1 << 16))


def alpha_limit(header: Header) -> int:
    """Bytes of the stream of alpha at most: 2 for each pixel, and 2^16; 2^28 in all."""
    return min(SECTION_MAX, 2 * header.width * header.height + (1 << 16))


def image_check(header: Header, payload: bytes) -> int:
    """CRC-32 of the plain header and the payload of a lossless image."""
    return zlib.crc32(payload, zlib.crc32(header.pack()))


def file_limit(header: Header) -> int:
    """Bytes of a file with this header at most."""
    sections = len(header.sections) * (section_limit(header) + VARINT_BYTES + 4)
    return HEADER_MAX + sections + alpha_limit(header) + METADATA_STORED_MAX + 2 * (VARINT_BYTES + 4)


def pack(
    header: Header,
    sections: Sequence[Section],
    metadata: Mapping[str, bytes] | None = None,
    alpha: bytes | None = None,
) -> bytes:
    """The file.

    sections  all that the header asks for, z first; of a lossless file the image
    metadata  tag of 4 printable ASCII characters -> bytes; None or empty for no metadata section
    alpha     stream of the plane, for the alpha section; None for an opaque image

    ValueError for another number of sections, or a value that its field cannot hold.
    """
    names = header.sections
    if len(sections) != len(names):
        raise ValueError(f"{len(sections)} sections, not {len(names)}")
    head = bytearray(header.pack())
    head[len(MAGIC)] |= (_METADATA if metadata else 0) | (0 if alpha is None else _ALPHA)
    parts = [bytes(head)]
    for number, (name, section) in enumerate(zip(names, sections, strict=True)):
        size = header.check_size(number)
        if len(section.payload) > (limit := section_limit(header)):
            raise ValueError(f"{name}: payload of {len(section.payload)} bytes, the limit is {limit}")
        if not 0 <= section.check < 1 << 8 * size:
            raise ValueError(f"{name}: check {section.check:#x} does not fit into {size} bytes")
        parts += packed_varint(len(section.payload)), section.check.to_bytes(size, "little"), section.payload
    if alpha is not None:
        if not 0 < len(alpha) <= (limit := alpha_limit(header)):
            raise ValueError(f"alpha of {len(alpha)} bytes, not in 1..{limit}")
        parts += packed_varint(len(alpha)), _U32.pack(zlib.crc32(alpha)), alpha
    if metadata:
        payload = metadata_payload(metadata)
        parts += packed_varint(len(payload)), _U32.pack(zlib.crc32(payload)), payload
    return b"".join(parts)


def metadata_payload(metadata: Mapping[str, bytes]) -> bytes:
    """The entries as the file holds them, deflated; ValueError for a bad tag, or for more than the limit."""
    for fault in filter(None, map(_tag_fault, metadata)):
        raise ValueError(f"metadata: {fault}")
    entries = b"".join(tag.encode() + packed_varint(len(value)) + value for tag, value in metadata.items())
    if len(entries) > METADATA_MAX:
        sizes = ", ".join(f"{tag.strip()} {len(value)}" for tag, value in metadata.items())
        raise ValueError(f"metadata of {len(entries)} bytes ({sizes}), the limit is {METADATA_MAX}")
    deflate = zlib.compressobj(9, wbits=RAW_DEFLATE)
    return deflate.compress(entries) + deflate.flush()


def unpack(data: bytes, *, partial: bool = False) -> File:
    """Header, sections, alpha and metadata of a file, or FormatError.  Payloads are not decoded here.

    partial  False: a file that ends early is an error that says how many of its sections are whole.
             True: any prefix from the whole header on gives the whole sections in it, with complete=False.
    """
    reader = Reader(data)
    header, flags = _read_header(reader)
    sections: list[Section] = []
    metadata: dict[str, bytes] = {}
    alpha = b"" if flags & _ALPHA else None
    try:
        for number, name in enumerate(header.sections):
            length = reader.length(name, section_limit(header))
            check = reader.uint(header.check_size(number), f"{name}'s check")
            sections.append(Section(reader.take(length, f"{name}'s payload"), check))
        if header.holds_pixels and (found := image_check(header, sections[0].payload)) != check:
            raise FormatError(f"image: check is {found:x}, the file says {check:x}")
        if alpha is not None:
            alpha = _read_checked(reader, "alpha", alpha_limit(header))
        stored = reader.at
        if flags & _METADATA:
            metadata = _read_metadata(reader)
    except Ended as error:
        if partial:
            return File(header, tuple(sections), complete=False, alpha=alpha, wanted=error.wanted)
        raise FormatError(f"{error}; {len(sections)} of {len(header.sections)} sections are whole") from None
    if reader.at < len(data):
        raise FormatError(f"{len(data) - reader.at} bytes follow the end of the file at byte {reader.at}")
    return File(header, tuple(sections), metadata, alpha=alpha, stored=reader.at - stored)


def join(header: Header, number: int, tiles: Sequence[Section]) -> Section:
    """Section `number` of an image in tiles: a table of the tiles' lengths and checks, then their payloads.

    The check of the whole is that of the table.  The section of a single tile is that tile itself.
    """
    if len(tiles) == 1:
        return tiles[0]
    size = header.check_size(number)
    table = b"".join(packed_varint(len(t.payload)) + t.check.to_bytes(size, "little") for t in tiles)
    check = zlib.crc32(table) & ((1 << 8 * size) - 1)
    return Section(table + b"".join(tile.payload for tile in tiles), check)


def split(header: Header, number: int, section: Section, count: int) -> tuple[Section, ...]:
    """The `count` tiles of section `number`; inverse of `join`.  FormatError for a bad table."""
    if count == 1:
        return (section,)
    name, size = header.sections[number], header.check_size(number)
    reader = Reader(section.payload)
    try:
        table = [
            (reader.length(f"{name}, tile {tile}", SECTION_MAX), reader.uint(size, f"{name}, tile {tile}"))
            for tile in range(count)
        ]
        found = zlib.crc32(section.payload[: reader.at]) & ((1 << 8 * size) - 1)
        if found != section.check:
            raise FormatError(f"{name}: table's check is {found:x}, the file says {section.check:x}")
        tiles = tuple(
            Section(reader.take(length, f"{name}, tile {tile}"), check)
            for tile, (length, check) in enumerate(table)
        )
    except Ended:
        raise FormatError(f"{name}: {count} tiles do not fit into {len(section.payload)} bytes") from None
    if reader.at < len(section.payload):
        raise FormatError(f"{name}: {len(section.payload) - reader.at} bytes follow the last tile")
    return tiles


def overhead_bytes(data: bytes) -> int:
    """How many bytes of a file or a prefix are header, lengths and checks; alpha and metadata left out.

    FormatError as for `unpack(data, partial=True)`; counts the whole sections only.
    """
    file = unpack(data, partial=True)
    lengths = sum(len(packed_varint(len(section.payload))) for section in file.sections)
    checks = sum(file.header.check_size(number) for number in range(len(file.sections)))
    return len(file.header.pack()) + lengths + checks


def _read_header(reader: Reader) -> tuple[Header, int]:
    magic = reader.take(len(MAGIC), "the magic")
    if magic != MAGIC:
        raise FormatError(f"not a sfumato file: it starts with {magic!r}, not {MAGIC!r}")
    version, flags = divmod(reader.uint(1, "the version"), 16)
    if version in OLD_VERSIONS:
        writer = f"version {version}, written by sfumato {OLD_VERSIONS[version]}"
        raise FormatError(f"{writer}, is not read any more; this reader knows {VERSION}")
    if version != VERSION:
        raise FormatError(f"version {version} is unknown; this reader knows {VERSION}")
    width, height = reader.varint("the width"), reader.varint("the height")
    q, chunks = reader.uint(1, "q"), reader.uint(1, "the number of chunks")
    model = reader.uint(4, "the model id")
    seed = reader.uint(4, "the seed") if flags & _SEED else None
    try:
        return Header(width, height, q, model, seed, bool(flags & _GREY), chunks), flags
    except ValueError as error:
        raise FormatError(f"header: {error}") from None


def _read_checked(reader: Reader, what: str, limit: int) -> bytes:
    length = reader.length(what, limit)
    crc = reader.uint(4, f"the CRC of {what}")
    payload = reader.take(length, what)
    if zlib.crc32(payload) != crc:
        raise FormatError(f"{what}: CRC is {zlib.crc32(payload):08x}, the file says {crc:08x}")
    if not payload:
        raise FormatError(f"{what}: length 0; a file without {what} has no such section")
    return payload


def _read_metadata(reader: Reader) -> dict[str, bytes]:
    payload = _inflated(_read_checked(reader, "metadata", METADATA_STORED_MAX))
    entries: dict[str, bytes] = {}
    inner = Reader(payload)
    while inner.at < len(payload):
        try:
            raw = inner.take(4, "a tag")
            size = inner.length(f"entry {raw!r}", METADATA_MAX)
            value = inner.take(size, f"entry {raw!r}")
        except Ended:
            passed = f"the entry at byte {inner.at} passes the end at {len(payload)}"
            raise FormatError(f"metadata: {passed}") from None
        tag = raw.decode("latin-1")
        if _tag_fault(tag) or tag in entries:
            raise FormatError(f"metadata: {_tag_fault(tag) or f'tag {tag!r} comes twice'}")
        entries[tag] = value
    return entries


def _inflated(payload: bytes) -> bytes:
    inflate = zlib.decompressobj(RAW_DEFLATE)
    try:
        entries = inflate.decompress(payload, METADATA_MAX + 1)
    except zlib.error as error:
        raise FormatError(f"metadata: cannot be inflated: {error}") from None
    if len(entries) > METADATA_MAX:
        raise FormatError(f"metadata: over {METADATA_MAX} bytes when inflated")
    if not entries or not inflate.eof or inflate.unused_data:
        raise FormatError(f"metadata: {len(payload)} bytes are not one whole stream of DEFLATE with entries")
    return entries


def _tag_fault(tag: str) -> str:
    good = len(tag) == 4 and tag.isascii() and tag.isprintable()
    return "" if good else f"tag {tag!r} is not 4 printable ASCII characters"
