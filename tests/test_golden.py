"""Files written once by the shipped weights decode to the same symbols; those named x... are refused.

`results.txt` holds a CRC-32 of the latent that each stands for, and the PSNR against the crop of the example;
`palette.txt` one of the pixels of a file of few colours.
The same latents, and the same bits of every mean and scale index, come out of processes with other settings;
`python -m acceptance.determinism` is the whole matrix.
`python -m tests.test_golden` writes them anew, for new weights only (CONTRIBUTING.md, "Change bytes").
"""

from __future__ import annotations

import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import sfumato
from acceptance import determinism
from acceptance.determinism import Setting
from fuzz import toy
from metrics.distortion import psnr
from sfumato import image
from tests.test_palette import WINDOW

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


def expected() -> dict[str, tuple[float, str]]:
    lines = (GOLDEN / "results.txt").read_text().splitlines()
    return {name: (float(value), crc) for name, value, crc in (line.split() for line in lines)}


@pytest.mark.parametrize("name", CASES)
def test_golden_file_decodes_to_its_symbols(name: str) -> None:
    data = (GOLDEN / f"{name}.sfu").read_bytes()
    value, crc = expected()[name]
    assert f"{determinism.latent(sfumato.load(), data):08x}" == crc
    assert psnr(crop(name), sfumato.decode(data, steps=0)) == pytest.approx(value, abs=0.02)


def test_golden_palette_decodes_to_its_pixels() -> None:
    image = sfumato.decode((GOLDEN / "palette.sfu").read_bytes())
    assert f"{zlib.crc32(image.tobytes()):08x}" == (GOLDEN / "palette.txt").read_text().strip()
    assert image.shape == WINDOW.shape


def test_files_of_the_toy_weights_decode_to_their_symbols() -> None:
    """A second preset: the files in fuzz/corpus that have a latent."""
    names = [name for name, (_, _, _, q, _, _) in toy.CASES.items() if q is not None]
    found = {
        name: determinism.latent(toy.codec(), (toy.CORPUS / f"{name}.sfu").read_bytes()) for name in names
    }
    lines = (toy.CORPUS / "latents.txt").read_text().splitlines()
    assert found == {name: int(crc, 16) for name, crc in map(str.split, lines)}


@pytest.fixture(scope="module")
def here() -> dict[str, int]:
    return determinism.crcs("small")


def test_every_mean_and_scale_index_is_the_same_for_ever(here: dict[str, int]) -> None:
    """`pass.txt`: for 2b24eab8, the weights of version 0.1, what its implementation on torch gave."""
    lines = (GOLDEN / "pass.txt").read_text().splitlines()
    expected = dict(line.rsplit(" ", 1) for line in lines)
    assert {case: f"{here[f'{case} plain']:08x}" for case in expected} == expected


OTHERS = (
    Setting("no vectors", environment={"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "AVX2"}),
    Setting("2 threads, floating point errors raised", 2, {"DETERMINISM_NUMPY_ERRORS": "raise"}),
    pytest.param(determinism.FTZ, marks=pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")),
)


@pytest.mark.parametrize("setting", OTHERS, ids=lambda s: s.name)
def test_other_instructions_and_threads_give_the_same_bits(setting: Setting, here: dict[str, int]) -> None:
    assert determinism.start(setting, sys.executable, "small")["crcs"] == here
    plain = {case: crc for case, crc in here.items() if case.endswith("plain")}
    assert plain == {case: here[case.replace("plain", "channels last")] for case in plain}
    assert plain == {case: here[case.replace("plain", "second of a batch")] for case in plain}


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
        crc = determinism.latent(sfumato.load(), data)
        lines.append(f"{name} {psnr(crop(name), sfumato.decode(data, steps=0)):.3f} {crc:08x}\n")
    (GOLDEN / "results.txt").write_text("".join(lines))
    palette = sfumato.encode(WINDOW, q=0.5)
    (GOLDEN / "palette.sfu").write_bytes(palette)
    (GOLDEN / "palette.txt").write_text(f"{zlib.crc32(sfumato.decode(palette).tobytes()):08x}\n")
    found = {case: crc for case, crc in determinism.crcs("small").items() if case.endswith(" plain")}
    passes = [f"{case.removesuffix(' plain')} {crc:08x}\n" for case, crc in found.items()]
    (GOLDEN / "pass.txt").write_text("".join(passes))
    good = (GOLDEN / "middle.sfu").read_bytes()
    (GOLDEN / "x_version.sfu").write_bytes(good[:3] + b"\xf0" + good[4:])
    (GOLDEN / "x_symbols.sfu").write_bytes(good[:20] + bytes([good[20] ^ 0x40]) + good[21:])
    (GOLDEN / "x_header_only.sfu").write_bytes(good[:11])


if __name__ == "__main__":
    main()
