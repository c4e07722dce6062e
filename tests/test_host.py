"""Nothing that a host program sets reaches a table, and so the meaning of a file."""

from __future__ import annotations

import ctypes
import decimal
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sfumato import exact, rounding
from sfumato.errors import HostError
from training.export import laplacian

SETTINGS = {
    "nothing": "",
    "decimal rounding": "decimal.getcontext().rounding = decimal.ROUND_UP",
    "decimal precision": "decimal.getcontext().prec = 3; decimal.DefaultContext.prec = 3",
    "decimal traps": "decimal.getcontext().traps[decimal.Inexact] = True",
    "decimal exponents": "decimal.getcontext().Emin = -3; decimal.getcontext().Emax = 3",
    "torch dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "torch half": "import torch; torch.set_default_dtype(torch.bfloat16)",
    "torch device": "import torch; torch.set_default_device('meta')",
    "torch autocast": "import torch; torch.autocast('cpu', torch.bfloat16).__enter__()",
    "numpy errors": "numpy.seterr(all='raise')",
    "flush to zero": "import torch; torch.set_flush_denormal(True)",
}
SCRIPT = """
import decimal, sys, zlib, numpy
{setting}
import sfumato
from sfumato import container
row, column = numpy.mgrid[0:100, 0:140] / 20
pixels = numpy.stack([numpy.sin(row + k) + numpy.cos(column - k) for k in range(3)], -1) * 60 + 128
data = sfumato.encode(pixels.astype(numpy.uint8), q=0.4)
open(sys.argv[1], "wb").write(data)
for path in sys.argv[2:]:
    shown = sfumato.decode(open(path, "rb").read(), steps=0)
    assert abs(shown.astype(int) - pixels).mean() < 12
    print(shown.sum(dtype="int64"))
"""


def run(setting: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(setting=setting), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_of_every_host_setting_are_those_of_none(tmp_path: Path) -> None:
    """Equal bytes: what one setting writes is what all others write and read."""
    files: dict[str, Path] = {}
    for name, setting in SETTINGS.items():
        path = tmp_path / f"{name}.sfu"
        done = run(setting, path, *files.values())
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        files[name] = path
        assert path.read_bytes() == files["nothing"].read_bytes(), name
        assert len(set(done.stdout.split())) <= 1, name


HOSTILE = [
    decimal.Context(prec=60, rounding=decimal.ROUND_CEILING),
    decimal.Context(prec=4),
    decimal.Context(prec=60, traps=[decimal.Inexact, decimal.Rounded]),
    decimal.Context(prec=60, Emin=-2, Emax=2),
    decimal.Context(prec=60, clamp=1, capitals=0),
]


@pytest.mark.parametrize("context", HOSTILE)
def test_tables_are_made_in_a_context_of_their_own(context: decimal.Context) -> None:
    exp, bias = exact.exp_table(), laplacian(2.0625, 3.40625, 14)
    exact.exp_table.cache_clear()
    with decimal.localcontext(context):
        assert exact.exp_table() == exp
        assert laplacian(2.0625, 3.40625, 14) == bias
    exact.exp_table.cache_clear()


def test_the_table_of_exp_is_what_the_format_says() -> None:
    """By big integers alone, as FORMAT.md, section 7, has it: exp(-1 / 256) from its series."""
    bits = 400
    term = total = 1 << bits
    n = 1
    while term:
        term //= 256 * n
        total += term if n % 2 == 0 else -term
        n += 1
    factor = (total + (1 << (bits - 129))) >> (bits - 128)
    value, out = 1 << 143, [1 << 15]
    while out[-1]:
        value = value * factor >> 128
        out.append((value + (1 << 127)) >> 128)
    assert tuple(out) == exact.exp_table()
    digest = hashlib.sha256(np.array(out, "<i4").tobytes()).hexdigest()
    assert len(out) == 2841 and digest.startswith("03097b6984016502")


def test_a_table_that_comes_out_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exact.exp_table.cache_clear()
    monkeypatch.setattr(exact, "DECIMAL", decimal.Context(prec=5))
    with pytest.raises(HostError, match="the table of exp has the check"):
        exact.exp_table()
    monkeypatch.undo()
    exact.exp_table.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the constants are those of glibc on x86 and ARM")
@pytest.mark.parametrize("direction", ["upward", "downward", "towards zero"])
def test_another_rounding_direction_is_refused(direction: str) -> None:
    import platform

    directions = {"upward": 0x800, "downward": 0x400, "towards zero": 0xC00}
    if platform.machine() == "aarch64":
        directions = {"upward": 0x400000, "downward": 0x800000, "towards zero": 0xC00000}
    libm = ctypes.CDLL("libm.so.6")
    rounding.check()
    assert libm.fesetround(directions[direction]) == 0
    try:
        with pytest.raises(HostError, match="not to the nearest"):
            rounding.check()
    finally:
        libm.fesetround(0)
    script = "import ctypes, sfumato, numpy; sfumato.load()"
    script += f"; ctypes.CDLL('libm.so.6').fesetround({directions[direction]})"
    script += "; sfumato.encode(numpy.zeros((8, 8, 3), 'u1'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "HostError" in done.stderr
