"""evaluation: rows of real files, means, equal-rate values, Bjontegaard deltas, and the command."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation import __main__ as command
from evaluation import codecs
from evaluation.codecs import Codec, codec
from evaluation.curves import Curve, at_rate, bd_rate, mean_curves
from evaluation.measure import Row, measure, pictures_in, read_rows, write_rows
from sfumato.image import read, write


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth gradient with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write(folder / "b.png", picture(40, 56, 1))
    write(folder / "a.png", picture(48, 33, 2))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def row(codec: str, setting: str, picture: str, bpp: float, psnr_db: float) -> Row:
    return Row("set", codec, setting, picture, 8, 8, round(8 * bpp), bpp, psnr_db, math.nan, 0.9, 0.1, 0.2)


def curve(bpp: list[float], psnr: list[float]) -> Curve:
    quality = np.array(psnr)
    values = {"psnr_db": quality, "lpips_alex": -quality / 100, "ms_ssim": np.full(len(psnr), np.nan)}
    return Curve("c", tuple(map(str, bpp)), np.array(bpp), values)


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_classical_codecs_spend_real_bytes_and_come_closer_with_quality(
    name: str, folder: Path, tmp_path: Path
) -> None:
    ladder = codec(name)
    short = dataclasses.replace(ladder, settings=(ladder.settings[1], ladder.settings[-1]))
    rows = list(measure(short, pictures_in(folder), None, tmp_path))
    assert [(r.picture, r.width, r.height) for r in rows[::2]] == [("a", 33, 48), ("b", 56, 40)]
    for low, high in zip(rows[::2], rows[1::2], strict=True):
        assert low.dataset == "tiny" and low.codec == name
        assert 0 < low.bytes < high.bytes
        assert low.bpp == 8 * low.bytes / (low.width * low.height)
        assert 15 < low.psnr_db < high.psnr_db
        assert math.isnan(low.lpips_alex) and math.isnan(low.ms_ssim)
        assert low.encode_s > 0 and low.decode_s > 0


def test_file_sizes_are_those_on_disk(folder: Path, tmp_path: Path) -> None:
    [source] = [path for path in pictures_in(folder) if path.stem == "a"]
    jpeg = codec("jpeg")
    jpeg.encode(read(source), 50, tmp_path / "own.jpg")
    rows = list(measure(dataclasses.replace(jpeg, settings=(50,)), [source], None, tmp_path))
    assert rows[0].bytes == (tmp_path / "own.jpg").stat().st_size


def test_sfumato_goes_through_its_public_functions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def encode(image: np.ndarray, q: float, model: str) -> bytes:
        calls.append(q)
        return bytes(image.shape[:2]) + image.tobytes()

    def decode(data: bytes, steps: int, model: str) -> np.ndarray:
        assert (steps, model) == (2, "x.safetensors")
        return np.frombuffer(data[2:], np.uint8).reshape(data[0], data[1], 3)

    monkeypatch.setattr(codecs.sfumato, "encode", encode, raising=False)
    monkeypatch.setattr(codecs.sfumato, "decode", decode, raising=False)
    rows = list(measure(codec("sfumato:2", model="x.safetensors"), pictures_in(folder), None, tmp_path))
    assert calls == [0.0, *[i / 8 for i in range(9)] * 2]  # the first is the warm-up
    assert {r.codec for r in rows} == {"sfumato:2"}
    assert " ".join(r.setting for r in rows[:9]) == "0 0.125 0.25 0.375 0.5 0.625 0.75 0.875 1"
    assert all(r.bytes == 2 + 3 * r.width * r.height and r.psnr_db == math.inf for r in rows)


def test_separate_processes_share_the_file_alone(tmp_path: Path) -> None:
    import os

    one, other = codecs.in_its_own_process(os.getpid), codecs.in_its_own_process(os.getpid)
    assert len({os.getpid(), one(), other()}) == 3 and one() == one()
    sfumato = codec("sfumato", separate=True)
    image = picture(24, 32)
    sfumato.encode(image, 0.5, tmp_path / "x.sfu")
    here = codecs.decode_sfumato(tmp_path / "x.sfu", steps=0, model="small").astype(int)
    assert np.abs(sfumato.decode(tmp_path / "x.sfu") - here).max() <= 1
    with pytest.raises(ValueError, match="q is 7"):
        sfumato.encode(image, 7, tmp_path / "x.sfu")


@pytest.mark.parametrize("name", ["jxl", "", "sfumato:", "sfumato:x", "jpeg:4"])
def test_unknown_codecs_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown codec '{name}'"):
        codec(name)


def test_a_decoded_picture_of_another_size_is_an_error(folder: Path, tmp_path: Path) -> None:
    def encode(image: np.ndarray, setting: float, path: Path) -> None:
        path.write_bytes(b"")

    wrong = Codec("wrong", ".bin", (1,), encode, lambda path: picture(8, 8))
    with pytest.raises(ValueError, match=r"wrong made \[8, 8, 3\] of .*a\.png, \[48, 33, 3\]"):
        list(measure(wrong, pictures_in(folder), None, tmp_path))


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pictures"):
        pictures_in(tmp_path)


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    second = dataclasses.replace(row("a", "2", "p", 1.5, math.inf), lpips_alex=0.25)
    rows = [row("a", "1", "p", 0.5, 30), second]
    path = tmp_path / "deep" / "rows.csv"
    assert write_rows(path, iter(rows)) == rows
    assert path.read_text().splitlines() == [
        "dataset,codec,setting,picture,width,height,bytes,bpp,psnr_db,lpips_alex,ms_ssim,encode_s,decode_s",
        "set,a,1,p,8,8,4,0.5,30,,0.9,0.1,0.2",
        "set,a,2,p,8,8,12,1.5,inf,0.25,0.9,0.1,0.2",
    ]
    again = read_rows(path)
    assert math.isnan(again[0].lpips_alex)
    assert again[1] == rows[1]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns are"):
        read_rows(path)


def test_mean_curves_rise_in_rate() -> None:
    high = [row("a", "9", "p", 2, 40), row("a", "9", "q", 4, 50)]
    low = [row("a", "1", "q", 1, 20), row("a", "1", "p", 0.5, 30)]
    rows = high + low
    [mean] = mean_curves(rows)
    assert mean.settings == ("1", "9")
    assert mean.bpp.tolist() == [0.75, 3]
    assert mean.values["psnr_db"].tolist() == [25, 45]
    assert np.isnan(mean.values["lpips_alex"]).all()
    with pytest.raises(ValueError, match="a: settings 9 and 1 have not the same pictures"):
        mean_curves(rows[:3])


def test_values_at_equal_rate_are_linear_in_log_rate_and_never_extrapolated() -> None:
    c = curve([0.1, 0.4, 1.6], [20, 30, 32])
    assert at_rate(c, "psnr_db", 0.2) == pytest.approx(25)
    assert at_rate(c, "psnr_db", 0.1) == 20
    assert at_rate(c, "psnr_db", 1.6) == 32
    assert math.isnan(at_rate(c, "psnr_db", 0.099))
    assert math.isnan(at_rate(c, "psnr_db", 1.61))


def test_bd_rate_of_half_the_bits_is_minus_fifty_percent() -> None:
    anchor = curve([0.2, 0.4, 0.8, 1.6], [24, 28, 32, 36])
    test = curve([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36])
    for metric in ("psnr_db", "lpips_alex"):
        delta = bd_rate(anchor, test, metric)
        assert delta.percent == pytest.approx(-50)
        assert delta.overlap == pytest.approx(1)
    assert bd_rate(test, anchor, "psnr_db").percent == pytest.approx(100)


def test_bd_rate_is_refused_where_it_means_nothing() -> None:
    test = curve([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36])
    third = curve([0.2, 0.4, 0.8], [32.1, 34, 40])
    assert bd_rate(third, test, "psnr_db").refused == "overlap under a third"
    assert bd_rate(third, test, "psnr_db").overlap == pytest.approx(3.9 / 12)
    assert not bd_rate(curve([0.2, 0.4, 0.8], [31.9, 34, 40]), test, "psnr_db").refused
    assert bd_rate(curve([0.2, 0.4], [50, 60]), test, "psnr_db").overlap == 0
    assert bd_rate(curve([0.2, 0.4, 0.8], [30, 29, 33]), test, "psnr_db").refused == "not monotone"
    assert bd_rate(test, test, "ms_ssim").refused == "not measured"


def test_the_command_writes_the_csv_and_prints_the_tables(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.csv"
    command.main(folder, output, codecs="jpeg,webp")
    rows = read_rows(output)
    assert len(rows) == 2 * (len(codecs.JPEG_QUALITY) + len(codecs.WEBP_QUALITY))
    printed = capsys.readouterr().out
    assert "jpeg, mean of 2" in printed and "webp, mean of 2" in printed
    assert "at equal rate" in printed
    assert "BD-rate" not in printed


def test_tables_of_sfumato_against_the_others() -> None:
    ours = dataclasses.replace(curve([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36]), codec="sfumato")
    anchor = dataclasses.replace(curve([0.2, 0.4, 0.8, 1.6], [24, 28, 32, 36]), codec="jpeg")
    table = command.delta_table(ours, [anchor])
    assert [list(column.cells) for column in table.columns] == [
        ["jpeg"],
        ["-50.0 % (1.00)"],
        ["-50.0 % (1.00)"],
        ["not measured"],
    ]
    rates = command.rate_table([ours, anchor])
    assert list(rates.columns[2].cells)[:2] == ["24.00", "-"]
