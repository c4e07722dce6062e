"""python -m fuzz.forge -n 20000 -o CSV: forged files, whose checks are right, each decoded; and every prefix.

Allowed: FormatError, or an image of the size in the header.  Reported: how many of each, the slowest, and how
far memory rose over that of the loaded codec.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from fuzz.tally import Tally
from fuzz.toy import codec, corpus
from sfumato import container
from sfumato.autoregressive import autoregressive_pass
from sfumato.checks import Checksum
from sfumato.coder import Decoder, Encoder
from sfumato.container import Header, Section
from sfumato.errors import FormatError
from sfumato.fields import packed_varint
from sfumato.latents import make_symbol_coder, quality
from sfumato.scales import SYMBOL_MAX, Tables
from sfumato.tiles import grid

Generator = np.random.Generator
SIDE = 130  # pixels at most
SPREADS = (0, 1, 3, 30, 1000, SYMBOL_MAX)  # of drawn symbols


class Draw:
    """A coder that makes up the symbols, and writes them."""

    def __init__(self, tables: Tables, rng: Generator) -> None:
        self._encoder, self._rng = Encoder(tables), rng
        self._spread = int(rng.choice(SPREADS))

    def code(self, index: NDArray[np.uint8], symbols: NDArray[np.int32] | None) -> NDArray[np.int32]:
        drawn = self._rng.integers(-self._spread, self._spread + 1, index.size, np.int32)
        return self._encoder.code(index, drawn)

    def finish(self) -> bytes:
        return self._encoder.finish()


def sections(header: Header, coders: Callable[[], list[Draw] | list[Decoder]]) -> list[list[Section]]:
    """By section and tile, the checks of what the coders give; the payloads are those of `Draw`, or empty."""
    coder, tiles = codec()._latent_coder, grid(header.height, header.width)
    pieces: list[list[Section]] = [[] for _ in header.sections]
    for tile in tiles:
        mine, checksum = coders(), Checksum(header, tile.number if len(tiles) > 1 else None)
        checks: dict[int, int] = {}

        def done(number: int, checksum: Checksum = checksum, checks: dict[int, int] = checks) -> None:
            checks[number] = checksum.check(number)

        code = make_symbol_coder(mine, checksum, done)
        size = tile.height, tile.width
        autoregressive_pass(coder.prior, code, quality(header), size, chunks=header.chunks)
        for number, writer in enumerate(mine):
            payload = writer.finish() if isinstance(writer, Draw) else b""
            pieces[number].append(Section(payload, checks[number]))
    return pieces


def header_of(number: int, rng: Generator, lossless_file: bool = False) -> Header:
    """A header of any size up to `SIDE`, every q in turn."""
    width, height = (int(side) for side in rng.integers(1, SIDE + 1, 2))
    grey = bool(rng.integers(2))
    if lossless_file:
        return Header(width, height, 255, 0, grey=grey, chunks=0)
    seed = int(rng.integers(2**32)) if rng.integers(2) else None
    return Header(width, height, number % 256, codec().model_id, seed, grey, len(codec().sections) - 1)


def drawn(number: int, rng: Generator) -> bytes:
    """Made-up symbols in every section: a valid file."""
    header = header_of(number, rng)
    pieces = sections(header, lambda: [Draw(codec()._latent_coder.tables, rng) for _ in header.sections])
    joined = [container.join(header, i, tiles) for i, tiles in enumerate(pieces)]
    return container.pack(header, joined)


def other_length(number: int, rng: Generator) -> bytes:
    """The same, but one payload is longer, shorter, or others' bytes of the same length."""
    file = container.unpack(drawn(number, rng))
    parts = list(file.sections)
    at = int(rng.integers(len(parts)))
    payload, size = parts[at].payload, int(rng.integers(1, 40))
    kind = int(rng.integers(3))
    changed = (payload + rng.bytes(size), payload[:-size], rng.bytes(len(payload)))[kind]
    parts[at] = Section(changed, parts[at].check)
    return container.pack(file.header, parts)


def noise(number: int, rng: Generator) -> bytes:
    """Random payloads of any length with the checks of the symbols that they decode to."""
    header = header_of(number, rng)
    sizes = rng.choice((0, 1, 4, 9, 100, 3000), len(header.sections))
    payloads = [rng.bytes(int(size)) for size in sizes]
    tables = codec()._latent_coder.tables
    found = sections(header, lambda: [Decoder(tables, payload) for payload in payloads])
    return container.pack(
        header, [Section(p, tiles[0].check) for p, tiles in zip(payloads, found, strict=True)]
    )


