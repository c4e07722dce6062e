"""evaluation.report, summary, comparisons, tables: one reproducible page with the real files."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import comparisons, published, report, summary
from evaluation.codecs import Codec, codec
from evaluation.curves import mean_curves
from evaluation.measure import coded_file
from evaluation.records import SECTIONS, Record
from evaluation.tables import Cell, Table, to_html, to_markdown, to_terminal
from metrics.distortion import psnr
from sfumato.image import read, write
from tests.test_evaluation_codecs import read_npy, smooth_image, write_npy
from tests.test_evaluation_curves import dataset_record, ladder, record

ODD = "<b> & \"a\" 'b'"


CODECS = {
    "jpeg": dataclasses.replace(codec("jpeg"), settings=(10, 40, 90)),
    "webp": dataclasses.replace(codec("webp"), settings=(5, 50, 90)),
    "sfumato": Codec("sfumato", ".sfu", (8, 32, 64), write_npy, read_npy, f"takes {ODD}"),
}


@dataclasses.dataclass
class Run:
    """A folder with coded files, and what `report.write` is given of it."""

    folder: Path
    records: list[Record]
    originals: dict[str, Path]

    def write(self, codecs: Any = CODECS, datasets: Any = (), warnings: Any = (), **options: Any) -> str:
        arguments = (self.records, datasets, self.originals, codecs, warnings)
        path = report.write(self.folder, *arguments, **{"draws": 20} | options)
        assert path == self.folder / "index.html"
        return path.read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three images, one of an odd name, through three codecs."""
    source = tmp_path / "tiny"
    source.mkdir()
    originals = {name: source / f"{name}.png" for name in ("a", "b", ODD)}
    records = []
    for seed, (name, path) in enumerate(originals.items()):
        write(path, smooth_image(40, 56, seed))
        for one in CODECS.values():
            for setting in one.settings:
                target = coded_file(tmp_path / "out", "tiny", one, setting, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                one.encode(read(path), setting, target)
                size = target.stat().st_size
                quality = psnr(read(path), one.decode(target))
                known = {"dataset": "tiny", "width": 56, "height": 40, "bytes": size, "encode_s": 0.5}
                records.append(record(one.name, f"{setting:g}", name, 8 * size / 2240, quality, **known))
    return Run(tmp_path / "out", records, originals)


def compared(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="comparisons">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def embedded(page: str, rendition: dict[str, Any]) -> bytes:
    found = re.search(rf'<script type="text/plain" id="{rendition["data"]}">(.*?)</script>', page)
    assert found
    return base64.b64decode(found[1])


def plain(page: str) -> str:
    """The words of the page, without markup, images, style and script."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", text).split()))


def test_the_page_is_reproducible_and_requests_nothing(run: Run) -> None:
    page = run.write(warnings=["heic: not installed"])
    assert run.write(warnings=["heic: not installed"]) == page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert re.findall(r'href="([^"]*)"', page) == ["data:,", "images.csv"]
    words = plain(page)
    assert "3 images of tiny , 3 codecs, 27 files." in words
    assert "heic: not installed" in words and "What is missing" in words
    assert "published curves are left out" not in words
    assert [path.name for path in run.folder.iterdir() if path.is_file()] == ["index.html"]
    assert not re.search(r"20\d\d-\d\d-\d\d", words)


def test_names_are_escaped_everywhere(run: Run) -> None:
    page = run.write(warnings=[f"{ODD}: unreadable"])
    assert ODD not in page
    words = plain(page)
    assert f"{ODD}: unreadable" in words and f"takes {ODD}" in words
    assert [one["name"] for one in compared(page)] == sorted(run.originals)


def test_browsers_get_the_real_files_and_of_other_codecs_every_sample(run: Run) -> None:
    page = run.write()
    for one in compared(page):
        first, *rest = one["renditions"]
        original = np.asarray(Image.open(io.BytesIO(embedded(page, first))))
        assert np.array_equal(original, read(run.originals[one["name"]]))
        for each in rest:
            name, setting = each["setting"].split()
            path = coded_file(run.folder, "tiny", CODECS[name], float(setting), one["name"])
            assert each["values"][1] == f"{path.stat().st_size:,}" and each["codec"] == name
            if name == "sfumato":
                assert each["mime"] == "image/webp"
                decoded = np.asarray(Image.open(io.BytesIO(embedded(page, each))))
                assert np.array_equal(decoded, read_npy(path))
            else:
                assert embedded(page, each) == path.read_bytes()
        assert one["rows"][3:] == ["PSNR of RGB, dB"]


def test_the_gamma_of_an_original_is_not_applied_by_the_browser(run: Run) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add(b"gAMA", (100000).to_bytes(4, "big"))
    path = run.originals["a"]
    Image.fromarray(read(path)).save(path, pnginfo=chunk)
    assert b"gAMA" in path.read_bytes()
    before = read(path)  # which applies the chunk: the page shows what was measured
    page = run.write()
    [one] = [one for one in compared(page) if one["name"] == "a"]
    data = embedded(page, one["renditions"][0])
    assert b"gAMA" not in data and np.array_equal(np.asarray(Image.open(io.BytesIO(data))), before)


def test_sizes_are_those_of_sfumato_nearest_to_the_targets() -> None:
    sizes = {"sfumato": (900, 1600, 2900, 6000), "jpeg": (1000, 2000, 3000, 4000), "avif": (50,)}
    records = [
        record(name, str(i), "p", size / 10000, 30, bytes=size)
        for name, group in sizes.items()
        for i, size in enumerate(group)
    ]
    chosen = comparisons.choose(records, ["sfumato", "jpeg", "avif", "absent"])
    expected = {"sfumato": (1600, 2900), "jpeg": (2000, 3000), "avif": (50,)}
    assert [(r.codec, r.bytes) for r in chosen] == [
        (n, size) for n, group in expected.items() for size in group
    ]
    assert comparisons.choose([], ["sfumato"]) == []


def test_the_number_of_comparisons_and_the_page_are_limited(run: Run) -> None:
    assert len(compared(run.write(most_shown=2))) == 2
    assert 'id="comparisons"' not in run.write(most_shown=0)
    names = list(run.originals)
    arguments = (run.folder, run.records, run.originals, CODECS, names)
    made, lines = comparisons.comparisons(*arguments, page_limit=1)
    assert [one.name for one in made] == names[:1]
    assert lines == ["the viewer shows 1 images and not 3, to keep the page under 0 MB"]


def test_missing_and_broken_files_are_warnings(run: Run) -> None:
    def fail(path: Path) -> np.ndarray:
        raise RuntimeError("broken stream\nsecond line")

    chosen = comparisons.choose([r for r in run.records if r.image == "a"], ["sfumato", "jpeg", "webp"])
    [first, *_] = [r for r in chosen if r.codec == "jpeg"]
    coded_file(run.folder, "tiny", CODECS["jpeg"], float(first.setting), "a").unlink()
    run.originals["b"].unlink()
    page = run.write(codecs=CODECS | {"sfumato": dataclasses.replace(CODECS["sfumato"], decode=fail)})
    words = plain(page)
    assert f"viewer: a, jpeg {first.setting}: a.jpg: No such file or directory" in words
    assert re.search(r"viewer: a, sfumato \d+: broken stream ", words) and "second line" not in words
    assert "the original of b cannot be shown" in words
    assert str(run.folder) not in page
    assert [one["name"] for one in compared(page)] == sorted({"a", ODD})
    run.folder = run.folder.parent / "elsewhere"
    page = run.write()
    assert "there are no images to compare" in plain(page) and "<section" not in page


def test_errors_name_what_cannot_be_reported(run: Run) -> None:
    with pytest.raises(ValueError, match="records of webp, which is none of the codecs jpeg, sfumato"):
        run.write(codecs={name: CODECS[name] for name in ("jpeg", "sfumato")})
    run.records.remove(next(r for r in run.records if r.codec == "webp" and r.image == "b"))
    assert "b: left out of all means, as it is missing for webp 5" in plain(run.write())
    run.records.append(dataclasses.replace(run.records[0], dataset="other"))
    with pytest.raises(ValueError, match="one data set, got records of other, tiny"):
        run.write()
    run.records.clear()
    with pytest.raises(ValueError, match="got records of none"):
        run.write()


def texts(row: Any) -> list[str]:
    return [cell if isinstance(cell, str) else cell.text for cell in row]


def test_deltas_and_values_at_equal_rate() -> None:
    curves = mean_curves(ladder("sfumato", 0.5, range(6)) + ladder("jpeg", 1.0, range(6)))
    [table], [sentence] = summary.delta_tables(curves, draws=50)
    assert table.title == "sfumato" and list(table.head) == ["over", "PSNR of RGB, dB"]
    note = "−50.0 … −50.0; covers 100 %"
    assert [list(row) for row in table.rows] == [[Cell("jpeg"), Cell("−50.0 %", note)]]
    assert sentence.startswith(
        "At equal PSNR of RGB the files of sfumato are 50 % smaller than those of jpeg ("
    )
    assert sentence.endswith("(95 % interval −50 … −50 %).")
    heading, ours, theirs = summary.equal_rate_table(curves).rows
    assert texts(heading) == ["PSNR of RGB, dB, higher is better"]
    assert texts(ours)[:3] == ["sfumato", "28.25", "32.25"]
    assert [[cell.best for cell in row[1:]] for row in (ours, theirs)] == [[True] * 4, [False] * 4]


def test_best_and_worst_images() -> None:
    records = []
    for i in range(8):
        for k in range(4):
            bpp = 0.1 * 2**k
            records += [
                record("sfumato", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.4 - 0.1 * k - 0.01 * i),
                record("avif", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.4 - 0.1 * k),
                record("jpeg", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.5 - 0.1 * k),
            ]
    found = summary.best_and_worst(mean_curves(records))
    assert found is not None and found.description.startswith(
        "LPIPS (AlexNet) at 0.2 bits per pixel, sfumato beside avif"
    )
    assert found.images == ["p7", "p6", "p5", "p0", "p1", "p2"]
    assert texts(found.table.rows[1]) == ["p7", "0.2300", "0.3000", "−0.0700"]
    assert report.interesting(found.images, [f"p{i}" for i in range(8)], 7) == [*found.images, "p3"]
    assert summary.best_and_worst(mean_curves([r for r in records if r.codec == "avif"])) is None


def test_bitrate_breakdown_and_complexity() -> None:
    bits = dict.fromkeys(SECTIONS, 8.0)
    records = [record("sfumato", "1", p, 1, 30, bytes=12, bits=bits) for p in "ab"]
    palette = dict.fromkeys(SECTIONS, math.nan)  # as a table has it: no latent
    records.append(record("sfumato", "1", "c", 1, 30, bytes=12, bits=palette))
    timed = {"width": 1000, "height": 500, "encode_s": 0.25, "decode_s": 0.125, "peak_mb": 300.0}
    records += [record("jpeg", "1", p, 1, 30, **timed) for p in "ab"]
    curves = mean_curves(records)
    [table] = summary.bitrate_breakdowns(records, curves)
    assert table.title == "sfumato" and texts(table.rows[0]) == ["1", "1.0000", *["8.3 %"] * 6, "50.0 %"]
    rows = summary.complexity_table(records, curves).rows
    assert [texts(row) for row in rows] == [["sfumato", "–", "–", "–"], ["jpeg", "0.500", "0.250", "300"]]


def test_metrics_of_data_sets_come_with_their_crops(run: Run) -> None:
    settings = [(name, f"{setting:g}") for name in CODECS for setting in CODECS[name].settings]
    datasets = [dataset_record(*each, 1.0, 12.5, 0.01) for each in settings]
    words = plain(run.write(datasets=datasets))
    assert "96 crops of 64 pixels" in words and "96 × 64 px" in words and "sets.csv" in words


def test_published_curves_stand_only_beside_their_own_images() -> None:
    all_24 = published.IMAGES["kodak"]
    found, lines = report.published_beside("kodak", all_24)
    assert "VTM" in {curve.codec for curve in found} and published.JPEG not in {c.codec for c in found}
    assert lines == []
    line = "published curves are left out: they are means over other images of kodak"
    assert report.published_beside("kodak", all_24 - {"kodim24"}) == ([], [line])
    assert report.published_beside("clic", {"a"}) == ([], [])
    rows = summary.equal_rate_table(mean_curves(ladder("sfumato", 1.0, range(2))), found).rows
    assert "VTM (published)" in [texts(row)[0] for row in rows]


def test_missing_values_are_dashes_and_not_errors(run: Run) -> None:
    run.records[:] = [dataclasses.replace(r, values={}) for r in run.records]
    words = plain(run.write(most_shown=0))
    assert "At equal rate" in words and "nan" not in words.replace("Bjontegaard", "")
    run.records[:] = [dataclasses.replace(r, values={"psnr_db": math.inf}) for r in run.records]
    assert "58.92" in run.write(most_shown=1), "exact images count as rounded ones"


def test_one_table_in_three_forms() -> None:
    table = Table("T", ["a", "b"], [["part"], ["<x>", Cell("1", "note", best=True)]])
    text = to_html(table)
    assert '<th scope="rowgroup" colspan="2">part</th>' in text
    assert (
        '<th scope="row">&lt;x&gt;</th><td><b class="best">1</b><br><span class="soft">note</span></td>'
        in text
    )
    assert to_markdown(Table("T", ["a", "b"], table.rows[1:])) == "| a | b |\n|---|---|\n| <x> | **1** |\n"
    assert list(to_terminal(table).columns[1].cells) == ["", "1 (note)"]
