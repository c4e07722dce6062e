"""evaluation: metrics, records, workers, measure, the command: what is measured, kept and written."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evaluation import __main__ as command
from evaluation import datasets, measure, metrics, report, workers
from evaluation.codecs import RGB, Codec, codec
from evaluation.measure import EvalConfig, Result, images_in
from evaluation.metrics import Metric, MetricSuite
from evaluation.records import DatasetRecord, Record, read_records, read_table, write_records, write_table
from evaluation.workers import Cost, Worker
from metrics import efficientnet
from sfumato.image import write
from tests.test_evaluation_codecs import read_npy, smooth_image, write_npy
from tests.test_evaluation_curves import dataset_record, record

METRICS = ("psnr_db", "ssimulacra2", "lpips_alex", "fd_efflite0", "kid")


def fail_at_13(image: RGB, setting: float, path: Path) -> None:
    if setting == 13:
        raise RuntimeError("bad luck: 13\nsecond line")
    write_npy(image, setting, path)


def die(image: RGB, setting: float, path: Path) -> None:
    os._exit(1)  # as a crash inside a library does


def never(path: Path) -> RGB:
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class Ran:
    config: EvalConfig
    result: Result
    warnings: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    write(folder / "b.png", smooth_image(70, 100, 1))
    write(folder / "a.png", smooth_image(96, 96, 2))
    write(folder / "a.webp", smooth_image(30, 30, 3))
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run with all that can go wrong in it: two workers, three codecs, missing weights, bad images."""
    weights = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = efficientnet.EfficientNetLite0()
    for parameter in net.parameters():
        if parameter.ndim == 4:  # else nothing but zeros would come through
            torch.nn.init.kaiming_normal_(parameter)
    state = net.state_dict()
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, weights / efficientnet.FILE)
    copy = Codec("copy", ".npy", (1, 13), fail_at_13, read_npy)
    jpeg = dataclasses.replace(codec("jpeg"), settings=(90, 10))
    dying = Codec("dying", ".die", (1, 2, 3), die, never)
    out = tmp_path_factory.mktemp("out")
    config = EvalConfig(images_in(folder), [jpeg, copy, dying], out, METRICS, weights, jobs=2)
    warnings: list[str] = []
    return Ran(config, measure.measure(config, warn=warnings.append), warnings)


def test_records_are_of_real_files_in_a_fixed_order(ran: Ran, folder: Path) -> None:
    records, out = ran.result.records, ran.config.out
    assert [(r.codec, r.setting, r.image) for r in records] == [
        *[("copy", "1", "a"), ("copy", "1", "b")],
        *[("jpeg", "10", "a"), ("jpeg", "10", "b"), ("jpeg", "90", "a"), ("jpeg", "90", "b")],
    ]
    for one in records:
        suffix = {"jpeg": ".jpg", "copy": ".npy"}[one.codec]
        path = out / "files" / "tiny" / one.codec / one.setting / f"{one.image}{suffix}"
        assert one.dataset == "tiny" and one.bytes == path.stat().st_size
        assert one.bpp == pytest.approx(8 * one.bytes / (one.width * one.height), rel=1e-5)
        assert one.encode_s > 0 and one.decode_s > 0 and one.peak_mb > 3 and one.jobs == 2
        assert math.isnan(one.values["lpips_alex"]) and math.isnan(one.bits["bits_z"])
        assert one.computed == "psnr_db ssimulacra2"
    copy, low, high = records[0], records[2], records[4]
    assert (copy.values["psnr_db"], copy.values["ssimulacra2"]) == (math.inf, 100)
    assert low.bytes < high.bytes
    assert all(low.values[name] < high.values[name] for name in ("psnr_db", "ssimulacra2"))
    assert ran.result.originals == {"a": folder / "a.png", "b": folder / "b.png"}


def test_everything_that_fails_is_one_line_and_the_rest_still_comes(ran: Ran) -> None:
    text = "\n".join(ran.warnings)
    assert sorted(ran.warnings) == ran.result.warnings
    assert "lpips_alex: not measured, " in text and "is missing (python -m evaluation weights)" in text
    assert "broken.png: left out: " in text
    assert "a.webp: left out: another image has the same name" in text
    assert "copy 13, a: bad luck: 13\n" in text
    assert "dying 1, a: its process died" in text
    assert "dying: left out from here on, after 3 failures" in text
    assert len(ran.warnings) in (1 + 2 + 2 + 4, 1 + 2 + 2 + 5), text  # two workers may fail at the same time


