"""evaluation.codecs, commands, y4m: names, real files, programs, and what is said when one is missing."""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation import codecs, commands
from evaluation.codecs import CodecMissing, codec, names
from evaluation.commands import CommandError, codec_of, load_commands
from evaluation.y4m import read_y4m, write_y4m
from metrics.distortion import psnr

LIBRARIES = {"jxl": "imagecodecs", "heic": "pillow_heif"}
# Copies its input behind a line that holds the setting; 13 makes it fail, 14 hang, 15 write nothing.
PROGRAM = """
import sys, time
from pathlib import Path
verb, source, target, *rest = sys.argv[1:]
if rest == ["13"]:
    print("starting")
    sys.exit("bad luck: 13")
if rest == ["14"]:
    time.sleep(60)
data = Path(source).read_bytes()
if verb == "encode" and rest != ["15"]:
    Path(target).write_bytes(rest[0].encode() + b"\\n" + data)
elif verb == "decode":
    Path(target).write_bytes(data.partition(b"\\n")[2])
"""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth gradient with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def toml(folder: Path, **changes: object) -> Path:
    """A file with one codec, `copy`, which runs PROGRAM."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    run = f"'{sys.executable}' '{program}'"
    table: dict[str, object] = {
        "suffix": ".copy",
        "pictures": "png",
        "settings": [1, 2.5],
        "encode": f"{run} encode {{input}} {{output}} {{setting}}",
        "decode": f"{run} decode {{input}} {{output}}",
    }
    lines = [
        f"{key} = {value if isinstance(value, list | int | float) else repr_toml(str(value))}"
        for key, value in (table | changes).items()
        if value is not None
    ]
    path = folder / "commands.toml"
    path.write_text("[copy]\n" + "\n".join(lines) + "\n")
    return path


def repr_toml(text: str) -> str:
    return '"""' + text + '"""'


def test_names_keep_options_with_their_codec() -> None:
    assert names("sfumato:steps=4,realism=0.5, jpeg,avif") == ["sfumato:steps=4,realism=0.5", "jpeg", "avif"]
    assert names("jpeg") == ["jpeg"]
    with pytest.raises(ValueError, match="an empty name"):
        names("jpeg,,avif")
    with pytest.raises(ValueError, match="jpeg comes twice"):
        names("jpeg,avif,jpeg")


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl", "jpeg2000", "heic", "jpeg-compressai"])
def test_codecs_spend_more_bytes_on_better_pictures(name: str, tmp_path: Path) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
    one, image = codec(name), picture(96, 120)
    sizes, qualities = [], []
    for setting in (one.settings[1], one.settings[-1]):
        path = tmp_path / f"{setting:g}{one.suffix}"
        one.encode(image, setting, path)
        decoded = one.decode(path)
        assert decoded.dtype == np.uint8 and decoded.shape == image.shape
        sizes.append(path.stat().st_size)
        qualities.append(psnr(image, decoded))
    assert sizes[0] < sizes[1] and 15 < qualities[0] < qualities[1]
    assert one.description and any(character.isdigit() for character in one.description)
    pickle.loads(pickle.dumps(one))  # it travels to the process that codes


def test_avif_is_the_same_for_any_number_of_cores() -> None:
    assert codecs.AVIF_OPTIONS["max_threads"] == 1


@pytest.mark.parametrize(
    "name", ["vp9", "", "sfumato:", "sfumato:x", "sfumato:steps=x", "sfumato:speed=2", "jpeg:4"]
)
def test_unknown_codecs_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown codec '{name}'"):
        codec(name)


@pytest.mark.parametrize(("name", "module"), LIBRARIES.items())
def test_a_codec_without_its_library_says_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(CodecMissing, match=rf"^{name}: the package {package} is not installed"):
        codec(name)


def test_sfumato_goes_through_its_public_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Weights:
        denoiser_id, preset, model_id = "5678abcd", "tiny", 0x1234

    def encode(image: np.ndarray, q: float, model: str) -> bytes:
        calls.append(("encode", q, model))
        return image.tobytes()

    def decode(data: bytes, **options: object) -> np.ndarray:
        calls.append(("decode", options))
        return np.frombuffer(data, np.uint8).reshape(8, 9, 3)

    for name, function in (("load", lambda model: Weights), ("encode", encode), ("decode", decode)):
        monkeypatch.setattr(codecs.sfumato, name, function, raising=False)
    path, image = tmp_path / "a.sfu", picture(8, 9)
    for name, options in {
        "sfumato": {"model": "small"},
        "sfumato:2": {"model": "small", "steps": 2},
        "sfumato:steps=4,realism=0.5,model=w.safetensors": {
            "model": "w.safetensors",
            "steps": 4,
            "realism": 0.5,
        },
    }.items():
        one = codec(name, model="small")
        assert one.name == name and one.settings == tuple(i / 8 for i in range(9))
        assert "tiny 00001234" in one.description
        assert "denoiser 5678abcd" in one.description, "its pictures differ, if not its files"
        one.encode(image, 0.25, path)
        assert (one.decode(path) == image).all()
        assert calls[-2:] == [("encode", 0.25, options["model"]), ("decode", options)]
    assert "denoiser" not in codec("sfumato:0").description
    Weights.denoiser_id = ""
    with pytest.raises(CodecMissing, match=r"sfumato:2: the tiny weights hold no trained denoiser"):
        codec("sfumato:2")


def test_a_program_is_a_codec_by_a_few_lines(tmp_path: Path) -> None:
    [(name, command)] = load_commands(toml(tmp_path)).items()
    one, image = codec_of(command), picture(20, 31)
    assert (name, one.name, one.suffix, one.settings) == ("copy", "copy", ".copy", (1, 2.5))
    path = tmp_path / "coded.copy"
    one.encode(image, 2.5, path)
    assert path.read_bytes().startswith(b"2.5\n\x89PNG")
    assert (one.decode(path) == image).all()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # a child begins with its parent's
    assert one.program_peak_mb is not None and 3 < one.program_peak_mb() < 500 + own
    pickle.loads(pickle.dumps(one))


def test_a_program_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    command = load_commands(toml(tmp_path, timeout_s=0.5))["copy"]
    path, image = tmp_path / "coded.copy", picture(8, 8)
    with pytest.raises(CommandError, match=r"^copy: .* ended with 1: bad luck: 13$"):
        command.encode(image, 13, path)
    with pytest.raises(CommandError, match=r"^copy: .* took over 0\.5 s: no message$"):
        command.encode(image, 14, path)
    with pytest.raises(CommandError, match=r"^copy: .* wrote no file"):
        load_commands(toml(tmp_path))["copy"].encode(image, 15, path)
    assert not path.exists()


def test_a_program_that_is_missing_is_one_line(tmp_path: Path) -> None:
    command = load_commands(toml(tmp_path, decode="no-such-decoder {input} {output}"))["copy"]
    with pytest.raises(CodecMissing, match=r"^copy: the program no-such-decoder is not installed$"):
        codec_of(command)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suffix": None}, "suffix has to be a str, got None"),
        ({"suffix": "copy"}, "suffix is 'copy'"),
        ({"pictures": "gif"}, "pictures is 'gif', known are png, ppm"),
        ({"settings": []}, r"settings are \[\], expected numbers"),
        ({"settings": ["a"]}, r"settings are \['a'\], expected numbers"),
        ({"encode": "x {input} {output}"}, r"encode: 'x {input} {output}' has no {setting}"),
        ({"decode": "x {input} {outptu}"}, r"decode: .* has a hole that is none of {input} {output}"),
        ({"speed": 3}, "speed = 3 is not known"),
    ],
)
def test_a_wrong_file_of_commands_is_told_by_codec_and_key(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"commands\.toml: \[copy\].*{message}"):
        load_commands(toml(tmp_path, **changes))


def test_a_file_of_commands_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[a")
    with pytest.raises(ValueError, match=r"c\.toml: "):
        load_commands(path)


def test_the_examples_of_commands_can_be_read() -> None:
    assert {"cjxl", "avifenc", "vvenc", "vtm"} <= set(load_commands(commands.EXAMPLES))


@pytest.mark.parametrize("size", [(16, 24), (15, 23), (1, 1)])
def test_y4m_in_444_keeps_the_picture(size: tuple[int, int], tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    write_y4m(tmp_path / "a.y4m", image, subsampled=False)
    assert np.abs(read_y4m(tmp_path / "a.y4m").astype(int) - image).max() <= 1


def test_y4m_in_420_keeps_grey_exactly_and_smooth_colours_closely(tmp_path: Path) -> None:
    y, x = np.mgrid[0:33, 0:41]
    grey = np.repeat(((x * 5 + y) % 256)[..., None], 3, 2).astype(np.uint8)
    write_y4m(tmp_path / "a.y4m", grey, subsampled=True)
    assert (read_y4m(tmp_path / "a.y4m") == grey).all()
    smooth = np.stack([x * 6, y * 7, 255 - x * 3 - y * 3], -1).astype(np.uint8)
    write_y4m(tmp_path / "b.y4m", smooth, subsampled=True)
    assert psnr(smooth, read_y4m(tmp_path / "b.y4m")) > 40


def test_y4m_of_primaries_holds_the_code_values_of_the_standard(tmp_path: Path) -> None:
    # ITU-R BT.709-6 at 10 bits: black 64, white 940; Cb of blue and Cr of red at the top of their range, 960.
    image = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    write_y4m(tmp_path / "a.y4m", image, subsampled=False)
    data = (tmp_path / "a.y4m").read_bytes()
    assert data.startswith(b"YUV4MPEG2 W4 H1 F1:1 Ip A1:1 C444p10\nFRAME\n")
    luma, blue, red = np.frombuffer(data[-24:], "<u2").reshape(3, 4)
    assert luma.tolist() == [64, 940, 250, 127]
    assert blue[[0, 1, 3]].tolist() == [512, 512, 960] and red[[0, 1, 2]].tolist() == [512, 512, 960]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"YUV4MPEG2 W4 H4 C422p10\nFRAME\n",
        b"YUV4MPEG2 W4 H4 C444\nFRAME\n1234",
        b"YUV4MPEG2 W999999 H999999 C444\nFRAME\n",
        b"YUV4MPEG2 W0 H4 C444\nFRAME\n",
        b"YUV4MPEG2 W1 H1 C444 XCOLORRANGE=FULL\nFRAME\n123",
    ],
)
def test_a_bad_y4m_file_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.y4m").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.y4m: "):
        read_y4m(tmp_path / "bad.y4m")
