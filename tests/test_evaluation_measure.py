"""evaluation.measure, rows, sets, coding, anchors, the command: what is measured, kept, written, told."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evaluation import __main__ as command
from evaluation import anchors, coding, measure, report, sets, tables
from evaluation.codecs import Codec, Picture, codec
from evaluation.commands import codec_of, load_commands
from evaluation.curves import mean_curves
from evaluation.measure import Order, Result, pictures_in
from evaluation.rows import Row, SetRow, read_rows, read_table, write_rows, write_table
from metrics import efficientnet
from sfumato.image import read, write
from tests.test_evaluation_codecs import picture, toml

METRICS = ("psnr_db", "ssimulacra2", "lpips_alex", "fd_efflite0", "kid")
VARYING = {"encode_s", "decode_s", "peak_mb"}


def die(picture: Picture, setting: float, path: Path) -> None:
    os._exit(1)  # as a crash inside a library does


def never(path: Path) -> Picture:
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class Ran:
    order: Order
    result: Result
    told: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    write(folder / "b.png", picture(70, 100, 1))
    write(folder / "a.png", picture(96, 96, 2))
    write(folder / "a.webp", picture(30, 30, 3))
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run with all that can go wrong in it: two lanes, three codecs, missing weights, bad pictures."""
    weights = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = efficientnet.EfficientNetLite0()
    for parameter in net.parameters():
        if parameter.ndim == 4:  # else nothing but zeros would come through
            torch.nn.init.kaiming_normal_(parameter)
    state = net.state_dict()
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, weights / efficientnet.FILE)
    copy = codec_of(load_commands(toml(tmp_path_factory.mktemp("program"), settings=[1, 13]))["copy"])
    jpeg = dataclasses.replace(codec("jpeg"), settings=(90, 10))
    dying = Codec("dying", ".die", (1, 2, 3), die, never)
    out = tmp_path_factory.mktemp("out")
    order = Order(pictures_in(folder), [jpeg, copy, dying], out, METRICS, weights, jobs=2)
    told: list[str] = []
    return Ran(order, measure.measure(order, tell=told.append), told)


def test_rows_are_of_real_files_in_a_fixed_order(ran: Ran, folder: Path) -> None:
    rows, out = ran.result.rows, ran.order.out
    assert [(r.codec, r.setting, r.picture) for r in rows] == [
        *[("copy", "1", "a"), ("copy", "1", "b")],
        *[("jpeg", "10", "a"), ("jpeg", "10", "b"), ("jpeg", "90", "a"), ("jpeg", "90", "b")],
    ]
    for row in rows:
        suffix = {"jpeg": ".jpg", "copy": ".copy"}[row.codec]
        path = out / "files" / "tiny" / row.codec / row.setting / f"{row.picture}{suffix}"
        assert row.dataset == "tiny" and row.bytes == path.stat().st_size
        assert row.bpp == pytest.approx(8 * row.bytes / (row.width * row.height), rel=1e-5)
        assert row.encode_s > 0 and row.decode_s > 0 and row.peak_mb > 3 and row.jobs == 2
        assert math.isnan(row.lpips_alex) and math.isnan(row.bits_z)
        assert row.metrics == "psnr_db ssimulacra2"
    copy, low, high = rows[0], rows[2], rows[4]
    assert copy.psnr_db == math.inf and copy.ssimulacra2 == 100
    assert low.bytes < high.bytes and low.psnr_db < high.psnr_db and low.ssimulacra2 < high.ssimulacra2
    assert str(read_rows(out / "pictures.csv")) == str(rows)
    assert ran.result.originals == {"a": folder / "a.png", "b": folder / "b.png"}


def test_everything_that_fails_is_one_line_and_the_rest_still_comes(ran: Ran) -> None:
    told = "\n".join(ran.told)
    assert sorted(ran.told) == ran.result.problems
    assert "lpips_alex: not measured, " in told and "is missing (python -m evaluation weights)" in told
    assert "broken.png: left out: " in told
    assert "a.webp: left out: a.png has the same name" in told
    assert "copy 13, a.png: copy: " in told and "ended with 1: bad luck: 13" in told
    assert "dying 1, a.png: its process died" in told
    assert "dying: left out from here on, after 3 failures" in told
    assert len(ran.told) in (1 + 2 + 2 + 4, 1 + 2 + 2 + 5), told  # two lanes may fail at the same time


