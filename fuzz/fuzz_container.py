"""python -m fuzz.fuzz_container fuzz/corpus [libFuzzer options]: bytes -> container.unpack, and back."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sfumato.container"]):
    from sfumato import container
    from sfumato.errors import FormatError


def target(data: bytes) -> None:
    """`unpack` raises FormatError or returns a file that packs to the same bytes."""
    for partial in (False, True):
        try:
            file = container.unpack(data, partial=partial)
        except FormatError:
            continue
        if not partial:
            again = container.pack(file.header, file.sections, file.metadata, file.alpha)
            assert again == data, "two files of bytes for one file"


if __name__ == "__main__":
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