def test_data_sets_are_measured_on_crops_that_are_counted(ran: Ran) -> None:
    found = ran.result.datasets
    assert [(r.codec, r.setting, r.crops, r.crop_px) for r in found] == [
        ("copy", "1", 3, 64),
        ("jpeg", "10", 3, 64),
        ("jpeg", "90", 3, 64),
    ]
    values = [one.values["fd_efflite0"] for one in found]
    assert values[0] == pytest.approx(0, abs=1e-3) and values[2] < values[1]
    jpeg = [one.bpp for one in ran.result.records if (one.codec, one.setting) == ("jpeg", "10")]
    assert found[1].bpp == pytest.approx(sum(jpeg) / 2, rel=1e-5)


def test_complete_records_are_not_measured_again(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [ran.config.out / name for name in ("images.csv", "sets.csv")]
    before = [path.read_bytes() for path in paths]
    monkeypatch.setattr(Worker, "_call", lambda *arguments: pytest.fail("something was measured"))
    settings = [(90, 10), (1,)]
    good = [dataclasses.replace(c, settings=s) for c, s in zip(ran.config.codecs, settings, strict=False)]
    counts: list[int] = []
    measure.measure(dataclasses.replace(ran.config, codecs=good, jobs=1), counts.append)
    assert sum(counts) == 2 * 3 + 3  # three of the image that cannot be read
    assert before == [path.read_bytes() for path in paths]


def test_changed_files_are_measured_again_and_missing_metrics_added(ran: Ran) -> None:
    files = ran.config.out / "files" / "tiny" / "jpeg"
    (files / "10" / "a.jpg").unlink()
    (files / "10" / "b.jpg").write_bytes(b"shorter")
    kept = files / "90" / "a.jpg"
    stamp = kept.stat().st_mtime_ns
    before = {(r.setting, r.image): r for r in ran.result.records if r.codec == "jpeg"}
    metrics = ("psnr_db", "ms_ssim")
    result = measure.measure(
        dataclasses.replace(ran.config, codecs=ran.config.codecs[:1], metrics=metrics, jobs=1)
    )
    after = {(r.setting, r.image): r for r in result.records if r.codec == "jpeg"}
    assert kept.stat().st_mtime_ns == stamp  # decoded for the new metric, not coded again
    assert after["90", "a"].encode_s == before["90", "a"].encode_s and after["90", "a"].jobs == 2
    assert after["10", "a"].jobs == after["10", "b"].jobs == 1
    for key, one in after.items():
        assert (one.bytes, one.values["psnr_db"]) == (before[key].bytes, before[key].values["psnr_db"])
    assert after["90", "a"].computed == "ms_ssim psnr_db ssimulacra2"
    assert after["90", "a"].values["ssimulacra2"] == before["90", "a"].values["ssimulacra2"]
    assert {r.codec for r in result.records} == {"copy", "jpeg"}  # those of codecs not asked for stay


def test_records_of_another_image_or_codec_are_not_kept(ran: Ran) -> None:
    jpeg = ran.config.codecs[0]
    path = measure.coded_file(ran.config.out, "tiny", jpeg, 90, "a")
    [one] = [r for r in read_records(ran.config.out / "images.csv") if r.key == ("jpeg", 90, "90", "a")]

    def kept(image_id: str, codec: Codec = jpeg, fresh: bool = False) -> Record | None:
        config = dataclasses.replace(ran.config, codecs=[codec], fresh=fresh)
        run = measure._Run(config, lambda count: None, lambda line: None)
        return run._earlier_record(path, "a", image_id, codec, 90)

    assert str(kept(one.image_id)) == str(one)
    assert kept("another") is None and kept(one.image_id, fresh=True) is None
    assert kept(one.image_id, dataclasses.replace(jpeg, description="another version")) is None


class WorkerHere:
    """A worker that codes in this process and whose metrics fail."""

    def encode(self, *arguments: Any) -> Cost:
        return workers.encode(*arguments)

    def decode(self, *arguments: Any) -> tuple[RGB, Cost]:
        return workers.decode(*arguments)

    def compute(self, *arguments: object) -> object:
        raise RuntimeError("no memory\nsecond line")


def test_records_stay_when_metrics_fail_and_a_stopped_run_keeps_them(folder: Path, tmp_path: Path) -> None:
    jpeg = dataclasses.replace(codec("jpeg"), settings=(10, 20, 30, 40, 50))
    config = EvalConfig([folder / "a.png", folder / "b.png"], [jpeg], tmp_path, ("psnr_db",), tmp_path)
    warnings: list[str] = []
    run = measure._Run(config, lambda count: None, warnings.append)
    run.image(WorkerHere(), folder / "a.png")  # type: ignore[arg-type]
    assert warnings == [
        *(f"metrics of jpeg {quality}, a: no memory" for quality in (10, 20, 30)),
        "metrics: left out from here on, after 3 failures",
    ]
    records = read_records(tmp_path / "images.csv")
    assert [one.setting for one in records] == ["10", "20", "30", "40", "50"]
    assert all(math.isnan(one.values["psnr_db"]) and one.computed == "" for one in records)
    run.stopped = True
    run.image(WorkerHere(), folder / "b.png")  # type: ignore[arg-type]
    assert {one.image for one in read_records(tmp_path / "images.csv")} == {"a"}


def test_bad_folders_and_metrics_are_named(ran: Ran, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        images_in(other)
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        images_in(tmp_path / "absent")
    write(other / "a.png", smooth_image(8, 8))
    with pytest.raises(ValueError, match="holds results of 'tiny'; name another folder for 'other'"):
        measure.measure(dataclasses.replace(ran.config, images=images_in(other)))
    with pytest.raises(ValueError, match="unknown metric 'vmaf'; known are psnr_db"):
        MetricSuite(("vmaf",), tmp_path)


def test_a_metric_is_added_by_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipe of docs/building-on-it.md: values, CSV columns and tables follow from the line."""
    from evaluation.curves import mean_curves
    from evaluation.summary import mean_table

    def mean_error(weights: Path) -> metrics.Scorer:
        return metrics.PairMetric(lambda x, x_hat: float(np.abs(x.astype(int) - x_hat).mean()))

    monkeypatch.setitem(metrics.METRICS, "mae", Metric("mean absolute error", -1, mean_error, 1))
    suite = MetricSuite(("mae",), tmp_path)
    reference = suite.reference(np.zeros((4, 4, 3), np.uint8))
    values = suite.compute(reference, np.full((4, 4, 3), 3, np.uint8))
    assert values == {"mae": 3}
    with pytest.raises(ValueError, match=r"decoded to \[2, 4, 3\], the original is \[4, 4, 3\]"):
        suite.compute(reference, np.zeros((2, 4, 3), np.uint8))
    write_records(tmp_path / "a.csv", [record("jpeg", "5", "p", 0.5, 30, **values)])
    table = mean_table(mean_curves(read_records(tmp_path / "a.csv")))
    assert table.head[-1] == "mean absolute error" and table.rows[0][-1] == "3.0"


def test_images_too_small_for_a_metric_have_no_value(tmp_path: Path) -> None:
    suite = MetricSuite(("psnr_db", "ms_ssim", "ssimulacra2"), tmp_path)
    tiny = smooth_image(7, 9)
    values = suite.compute(suite.reference(tiny), tiny)
    assert values["psnr_db"] == math.inf and math.isnan(values["ms_ssim"] + values["ssimulacra2"])


def test_separate_processes_share_the_file_alone(tmp_path: Path) -> None:
    for separate, processes in ((False, 1), (True, 2)):
        worker = Worker(separate, (), tmp_path)
        jpeg, path = codec("jpeg"), tmp_path / "x.jpg"
        cost = worker.encode(jpeg, smooth_image(24, 32), 50, path)
        decoded, _ = worker.decode(jpeg, path)
        assert decoded.shape == (24, 32, 3) and cost.seconds > 0
        assert len(worker._pools) == processes
        worker.close()


def test_a_coding_process_imports_no_torch() -> None:
    program = "import sys, evaluation.workers, evaluation.__main__; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_peak_memory_is_that_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(image: RGB, setting: float, path: Path) -> None:
        path.write_bytes(np.ones(int(setting) << 20, np.uint8)[:8].tobytes())

    if not workers._CLEAR.is_file():
        pytest.skip("the system cannot reset the peak of a process's memory")
    monkeypatch.setattr(workers, "_warm", {"fill"})
    one = Codec("fill", ".bin", (1,), fill, never)
    big = workers.encode(one, smooth_image(8, 8), 200, tmp_path / "a.bin")
    small = workers.encode(one, smooth_image(8, 8), 1, tmp_path / "b.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]
    assert big.peak_mb - small.peak_mb == pytest.approx(200, abs=30)


def test_sections_of_sfumato_files_are_counted_in_bits(tmp_path: Path) -> None:
    import sfumato
    from sfumato import container

    data = sfumato.encode(smooth_image(64, 64), q=0.5)
    (tmp_path / "a.sfu").write_bytes(data)
    bits = measure.section_bits(tmp_path / "a.sfu")
    payloads = [8 * len(section.payload) for section in container.unpack(data).sections]
    assert list(bits) == ["bits_z", *(f"bits_chunk{j}" for j in range(1, 6))]
    assert list(bits.values()) == payloads and 0 < sum(payloads) < 8 * len(data)
    (tmp_path / "a.jpg").write_bytes(data)
    assert measure.section_bits(tmp_path / "a.jpg") == {}


def test_records_survive_the_csv_and_old_files_can_be_read(tmp_path: Path) -> None:
    first = record("a", "2", "p", 1.5, math.inf, lpips_alex=0.25, bits={"bits_z": 12345678.0})
    second = record("a", "10", "p", 0.5, 30.5, computed="psnr_db cer")
    path = tmp_path / "deep" / "records.csv"
    write_records(path, [second, first])
    lines = path.read_text().splitlines()
    old = "dataset,codec,setting,image,width,height,bytes,bpp,psnr_db,lpips_alex,ms_ssim,encode_s,decode_s"
    rest = (
        "lpips_vgg,dists,ssimulacra2,cer,bits_z,bits_chunk1,bits_chunk2,bits_chunk3,bits_chunk4,bits_chunk5"
    )
    assert lines[0] == f"{old},{rest},peak_mb,jobs,image_id,codec_id,metrics"
    assert lines[1] == "set,a,2,p,8,8,12,1.5,inf,0.25,,,,,,,,12345678,,,,,,,1,,,"
    assert lines[2].endswith(",1,,,psnr_db cer")
    back = read_records(path)
    assert back[0].values["psnr_db"] == math.inf and math.isnan(back[0].values["dists"])
    assert (back[0].bits["bits_z"], back[1].computed, back[1].bpp) == (12345678, "psnr_db cer", 0.5)
    path.write_text(old.replace("image", "picture", 1) + "\nset,a,1,p,8,8,4,0.5,30,,0.9,0.1,0.2\n")
    [earlier] = read_records(path)
    assert earlier.values["psnr_db"] == 30 and earlier.computed == "" and "dists" not in earlier.values
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"records\.csv: columns are \['a', 'b'\]"):
        read_records(path)
    path.write_text(old + "\nset,a,1,p,wide,8,4,0.5,30,,0.9,0.1,0.2\n")
    with pytest.raises(ValueError, match=r"records\.csv: line 2: .*'wide'"):
        read_records(path)


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_table(path, DatasetRecord, [dataset_record("c", "1", 0.5, 1.25, math.nan)])
    text = "dataset,codec,setting,bpp,fd_efflite0,kid,crops,crop_px\nset,c,1,0.5,1.25,,96,64\n"
    assert path.read_text() == text
    with pytest.raises(AttributeError):
        write_table(path, DatasetRecord, [object()])
    assert path.read_text() == text and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert str(read_table(path, DatasetRecord)) == str([dataset_record("c", "1", 0.5, 1.25, math.nan)])


def test_crops_are_as_large_as_the_images_of_a_set_allow(tmp_path: Path) -> None:
    write(tmp_path / "small.png", smooth_image(20, 20))
    assert datasets.crop_side([tmp_path / "small.png"]) == 64
    write(tmp_path / "large.png", np.zeros((1024, 1024, 3), np.uint8))
    assert datasets.crop_side([tmp_path / "large.png", tmp_path / "absent.png"]) == 256


def test_the_command_measures_reports_and_copies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []

    def write_page(folder: Path, *arguments: object) -> Path:
        pages.append((folder, *arguments))
        return folder / "index.html"

    monkeypatch.setattr(report, "write", write_page)
    monkeypatch.setattr(measure, "measure", functools.partial(_pretend, tmp_path))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    arguments = [str(folder), "-o", str(tmp_path / "report"), "--codecs", "jpeg,jxl", "--metrics", "psnr_db"]
    command.main([*arguments, "--results", str(tmp_path / "results")])
    [(where, records, of_sets, originals, codecs, warnings)] = pages
    assert where == tmp_path / "report" and [one.codec for one in records] == ["jpeg"] * 4
    assert of_sets == [] and list(originals) == ["a"] and list(codecs) == ["jpeg"]
    assert warnings == [
        "jxl: the package imagecodecs is not installed (pip install imagecodecs)",
        "something happened",
        "retired: records of an earlier run are left out: unknown codec 'retired'; known are "
        "sfumato[:OPTIONS], jpeg, webp, avif, jxl, jpeg2000, heic",
    ]
    with open(tmp_path / "results" / "tiny.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (tmp_path / "results" / "tiny-sets.csv").read_text().startswith("dataset,codec,setting,bpp,")
    shown = capsys.readouterr()
    assert "means of 1 images" in shown.out and "At equal rate" in shown.out and "index.html" in shown.out
    assert "jxl: the package" in shown.err and "something happened" in shown.err


def _pretend(folder: Path, config: EvalConfig, advance: object, warn: Any) -> Result:
    assert config.metrics == ("psnr_db",) and [one.name for one in config.codecs] == ["jpeg"]
    warn("something happened")
    values = zip("1234", [0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36], strict=True)
    records = [record("jpeg", s, "a", bpp, db, dataset="tiny") for s, bpp, db in values]
    retired = dataclasses.replace(records[0], codec="retired")
    return Result([*records, retired], [], {"a": folder / "a.png"}, ["something happened"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "-o", "x"], "absent: no such folder"),
        (["absent", "-o", "x", "--codecs", "vp9"], "unknown codec 'vp9'"),
        (["absent", "-o", "x", "--codecs", ""], "an empty name"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        command.main(arguments)