def test_sets_are_measured_on_crops_that_are_counted(ran: Ran) -> None:
    rows = ran.result.sets
    assert [(r.codec, r.setting, r.crops, r.crop_px) for r in rows] == [
        ("copy", "1", 3, 64),
        ("jpeg", "10", 3, 64),
        ("jpeg", "90", 3, 64),
    ]
    assert rows[0].fd_efflite0 == pytest.approx(0, abs=1e-3) and rows[2].fd_efflite0 < rows[1].fd_efflite0
    jpeg = [row.bpp for row in ran.result.rows if row.codec == "jpeg" and row.setting == "10"]
    assert rows[1].bpp == pytest.approx(sum(jpeg) / 2, rel=1e-5)
    assert str(read_table(ran.order.out / "sets.csv", SetRow)) == str(rows)


def test_what_is_there_is_not_measured_again(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ran.order.out / "pictures.csv").read_bytes(), (ran.order.out / "sets.csv").read_bytes()
    monkeypatch.setattr(measure._Lane, "_call", lambda *arguments: pytest.fail("something was measured"))
    good = [
        dataclasses.replace(one, settings=s)
        for one, s in zip(ran.order.codecs, [(90, 10), (1,)], strict=False)
    ]
    rows = []
    measure.measure(dataclasses.replace(ran.order, codecs=good, jobs=1), rows.append)
    assert sum(rows) == 2 * 3 + 3  # three of the picture that cannot be read
    assert before == (
        (ran.order.out / "pictures.csv").read_bytes(),
        (ran.order.out / "sets.csv").read_bytes(),
    )


def test_what_changed_is_measured_again_and_what_is_missing_added(ran: Ran) -> None:
    files = ran.order.out / "files" / "tiny" / "jpeg"
    (files / "10" / "a.jpg").unlink()  # gone
    (files / "10" / "b.jpg").write_bytes(b"shorter")  # another size
    kept = files / "90" / "a.jpg"
    stamp = kept.stat().st_mtime_ns
    before = {(r.setting, r.picture): r for r in ran.result.rows if r.codec == "jpeg"}
    more = dataclasses.replace(ran.order, codecs=ran.order.codecs[:1], metrics=("psnr_db", "ms_ssim"), jobs=1)
    result = measure.measure(more)
    after = {(r.setting, r.picture): r for r in result.rows if r.codec == "jpeg"}
    assert kept.stat().st_mtime_ns == stamp  # decoded for the new metric, not coded again
    assert after["90", "a"].encode_s == before["90", "a"].encode_s and after["90", "a"].jobs == 2
    assert after["10", "a"].jobs == after["10", "b"].jobs == 1
    for key, row in after.items():
        assert (row.bytes, row.psnr_db) == (before[key].bytes, before[key].psnr_db)
    assert after["90", "a"].metrics == "ms_ssim psnr_db ssimulacra2"
    assert after["90", "a"].ssimulacra2 == before["90", "a"].ssimulacra2
    assert {r.codec for r in result.rows} == {"copy", "jpeg"}  # rows of codecs that were not asked for stay


def test_rows_of_another_picture_or_codec_are_not_kept(ran: Ran, folder: Path) -> None:
    run = measure._Run(ran.order, lambda rows: None, lambda line: None)
    jpeg = ran.order.codecs[0]
    [row] = [
        r
        for r in read_rows(ran.order.out / "pictures.csv")
        if (r.codec, r.setting, r.picture) == ("jpeg", "90", "a")
    ]
    path = measure.coded_file(ran.order.out, "tiny", jpeg, 90, "a")
    assert str(run._kept(path, "a", row.picture_id, jpeg, 90)) == str(row)
    assert run._kept(path, "a", "another", jpeg, 90) is None
    newer = dataclasses.replace(jpeg, description="another version")
    run = measure._Run(dataclasses.replace(ran.order, codecs=[newer]), lambda rows: None, lambda line: None)
    assert run._kept(path, "a", row.picture_id, newer, 90) is None
    run = measure._Run(dataclasses.replace(ran.order, fresh=True), lambda rows: None, lambda line: None)
    assert run._kept(path, "a", row.picture_id, jpeg, 90) is None


class LaneHere:
    """A lane that codes in this process and whose judge fails."""

    def encode(self, *arguments: Any) -> coding.Spent:
        return coding.encode(*arguments)

    def decode(self, *arguments: Any) -> tuple[Picture, coding.Spent]:
        return coding.decode(*arguments)

    def judge(self, function: object, *arguments: object) -> object:
        raise RuntimeError("no memory\nsecond line")


