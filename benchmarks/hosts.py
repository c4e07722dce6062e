"""python -m benchmarks.hosts -o CSV: files written under each hostile setting of a host, read under each.

The settings are those of the tests (`tests/test_host.py`): decimal contexts, default types and devices of
torch, numpy's errors, denormal numbers.  A row for each pair: whether the bytes are those of a host without
settings, and the CRC-32 of what they decode to.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.files import write_csv
from tests.test_host import SETTINGS

WRITE = """
import decimal, sys, numpy
{setting}
import sfumato
row, column = numpy.mgrid[0:100, 0:140] / 20
pixels = numpy.stack([numpy.sin(row + k) + numpy.cos(column - k) for k in range(3)], -1) * 60 + 128
open(sys.argv[1], "wb").write(sfumato.encode(pixels.astype(numpy.uint8), q=0.4))
"""
READ = """
import decimal, sys, zlib, numpy
{setting}
import sfumato
for path in sys.argv[1:]:
    print(f"{{zlib.crc32(sfumato.decode(open(path, 'rb').read(), steps=0).tobytes()):08x}}")
"""
COLUMNS = ("written_under", "read_under", "equal_bytes", "crc_of_pixels")


def run(script: str, setting: str, *paths: Path) -> list[str]:
    command = [sys.executable, "-c", script.format(setting=setting), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def main(output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None) -> None:
    """Write and read; exit code 1 unless all files have equal bytes and equal pixels.

    Args:
        output: CSV file, a row for each pair of settings.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{number}.sfu") for number, name in enumerate(SETTINGS)}
        for name, setting in SETTINGS.items():
            run(WRITE, setting, paths[name])
        plain = paths["nothing"].read_bytes()
        rows = [
            (writer, reader, "yes" if path.read_bytes() == plain else "no", crc)
            for reader, setting in SETTINGS.items()
            for (writer, path), crc in zip(paths.items(), run(READ, setting, *paths.values()), strict=True)
        ]
    if output is not None:
        write_csv(output, COLUMNS, rows)
    good = {row[2] for row in rows} == {"yes"} and len({row[3] for row in rows}) == 1
    print(f"{len(rows)} pairs: {'all equal' if good else 'they differ'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    tyro.cli(main)
