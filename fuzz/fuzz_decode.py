"""python -m fuzz.fuzz_decode fuzz/corpus [libFuzzer options]: bytes -> decode with the toy weights."""

from __future__ import annotations

import sys

import atheris

MODULES = ["sfumato.container", "sfumato.coder", "sfumato.codec", "sfumato.lossless"]
with atheris.instrument_imports(include=MODULES):
    from fuzz.toy import codec
    from sfumato import container
    from sfumato.errors import FormatError

PIXELS = 1 << 20
"""Larger images are left out: they are slow, and no different."""


def target(data: bytes) -> None:
    """`decode` raises FormatError or returns an image of the size that the header says."""
    for partial in (False, True):
        try:
            header = container.unpack(data, partial=True).header
            if header.width * header.height > PIXELS:
                return
            image = codec().decode(data, steps=0, partial=partial)
        except FormatError:
            continue
        assert image.shape[:2] == (header.height, header.width)


if __name__ == "__main__":
    codec()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