def stream(rng: Generator, height: int, width: int) -> bytes:
    """A stream of an image: whole, cut, of another size or kind, noise, or a bomb in a chunk of text."""
    kind = int(rng.integers(7))
    if kind == 0:
        return rng.bytes(int(rng.integers(1, 300)))
    if kind == 1:
        height, width = int(rng.integers(1, 5000)), int(rng.integers(1, 5000))
    channels = int(rng.choice((0, 1, 3, 4)))
    shape = (height, width) if channels < 2 else (height, width, channels)
    image = Image.fromarray(rng.integers(0, 1 if kind == 1 else 256, shape, np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, **[{"format": "WEBP", "lossless": True}, {"format": "PNG"}][int(rng.integers(2))])
    data = buffer.getvalue()
    if kind == 2:
        return data[: int(rng.integers(1, len(data)))]
    if kind == 3:
        out = bytearray(data)
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
        return bytes(out)
    if kind == 4 and data[:4] == b"\x89PNG":
        body = b"zTXta\0\0" + zlib.compress(bytes(50_000_000), 1)
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:33] + chunk + data[33:]
    return data


def exact(number: int, rng: Generator) -> bytes:
    """Any stream as a lossless file, its check right."""
    header = header_of(number, rng, lossless_file=True)
    payload = stream(rng, header.height, header.width)[: container.section_limit(header)]
    return container.pack(header, [Section(payload, container.image_check(header, payload))])


def with_alpha(number: int, rng: Generator) -> bytes:
    """Any stream as the alpha of a valid file, its CRC right."""
    file = container.unpack(drawn(number, rng))
    payload = stream(rng, file.header.height, file.header.width)[: container.alpha_limit(file.header)]
    return container.pack(file.header, file.sections, None, payload)


def noted(number: int, rng: Generator) -> bytes:
    """Any bytes, deflated or not, as the metadata of a valid file, their CRC right."""
    file = container.unpack(corpus()[1])
    entries = [rng.bytes(int(rng.integers(1, 200))), b"DPI " + b"\x08" + rng.bytes(8), b"TEXT\x06a\0b\0c\0"]
    entries += [b"EXIF\x40II*\0" + rng.bytes(60), b"XMP \x03" + rng.bytes(3), b"ICC \x64" + rng.bytes(100)]
    payload = entries[int(rng.integers(len(entries)))]
    if rng.integers(50) == 0:
        payload = bytes(30_000_000)
    if rng.integers(4):
        deflate = zlib.compressobj(6, wbits=container.RAW_DEFLATE)
        payload = deflate.compress(payload) + deflate.flush()
    payload = payload[: container.METADATA_STORED_MAX]
    plain = bytearray(container.pack(file.header, file.sections))
    plain[3] |= 2
    crc = struct.pack("<I", zlib.crc32(payload))
    return bytes(plain) + packed_varint(len(payload)) + crc + payload


KINDS = {
    "drawn symbols": drawn,
    "payload of another length or content": other_length,
    "random payloads": noise,
    "lossless image": exact,
    "alpha": with_alpha,
    "metadata": noted,
}


def outcome(data: bytes, **options: bool) -> str:
    """What decoding comes to; AssertionError for anything that is not allowed."""
    try:
        header = container.unpack(data, partial=True).header
        shown = codec().decode(data, steps=0, **options)
    except FormatError:
        return "FormatError"
    if shown.shape[:2] != (header.height, header.width) or shown.dtype != np.uint8:
        raise AssertionError(f"{shown.shape} {shown.dtype}, from {data.hex()}")
    return "image"


def main(
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 20_000,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    seed: int = 0,
) -> None:
    """Decode n forged files and every prefix of the corpus; any other exception ends the run.

    Args:
        n: how many, a sixth of each kind.
        output: CSV file, one row a kind and outcome.
        seed: of the forgeries.
    """
    codec().decode(corpus()[0])
    tally = Tally()
    rng = np.random.default_rng(seed)
    for number in track(range(n // len(KINDS)), description="forgeries"):
        for kind, make in KINDS.items():
            try:
                data = make(number, rng)
            except FormatError:  # random payloads that decode to no symbols: there is no right check
                tally.counts[kind, "no such file"] += 1
                continue
            tally.add(kind, partial(outcome, data))
    for data in corpus():
        for size in range(len(data)):
            tally.add("prefix", partial(outcome, data[:size]))
            tally.add("prefix as a preview", partial(outcome, data[:size], partial=True))
    if tally.counts["prefix", "image"]:
        raise AssertionError("a prefix was taken for a whole file")
    tally.report("forgery", n, output)


if __name__ == "__main__":
    tyro.cli(main)