def test_rows_stay_when_metrics_fail_and_a_stopped_run_keeps_what_it_has(
    folder: Path, tmp_path: Path
) -> None:
    jpeg = dataclasses.replace(codec("jpeg"), settings=(10, 20, 30, 40, 50))
    order = Order([folder / "a.png", folder / "b.png"], [jpeg], tmp_path, ("psnr_db",), tmp_path)
    told: list[str] = []
    run = measure._Run(order, lambda rows: None, told.append)
    run.picture(LaneHere(), folder / "a.png")  # type: ignore[arg-type]
    assert told == [
        "metrics of jpeg 10, a.png: no memory",
        "metrics of jpeg 20, a.png: no memory",
        "metrics of jpeg 30, a.png: no memory",
        "metrics: left out from here on, after 3 failures",
    ]
    rows = read_rows(tmp_path / "pictures.csv")
    assert [row.setting for row in rows] == ["10", "20", "30", "40", "50"]
    assert all(math.isnan(row.psnr_db) and row.metrics == "" for row in rows)
    run.stopped = True
    run.picture(LaneHere(), folder / "b.png")  # type: ignore[arg-type]
    assert {row.picture for row in read_rows(tmp_path / "pictures.csv")} == {"a"}


def test_a_folder_with_another_data_set_is_refused(ran: Ran, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other / "a.png", picture(8, 8))
    with pytest.raises(ValueError, match="holds results of 'tiny'; name another folder for 'other'"):
        measure.measure(dataclasses.replace(ran.order, pictures=pictures_in(other)))
    with pytest.raises(ValueError, match="unknown metric 'vmaf'"):
        measure.measure(dataclasses.replace(ran.order, metrics=("vmaf",)))


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pictures"):
        pictures_in(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        pictures_in(tmp_path / "absent")


def test_separate_processes_share_the_file_alone(ran: Ran, tmp_path: Path) -> None:
    for separate, processes in ((False, 1), (True, 2)):
        lane = measure._Lane(dataclasses.replace(ran.order, separate=separate), ())
        jpeg, path = codec("jpeg"), tmp_path / "x.jpg"
        spent = lane.encode(jpeg, picture(24, 32), 50, path)
        decoded, _ = lane.decode(jpeg, path)
        assert decoded.shape == (24, 32, 3) and spent.seconds > 0
        assert len(lane._pools) == processes
        lane.close()


def test_a_coding_process_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = "import sys, evaluation.coding, evaluation.__main__; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_peak_memory_is_that_of_the_call() -> None:
    def fill(picture: Picture, setting: float, path: Path) -> None:
        path.write_bytes(np.ones(int(setting) << 20, np.uint8)[:8].tobytes())

    one = Codec("fill", ".bin", (1,), fill, lambda path: picture(8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "_warm", {"fill"})
        if not coding._CLEAR.is_file():
            pytest.skip("the system cannot reset the peak of a process's memory")
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            big = coding.encode(one, picture(8, 8), 200, Path(scratch, "a.bin"))
            small = coding.encode(one, picture(8, 8), 1, Path(scratch, "b.bin"))
            assert sorted(path.name for path in Path(scratch).iterdir()) == ["a.bin", "b.bin"]
    assert big.peak_mb - small.peak_mb == pytest.approx(200, abs=30)


def test_sections_of_sfumato_files_are_counted_in_bits(tmp_path: Path) -> None:
    import sfumato
    from sfumato import container

    data = sfumato.encode(picture(64, 64), q=0.5)
    (tmp_path / "a.sfu").write_bytes(data)
    bits = measure._section_bits(tmp_path / "a.sfu")
    assert list(bits) == ["bits_z", *(f"bits_chunk{j}" for j in range(1, 6))]
    assert sum(bits.values()) + 8 * container.fixed_bytes(data) == 8 * len(data)
    (tmp_path / "a.jpg").write_bytes(data)
    assert measure._section_bits(tmp_path / "a.jpg") == {}


def test_rows_survive_the_csv_and_old_files_can_be_read(tmp_path: Path) -> None:
    first = Row("set", "a", "2", "p", 8, 8, 12, 1.5, math.inf, 0.25, 0.9, 0.1, 0.2, bits_z=12345678.0)
    second = Row("set", "a", "10", "p", 8, 8, 4, 0.5, 30.5, math.nan, 0.9, 0.1, 0.2, metrics="psnr_db cer")
    path = tmp_path / "deep" / "rows.csv"
    write_rows(path, [second, first])
    lines = path.read_text().splitlines()
    old = "dataset,codec,setting,picture,width,height,bytes,bpp,psnr_db,lpips_alex,ms_ssim,encode_s,decode_s"
    assert lines[0].startswith(old + ",lpips_vgg,dists,ssimulacra2,cer,bits_z,")
    assert lines[1].startswith("set,a,2,p,8,8,12,1.5,inf,0.25,0.9,0.1,0.2,,,,,12345678,")
    assert lines[2].startswith("set,a,10,p,8,8,4,0.5,30.5,,0.9,0.1,0.2,")
    assert [str(row) for row in read_rows(path)] == [str(first), str(second)]
    path.write_text(old + "\nset,a,1,p,8,8,4,0.5,30,,0.9,0.1,0.2\n")
    [earlier] = read_rows(path)
    assert earlier.psnr_db == 30 and earlier.metrics == "" and math.isnan(earlier.dists)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"rows\.csv: columns are \['a', 'b'\]"):
        read_rows(path)
    path.write_text(old + "\nset,a,1,p,wide,8,4,0.5,30,,0.9,0.1,0.2\n")
    with pytest.raises(ValueError, match=r"rows\.csv: line 2: .*'wide'"):
        read_rows(path)


def test_crops_are_as_large_as_the_pictures_of_a_set_allow(tmp_path: Path) -> None:
    write(tmp_path / "small.png", picture(20, 20))
    assert sets.crop_side([tmp_path / "small.png"]) == 64
    write(tmp_path / "large.png", np.zeros((1024, 1024, 3), np.uint8))
    assert sets.crop_side([tmp_path / "large.png", tmp_path / "absent.png"]) == 256


def test_published_curves_are_of_kodak_and_our_metrics() -> None:
    found = anchors.anchors("Kodak")
    assert {"VTM", "MS-ILLM", "HiFiC", "ELIC"} <= {anchor.codec for anchor in found}
    assert {anchor.metric for anchor in found} <= {"psnr_db", "ms_ssim", "lpips_alex", "dists"}
    for anchor in found:
        assert anchor.source and len(anchor.bpp) == len(anchor.value) >= 2
        assert anchor.bpp == sorted(anchor.bpp) and 0 < anchor.bpp[0]
    assert len({(anchor.codec, anchor.metric) for anchor in found}) == len(found)
    assert anchors.anchors("clic2020") == []


def test_the_check_of_jpeg_tells_rates_and_decibels_that_differ() -> None:
    [theirs] = [a for a in anchors.anchors("kodak") if (a.codec, a.metric) == (anchors.CHECKED, "psnr_db")]
    qualities = range(5, 100, 5)
    bpp = {quality: [rate, rate] for quality, rate in zip(qualities, theirs.bpp, strict=True)}
    psnr = {quality: [value] for quality, value in zip(qualities, theirs.value, strict=True)}
    assert all(one.agrees for one in anchors.differences(bpp, psnr))
    bpp[50] = [rate * 1.02 for rate in bpp[50]]
    psnr[95] = [psnr[95][0] - 0.3]
    found = anchors.differences(bpp, psnr)
    assert [one.quality for one in found if not one.agrees] == [50, 95]
    assert "!" in str(list(tables.difference_table(found).columns[4].cells)[18])
    with pytest.raises(ValueError, match="expected 5, 10"):
        anchors.differences({5: [0.2]}, {5: [20.0]})


KODAK = Path(
    os.environ.get("SFUMATO_KODAK", Path(__file__).resolve().parents[2] / "shared" / "data" / "kodak")
)


@pytest.mark.skipif(not KODAK.is_dir(), reason="set SFUMATO_KODAK to the folder with the 24 Kodak pictures")
def test_our_jpeg_of_kodak_is_compressais_at_one_quality() -> None:
    jpeg = codec("jpeg-compressai")
    [theirs] = [a for a in anchors.anchors("kodak") if (a.codec, a.metric) == (anchors.CHECKED, "psnr_db")]
    import tempfile

    from metrics.distortion import psnr

    rates, qualities = [], []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "a.jpg")
        for source in pictures_in(KODAK):
            image = read(source)
            jpeg.encode(image, 50, path)
            rates.append(8 * path.stat().st_size / image[..., 0].size)
            qualities.append(psnr(image, jpeg.decode(path)))
    at = list(range(5, 100, 5)).index(50)
    assert np.mean(rates) == pytest.approx(theirs.bpp[at], rel=anchors.RATE_TOLERANCE)
    assert np.mean(qualities) == pytest.approx(theirs.value[at], abs=anchors.PSNR_TOLERANCE)


