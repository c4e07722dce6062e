"""From image to bytes and back with the shipped weights, for good files and for every kind of bad one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato import codec as codec_module
from sfumato import container, latents
from sfumato.codec import Codec
from sfumato.decode_options import DecodeOptions
from sfumato.weights import Tensors, read_weights, to_bytes


def photo(height: int, width: int) -> np.ndarray:
    """A smooth image with an edge, lettering-like detail and some noise, the same at every call."""
    row, column = np.mgrid[0:height, 0:width] / 64
    image = np.stack([np.sin(row + k) + np.cos(column * (1 + k / 2)) for k in range(3)], -1) * 50 + 128
    image[(row * 64 % 40 < 4) & (column * 64 % 24 < 14)] = 20
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def small_file(codec: Codec) -> bytes:
    return codec.encode(photo(24, 40), q=0.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 257), (63, 65), (64, 64), (512, 768)])
def test_sizes(codec: Codec, size: tuple[int, int]) -> None:
    original = photo(*size)
    if size == (1, 1):
        original[0, 0] = (200, 90, 30)  # or it would be nearly grey, and come back with one channel
    data = codec.encode(original, q=0.5)
    decoded = codec.decode(data)
    assert decoded.shape == original.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - original).mean() < 12


def test_more_quality_is_more_bytes_and_less_error(codec: Codec) -> None:
    original = photo(128, 192)
    files = [codec.encode(original, q=q) for q in (0.0, 0.3, 0.6, 1.0)]
    errors = [np.square(codec.decode(f).astype(float) - original).mean() for f in files]
    assert [len(f) for f in files] == sorted(len(f) for f in files)
    assert errors == sorted(errors, reverse=True)


def test_meter_agrees_with_the_file(codec: Codec) -> None:
    original = photo(256, 384)
    for q in (0.0, 0.5, 1.0):
        data = codec.encode(original, q=q)
        bits = sum(codec.estimate_bits(original, q=q))
        fixed = container.overhead_bytes(data)
        assert fixed <= 40
        assert abs(len(data) - fixed - bits / 8) <= 0.005 * bits / 8 + 6, "an end costs a byte"


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_any_number_of_threads_gives_the_same_image(codec: Codec, steps: int) -> None:
    data = codec.encode(photo(150, 200), q=0.3)
    one, two = (Codec(read_weights("small"), threads=count) for count in (1, 2))
    assert one.encode(photo(150, 200), q=0.3) == data == two.encode(photo(150, 200), q=0.3)
    decoded = [c.decode(data, steps=steps).astype(int) for c in (one, two)]
    assert np.abs(decoded[0] - decoded[1]).max() <= 1, "one grey level"


def test_threads_and_providers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = read_weights("small")
    with pytest.raises(ValueError, match="no provider 'Fast' in this onnxruntime; it has .*CPUExecution"):
        Codec(weights, providers=["Fast"])
    monkeypatch.setenv("SFUMATO_PROVIDERS", "Faster,CPUExecutionProvider")
    with pytest.raises(ValueError, match="no provider 'Faster'"):
        Codec(weights)
    with pytest.raises(ValueError, match="threads is -1"):
        Codec(weights, providers=["CPUExecutionProvider"], threads=-1)


def test_threads_follow_the_environment_up_to_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.transforms import _threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    most = _threads(None)
    assert most >= 1 and _threads(10_000) == most
    for value, expected in (("1", 1), ("1,4", 1), ("many", most), ("99999", most)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert _threads(None) == expected
    assert _threads(1) == 1


def test_prefixes_are_previews_that_get_better(codec: Codec) -> None:
    original = photo(128, 192)
    data = codec.encode(original, q=0.7)
    ends, sizes = [], [len(s.payload) for s in container.unpack(data).sections]
    for number in range(len(sizes)):  # a section ends before its successors, their lengths and checks
        rest = sum(n + 1 + (n > 127) + (n > 16383) for n in sizes[number + 1 :])
        ends.append(len(data) - rest - sum([2, 2, 2, 2, 2, 4][number + 1 :]))
    errors = []
    for end in ends:
        preview = codec.decode(data[:end], partial=True)
        assert preview.shape == original.shape
        errors.append(np.square(preview.astype(float) - original).mean())
    assert errors[-1] < errors[2] < errors[0]
    assert np.array_equal(codec.decode(data[:-1], partial=True), codec.decode(data[: ends[4]], partial=True))
    with pytest.raises(sfumato.FormatError, match="5 of 6 sections"):
        codec.decode(data[:-1])
    with pytest.raises(sfumato.FormatError, match="nothing to show"):
        codec.decode(data[:20], partial=True)


def test_every_prefix_is_a_preview_or_a_format_error(codec: Codec, small_file: bytes) -> None:
    previews = 0
    for end in range(len(small_file)):
        with pytest.raises(sfumato.FormatError):
            codec.decode(small_file[:end])
        try:
            assert codec.decode(small_file[:end], partial=True).shape == (24, 40, 3)
            previews += 1
        except sfumato.FormatError:
            pass
    assert previews > 0


def test_every_flipped_byte_is_a_format_error_or_harmless(codec: Codec, small_file: bytes) -> None:
    """In a process of its own, so that its memory can be measured: at most 200 MB beyond a plain decode."""
    script = textwrap.dedent("""
        import resource, sys
        import numpy as np
        import sfumato
        data = sys.stdin.buffer.read()
        codec = sfumato.load()
        right = codec.decode(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = 0
        for partial in (False, True):
            for at in range(len(data)):
                for flip in (0x01, 0xFF) if not partial else (0x80,):
                    bad = bytearray(data)
                    bad[at] ^= flip
                    try:
                        decoded = codec.decode(bytes(bad), partial=partial)
                    except sfumato.FormatError:
                        refused += 1
                        continue
                    assert partial or np.array_equal(decoded, right), (at, flip)
        print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """)
    done = subprocess.run([sys.executable, "-c", script], input=small_file, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    refused, megabytes = map(int, done.stdout.split())
    assert refused > 2 * len(small_file)
    assert megabytes <= 200


def test_both_sides_see_the_same_q(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, for every byte: a q that differs by 3e-8 once moved means across the grid."""
    seen: list[float] = []
    computed = latents.autoregressive_pass

    def spy(prior, code, q, *rest, **options):  # type: ignore[no-untyped-def]
        seen.append(q)
        return computed(prior, code, q, *rest, **options)

    monkeypatch.setattr(latents, "autoregressive_pass", spy)
    dot = codec.analyze(np.zeros((1, 1, 3), np.uint8))
    for byte in range(0, 256, 15):
        codec.decode(codec.encode(dot, q=byte / 255))
        assert seen[-1] == seen[-2] == byte / 255


def other_weights(path: Path, tensors: Tensors) -> Path:
    """The shipped weights with these tensors instead."""
    path.write_bytes(to_bytes(replace(read_weights("small"), tensors=tensors)))
    return path


def test_weights_by_path_work_through_the_public_functions(tmp_path: Path) -> None:
    tensors = read_weights("small").tensors
    bias = tensors["g_s.head.bias"] + np.float16(0.01)
    path = other_weights(tmp_path / "other.safetensors", {**tensors, "g_s.head.bias": bias})
    data = sfumato.encode(photo(20, 20), model=path)
    assert sfumato.decode(data, model=path).shape == (20, 20, 3)
    with pytest.raises(sfumato.FormatError, match="not in this package"):
        sfumato.decode(data)
    with pytest.raises(TypeError, match="takes the bytes of a file, got str"):
        sfumato.decode("a.sfu")  # type: ignore[arg-type]


def test_a_file_of_another_model_is_refused_by_name(codec: Codec, small_file: bytes) -> None:
    file = container.unpack(small_file)
    other = container.pack(container.Header(40, 24, 1, 0x12345678), file.sections)
    with pytest.raises(sfumato.FormatError, match="12345678"):
        codec.decode(other)
    with pytest.raises(sfumato.FormatError, match="12345678, which is not in this package; here are: small"):
        sfumato.decode(other)


def test_inputs_of_every_kind_give_the_same_file(codec: Codec, tmp_path: Path) -> None:
    pixels = photo(30, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        sources = [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"), file]
        assert len({codec.encode(source) for source in sources}) == 1
    assert sfumato.encode(pixels) == codec.encode(pixels, q=0.5)
    assert np.array_equal(sfumato.decode(codec.encode(pixels)), codec.decode(codec.encode(pixels)))


def with_denoiser(tmp_path: Path) -> Codec:
    """The shipped codec with a denoiser that changes the image."""
    rng = np.random.default_rng(0)
    tensors = {
        name: value + (0.02 * rng.normal(size=value.shape)).astype(np.float16)
        if name.startswith("denoiser.")
        else value
        for name, value in read_weights("small").tensors.items()
    }
    return codec_module.load(other_weights(tmp_path / "denoising.safetensors", tensors))


def test_steps_need_a_trained_denoiser_and_use_the_seed(tmp_path: Path) -> None:
    codec = with_denoiser(tmp_path)
    original = photo(50, 70)
    data = codec.encode(original, seed=7)
    base, one, four = (codec.decode(data, steps=n) for n in (0, 1, 4))
    assert not np.array_equal(base, one) and not np.array_equal(one, four)
    assert np.abs(codec.decode(data, steps=4).astype(int) - four).max() <= 1
    assert np.array_equal(codec.decode(data, steps=4, realism=0.0), base), "the most faithful image"
    half = codec.decode(data, steps=4, realism=0.5)
    inside = (np.minimum(four, base) > 0) & (np.maximum(four, base) < 255)  # the others were clipped
    assert np.abs(half - (base.astype(float) + four) / 2)[inside].max() <= 1
    fresh = codec.decode(data, steps=4, eta=1.0)
    assert not np.array_equal(fresh, four) and np.array_equal(fresh, codec.decode(data, steps=4, eta=1.0))
    other = codec.encode(original, seed=8)
    assert container.unpack(other).header.seed == 8
    assert not np.array_equal(codec.decode(other, steps=4), four)
    assert np.array_equal(codec.decode(other, steps=0), base), "the seed is of no consequence without steps"
    reported: list[str] = []
    codec.decode(data, steps=2, progress=lambda what, part: reported.append(what))
    assert "restoration" in reported and reported[-1] == "done"


def test_whole_files_are_decoded_with_the_default_steps_and_previews_with_none(tmp_path: Path) -> None:
    codec = with_denoiser(tmp_path)
    data, decoded = codec.encode_with_reconstruction(codec.analyze(photo(50, 70)))
    one, none = (codec.decode(data, steps=n) for n in (codec_module.DEFAULT_STEPS, 0))
    assert not np.array_equal(one, none)
    assert np.array_equal(codec.decode(data), one) and np.array_equal(decoded, one)
    assert np.array_equal(codec.decode(data, steps=None), one)
    assert np.array_equal(codec.decode(data, chunks=5), none)
    assert np.array_equal(codec.decode(data, crop=codec_module.Crop(0, 0, 70, 50)), one)
    cut = data[:-1]
    assert np.array_equal(codec.decode(cut, partial=True), codec.decode(cut, partial=True, steps=0))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_crop_with_steps_is_that_part_of_the_whole(tmp_path: Path, steps: int) -> None:
    codec = with_denoiser(tmp_path)
    data = codec.encode(photo(700, 650))
    whole = codec.decode(data, steps=steps).astype(int)
    for x, y, width, height in ((580, 620, 70, 80), (300, 0, 9, 500), (330, 350, 1, 1)):
        part = codec.decode(data, steps=steps, crop=codec_module.Crop(x, y, width, height))
        assert np.abs(part - whole[y : y + height, x : x + width]).max() <= 1
    with pytest.raises(ValueError, match="eta=1 with these weights works on whole images"):
        codec.decode(data, steps=steps, eta=1.0, crop=codec_module.Crop(0, 0, 5, 5))


def test_weights_without_denoiser_say_so(tmp_path: Path) -> None:
    tensors = {k: v for k, v in read_weights("small").tensors.items() if "denoiser" not in k}
    codec = codec_module.load(other_weights(tmp_path / "plain.safetensors", tensors))
    data = codec.encode(photo(8, 8))
    assert np.array_equal(codec.decode(data), codec.decode(data, steps=0))
    with pytest.raises(sfumato.WeightsError, match="no trained denoiser, only steps=0"):
        codec.decode(data, steps=4)


def test_importing_the_package_and_its_bytes_half_is_cheap() -> None:
    script = "import sys, sfumato, sfumato.coder; sfumato.FormatError; print('onnxruntime' in sys.modules)"
    script += "; sfumato.decode(sfumato.encode(sys.argv[1])); print('torch' in sys.modules)"
    photo = Path(__file__).parent.parent / "examples" / "chelsea.png"
    done = subprocess.run([sys.executable, "-c", script, photo], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert set(sfumato.__all__) <= set(dir(sfumato))
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None
    with pytest.raises(AttributeError):
        sfumato.nothing  # noqa: B018


def with_alpha(height: int, width: int) -> np.ndarray:
    """The image behind a round window with a soft edge."""
    row, column = np.mgrid[0:height, 0:width]
    distance = np.hypot(row - height / 2, column - width / 2)
    return np.dstack([photo(height, width), (height / 2 - distance).clip(0, 16).astype(np.uint8) * 15])


def test_alpha_comes_back_exactly_also_of_a_crop(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    original = with_alpha(130, 180)
    monkeypatch.setattr("sfumato.tiles.WHOLE", 0)
    data = codec.encode(original)
    decoded = codec.decode(data)
    assert decoded.shape == original.shape and np.array_equal(decoded[..., 3], original[..., 3])
    seen = original[..., 3] > 0
    assert np.abs(decoded[seen].astype(int) - original[seen]).mean() < 12
    part = codec.decode(data, crop=sfumato.Crop(100, 50, 61, 7))
    decoded = codec.decode(data)
    assert np.array_equal(part[..., 3], original[50:57, 100:161, 3])
    assert np.abs(part.astype(int) - decoded[50:57, 100:161]).max() <= 1
    assert codec.decode(codec.encode(original[..., 2:])).shape == (130, 180, 2)


def test_the_invisible_costs_next_to_nothing(codec: Codec) -> None:
    original = with_alpha(128, 192)
    noisy = original.copy()
    noise = np.random.default_rng(0).integers(0, 256, original.shape, np.uint8)
    noisy[original[..., 3] == 0] = noise[original[..., 3] == 0] * (1, 1, 1, 0)
    assert codec.encode(noisy) == codec.encode(original)
    files = [container.unpack(codec.encode(o)) for o in (original, original[..., :3])]
    colours = [sum(len(section.payload) for section in file.sections) for file in files]
    assert colours[0] < 0.8 * colours[1]


def test_grey_is_one_channel_and_a_profile_keeps_three(codec: Codec) -> None:
    grey = photo(70, 90)[..., 0]
    for source in (grey, np.dstack([grey] * 3)):
        data = codec.encode(source)
        assert container.unpack(data).header.grey and data == codec.encode(grey)
        assert np.abs(codec.decode(data).astype(int) - grey).mean() < 12
    data = codec.encode(sfumato.ImageData(np.dstack([grey] * 3), icc=b"profile"))
    assert codec.decode(data).shape == (70, 90, 3)


def test_what_comes_along_comes_back(codec: Codec) -> None:
    source = sfumato.ImageData(photo(20, 30), None, b"icc", b"II*\0exif", b"<xmp/>")
    data = codec.encode(source)
    back = sfumato.decode_image(data)
    assert (back.icc, back.exif, back.xmp, back.warnings) == (b"icc", b"II*\0exif", b"<xmp/>", ())
    assert np.array_equal(back.pixels, codec.decode(codec.encode(source.pixels)))
    assert codec.encode(source, strip=True) == codec.encode(source.pixels)
    with pytest.raises(ValueError, match=r"metadata of 16777224 bytes \(XMP 16777216\), the limit"):
        codec.encode(sfumato.ImageData(source.pixels, xmp=bytes(1 << 24)))


def test_a_preview_without_alpha_is_opaque_and_says_so(codec: Codec) -> None:
    original = with_alpha(64, 64)
    data = codec.encode(original)
    plane = container.unpack(data).alpha
    assert plane
    preview = codec.decode_image(data[:-1], DecodeOptions(partial=True))
    assert preview.alpha is not None and preview.alpha.min() == 255
    assert preview.warnings[1] == "cut short before the end of alpha: shown opaque"
    assert np.array_equal(preview.pixels, codec.decode(data, steps=0)[..., :3])
    with pytest.raises(sfumato.FormatError, match="inside alpha"):
        codec.decode(data[:-1])
    file = container.unpack(codec.encode(original[:60]))
    other = container.pack(file.header, file.sections, alpha=plane)
    with pytest.raises(sfumato.FormatError, match="alpha: 64x64 pixels, the header says 64x60"):
        codec.decode(other)
