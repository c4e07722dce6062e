"""Files written once by the shipped weights decode to the same symbols; those named x... are refused.

The checks inside a file prove its symbols; `results.txt` holds the PSNR against the crop of the example.
`python -m tests.test_golden` writes them anew, for new weights only (CONTRIBUTING.md, "Change bytes").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sfumato
from metrics.distortion import psnr
from sfumato import image

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
CASES = {  # name: height, width, q as a byte, seed
    "low": (96, 160, 0, None),
    "middle": (65, 63, 128, None),
    "high": (64, 64, 255, 7),
    "pixel": (1, 1, 100, None),
}


def crop(name: str) -> np.ndarray:
    height, width, _, _ = CASES[name]
    return image.read(ROOT / "examples" / "chelsea.png")[100 : 100 + height, 150 : 150 + width]


def expected() -> dict[str, float]:
    lines = (GOLDEN / "results.txt").read_text().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


@pytest.mark.parametrize("name", CASES)
def test_golden_file_decodes_to_its_symbols(name: str) -> None:
    decoded = sfumato.decode((GOLDEN / f"{name}.sfu").read_bytes())
    assert psnr(crop(name), decoded) == pytest.approx(expected()[name], abs=0.02)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("x*.sfu")), ids=lambda p: p.stem)
def test_bad_golden_file_is_refused(path: Path) -> None:
    for partial in (False, True):
        with pytest.raises(sfumato.FormatError):
            sfumato.decode(path.read_bytes(), partial=partial)


def main() -> None:
    lines = []
    for name, (_, _, q, seed) in CASES.items():
        data = sfumato.encode(crop(name), q=q / 255, seed=seed)
        (GOLDEN / f"{name}.sfu").write_bytes(data)
        lines.append(f"{name} {psnr(crop(name), sfumato.decode(data)):.3f}\n")
    (GOLDEN / "results.txt").write_text("".join(lines))
    good = (GOLDEN / "middle.sfu").read_bytes()
    (GOLDEN / "x_version.sfu").write_bytes(good[:3] + b"\xf0" + good[4:])
    (GOLDEN / "x_symbols.sfu").write_bytes(good[:20] + bytes([good[20] ^ 0x40]) + good[21:])
    (GOLDEN / "x_header_only.sfu").write_bytes(good[:11])


if __name__ == "__main__":
    main()