def test_tables_of_sfumato_against_the_others() -> None:
    rows = []
    for name, factor in (("sfumato", 1.0), ("jpeg", 2.0)):
        for i, (bpp, db) in enumerate(zip([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36], strict=True)):
            rows.append(
                Row("s", name, str(i), "p", 8, 8, 1, factor * bpp, db, math.nan, 0.9 + i / 50, 0.1, 0.2)
            )
    curves = {curve.codec: curve for curve in mean_curves(rows)}
    table = tables.delta_table(curves["sfumato"], [curves["jpeg"]])
    assert [column.header for column in table.columns] == ["over", "PSNR dB", "MS-SSIM"]
    assert [list(column.cells) for column in table.columns] == [["jpeg"], *[["-50.0 % (1.00)"]] * 2]
    rates = tables.rate_table(list(curves.values()))
    assert list(rates.columns[2].cells)[:2] == ["24.00", "-"]
    assert "LPIPS-Alex" not in [column.header for column in tables.curve_table(curves["jpeg"], 1).columns]


def test_the_command_measures_reports_and_copies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []

    def write_page(folder: Path, *arguments: object) -> Path:
        pages.append((folder, *arguments))
        return folder / "index.html"

    monkeypatch.setattr(report, "write", write_page)
    monkeypatch.setattr(measure, "measure", functools.partial(_pretend, tmp_path))
    monkeypatch.setenv("PATH", "")
    commands = toml(tmp_path, encode="gone {input} {output} {setting}")
    arguments = [
        str(folder),
        "-o",
        str(tmp_path / "report"),
        "--codecs",
        "jpeg,copy",
        "--commands",
        str(commands),
    ]
    command.main([*arguments, "--results", str(tmp_path / "results"), "--metrics", "psnr_db"])
    [(where, rows, of_sets, originals, codecs, problems)] = pages
    assert where == tmp_path / "report" and [row.codec for row in rows] == ["jpeg"] * 4
    assert of_sets == [] and list(originals) == ["a"] and list(codecs) == ["jpeg"]
    assert problems == [
        "copy: the program gone is not installed",
        "something happened",
        "retired: rows of an earlier run are left out: unknown codec 'retired'; known are "
        "sfumato[:OPTIONS], jpeg, webp, avif, jxl, jpeg2000, heic, jpeg-compressai",
    ]
    with open(tmp_path / "results" / "tiny.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (tmp_path / "results" / "tiny-sets.csv").read_text().startswith("dataset,codec,setting,bpp,")
    shown = capsys.readouterr()
    assert "jpeg, mean of 1" in shown.out and "at equal rate" in shown.out and "index.html" in shown.out
    assert "copy: the program gone is not installed" in shown.err and "something happened" in shown.err


def _pretend(folder: Path, order: Order, advance: object, tell: object) -> Result:
    assert order.metrics == ("psnr_db",) and [one.name for one in order.codecs] == ["jpeg"]
    tell("something happened")  # type: ignore[operator]
    values = zip("1234", [0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36], strict=True)
    row = Row("tiny", "jpeg", "1", "a", 8, 8, 1, 0.1, 20, math.nan, math.nan, 0.1, 0.2)
    rows = [dataclasses.replace(row, setting=s, bpp=bpp, psnr_db=db) for s, bpp, db in values]
    retired = dataclasses.replace(row, codec="retired")
    return Result([*rows, retired], [], {"a": folder / "a.png"}, ["something happened"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "-o", "x"], "absent: no such folder"),
        (["absent", "-o", "x", "--codecs", "vp9"], "unknown codec 'vp9'"),
        (["absent", "-o", "x", "--codecs", ""], "an empty name"),
        (["absent", "-o", "x", "--commands", "none.toml"], "none.toml"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        command.main(arguments)


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_table(path, SetRow, [SetRow("d", "c", "1", 0.5, 1.25, math.nan, 3, 64)])
    assert (
        path.read_text() == "dataset,codec,setting,bpp,fd_efflite0,kid,crops,crop_px\nd,c,1,0.5,1.25,,3,64\n"
    )
    with pytest.raises(AttributeError):
        write_table(path, SetRow, [object()])
    assert path.read_text().endswith("1.25,,3,64\n") and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
