"""evaluation.report: one page of rows and coded files, the same every time, with real files inside."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import anchors, findings, report, scenes
from evaluation.codecs import Codec, codec
from evaluation.curves import mean_curves
from evaluation.measure import coded_file
from evaluation.rows import Row
from metrics.distortion import psnr
from sfumato.image import read, write
from tests.test_evaluation_curves import Anchor, SetRow, ladder, row

ODD = "<b> & \"a\" 'b'"


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def encode_coarse(picture: np.ndarray, setting: float, path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture // int(setting) * int(setting)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def decode_coarse(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


CODECS = {
    "jpeg": dataclasses.replace(codec("jpeg"), settings=(10, 40, 90)),
    "webp": dataclasses.replace(codec("webp"), settings=(5, 50, 90)),
    "sfumato": Codec("sfumato", ".sfu", (8, 32, 64), encode_coarse, decode_coarse, f"takes {ODD}"),
}


@dataclasses.dataclass
class Run:
    """A folder with coded files, and what `report.write` is given of it."""

    folder: Path
    rows: list[Row]
    originals: dict[str, Path]

    def write(self, **options: Any) -> str:
        given = {"problems": [], "sets": [], "codecs": CODECS, "draws": 20} | options
        sets, codecs, problems = given.pop("sets"), given.pop("codecs"), given.pop("problems")
        path = report.write(self.folder, self.rows, sets, self.originals, codecs, problems, **given)
        assert path == self.folder / "index.html"
        return path.read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three pictures, one of an odd name, through three codecs."""
    source = tmp_path / "tiny"
    source.mkdir()
    originals = {name: source / f"{name}.png" for name in ("a", "b", ODD)}
    rows = []
    for seed, (name, path) in enumerate(originals.items()):
        write(path, picture(seed))
        for one in CODECS.values():
            for setting in one.settings:
                target = coded_file(tmp_path / "out", "tiny", one, setting, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                one.encode(read(path), setting, target)
                size = target.stat().st_size
                quality = psnr(read(path), one.decode(target))
                known = {"dataset": "tiny", "width": 56, "height": 40, "bytes": size, "encode_s": 0.5}
                rows.append(row(one.name, f"{setting:g}", name, 8 * size / 2240, quality, **known))
    return Run(tmp_path / "out", rows, originals)


def scene_data(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def shown(page: str, scene: int, version: int) -> bytes:
    found = re.search(rf'<script type="text/plain" id="p{scene}-{version}">(.*?)</script>', page)
    assert found
    return base64.b64decode(found[1])


def plain(page: str) -> str:
    """The words of the page, without markup, pictures, style and script."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", text).split()))


def test_the_same_rows_give_the_same_page_and_nothing_is_fetched(run: Run) -> None:
    page = run.write(problems=["heic: not installed"])
    assert run.write(problems=["heic: not installed"]) == page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert re.findall(r'href="([^"]*)"', page) == ["data:,", "pictures.csv"]
    words = plain(page)
    assert "3 pictures of tiny , 3 codecs, 27 files." in words
    assert "heic: not installed" in words and "What is missing" in words
    assert "published curves are left out" not in words
    assert [path.name for path in run.folder.iterdir() if path.is_file()] == ["index.html"]
    assert not re.search(r"20\d\d-\d\d-\d\d", words)


def test_names_are_escaped_everywhere(run: Run) -> None:
    page = run.write(problems=[f"{ODD}: unreadable"])
    assert ODD not in page
    words = plain(page)
    assert f"{ODD}: unreadable" in words and f"takes {ODD}" in words
    assert [scene["name"] for scene in scene_data(page)] == sorted(run.originals)


def test_browsers_get_the_real_files_and_of_other_codecs_every_sample(run: Run) -> None:
    page = run.write()
    for i, scene in enumerate(scene_data(page)):
        name = scene["name"]
        original = np.asarray(Image.open(io.BytesIO(shown(page, i, 0))))
        assert np.array_equal(original, read(run.originals[name]))
        assert scene["versions"][0]["bytes"] == run.originals[name].stat().st_size
        for j, version in enumerate(scene["versions"][1:], 1):
            of, setting = version["label"].split()
            path = coded_file(run.folder, "tiny", CODECS[of], float(setting), name)
            assert version["bytes"] == path.stat().st_size and version["codec"] == of
            if of == "sfumato":
                assert version["mime"] == "image/webp"
                decoded = np.asarray(Image.open(io.BytesIO(shown(page, i, j))))
                assert np.array_equal(decoded, decode_coarse(path))
            else:
                assert shown(page, i, j) == path.read_bytes()
            assert [figure[0] for figure in version["figures"]] == ["PSNR of RGB, dB"]


def test_the_gamma_of_an_original_is_not_applied_by_the_browser(run: Run) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add(b"gAMA", (100000).to_bytes(4, "big"))
    path = run.originals["a"]
    Image.fromarray(read(path)).save(path, pnginfo=chunk)
    assert b"gAMA" in path.read_bytes()
    before = read(path)  # which knows the chunk: the page shows what was measured
    page = run.write()
    data = shown(page, [scene["name"] for scene in scene_data(page)].index("a"), 0)
    assert b"gAMA" not in data and np.array_equal(np.asarray(Image.open(io.BytesIO(data))), before)


def test_sizes_are_those_of_sfumato_nearest_to_the_targets() -> None:
    sizes = {"sfumato": (900, 1600, 2900, 6000), "jpeg": (1000, 2000, 3000, 4000), "avif": (50,)}
    rows = [
        row(name, str(i), "p", size / 10000, 30, bytes=size)
        for name, group in sizes.items()
        for i, size in enumerate(group)
    ]
    chosen = scenes.choose(rows, ["sfumato", "jpeg", "avif", "absent"])
    assert [(r.codec, r.bytes) for r in chosen] == [
        ("sfumato", 1600),
        ("sfumato", 2900),
        ("jpeg", 2000),
        ("jpeg", 3000),
        ("avif", 50),
    ]
    assert scenes.choose([], ["sfumato"]) == []


def test_the_number_of_scenes_and_the_page_are_limited(run: Run) -> None:
    assert len(scene_data(run.write(most_scenes=2))) == 2
    assert "scenes" not in re.findall(r'id="(\w+)"', run.write(most_scenes=0))
    names = list(run.originals)
    write_some = partial(scenes.scenes, run.folder, run.rows, run.originals, CODECS, names)
    made, lines = write_some(largest_page=1)
    assert [scene.name for scene in made] == names[:1]
    assert lines == ["the viewer shows 1 pictures and not 3, to keep the page under 0 MB"]
    made, lines = write_some()
    assert [scene.name for scene in made] == names and lines == []


def test_missing_and_broken_files_are_told_and_the_rest_is_shown(run: Run) -> None:
    def fail(path: Path) -> np.ndarray:
        raise RuntimeError("broken stream\nsecond line")

    chosen = scenes.choose([r for r in run.rows if r.picture == "a"], ["sfumato", "jpeg", "webp"])
    [first, *_] = [r for r in chosen if r.codec == "jpeg"]
    coded_file(run.folder, "tiny", CODECS["jpeg"], float(first.setting), "a").unlink()
    run.originals["b"].unlink()
    broken = CODECS | {"sfumato": dataclasses.replace(CODECS["sfumato"], decode=fail)}
    page = run.write(codecs=broken)
    words = plain(page)
    assert f"viewer: a, jpeg {first.setting}: a.jpg: No such file or directory" in words
    assert re.search(r"viewer: a, sfumato \d+: broken stream ", words) and "second line" not in words
    assert "the original of b cannot be shown" in words
    assert str(run.folder) not in page
    assert [scene["name"] for scene in scene_data(page)] == sorted({"a", ODD})


def test_without_coded_files_the_page_comes_without_the_viewer(run: Run) -> None:
    run.folder = run.folder.parent / "elsewhere"
    page = run.write()
    assert "there are no pictures to look at" in plain(page)
    assert "<section" not in page and "Look at them" not in page


def test_what_cannot_be_reported_is_named(run: Run) -> None:
    with pytest.raises(ValueError, match="rows of webp, which is none of the codecs jpeg, sfumato"):
        run.write(codecs={name: CODECS[name] for name in ("jpeg", "sfumato")})
    run.rows.append(dataclasses.replace(run.rows[0], dataset="other"))
    with pytest.raises(ValueError, match="one data set, got rows of other, tiny"):
        run.write()
    run.rows.clear()
    with pytest.raises(ValueError, match="got rows of none"):
        run.write()


def test_a_picture_that_is_missing_somewhere_is_told(run: Run) -> None:
    run.rows.remove(next(r for r in run.rows if r.codec == "webp" and r.picture == "b"))
    assert "b: left out of all means, as it is missing for webp 5" in plain(run.write())


def test_tables_say_half_the_bits_and_mark_the_best() -> None:
    curves = mean_curves(ladder("sfumato", 0.5, range(6)) + ladder("jpeg", 1.0, range(6)))
    [table], [gist] = findings.deltas(curves, [], 50)
    assert table.title == "sfumato" and table.headings == ["PSNR of RGB, dB"]
    [line] = table.lines
    assert line.name == "jpeg"
    assert line.cells[0].text == "−50.0 %" and line.cells[0].small == "−50.0 … −50.0; covers 100 %"
    assert gist.startswith("At equal PSNR of RGB the files of sfumato are 50 % smaller than those of jpeg (")
    assert gist.endswith("(95 % interval −50 … −50 %).")
    [equal] = findings.equal_rate(curves, [])
    assert [cell.best for cell in equal.lines[0].cells] == [True] * 4
    assert [cell.best for cell in equal.lines[1].cells] == [False] * 4
    assert [cell.text for cell in equal.lines[0].cells][:2] == ["28.25", "32.25"]


def test_best_and_worst_pictures() -> None:
    rows = []
    for i in range(8):
        for k in range(4):
            bpp = 0.1 * 2**k
            rows.append(row("sfumato", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.4 - 0.1 * k - 0.01 * i))
            rows.append(row("avif", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.4 - 0.1 * k))
            rows.append(row("jpeg", str(k), f"p{i}", bpp, 30.0, lpips_alex=0.5 - 0.1 * k))
    found = findings.extremes(mean_curves(rows))
    assert found is not None and (found.rival, found.rate) == ("avif", "0.2")
    assert found.pictures == ["p7", "p6", "p5", "p0", "p1", "p2"]
    assert found.parts[0].lines[0].cells[-1].text == "−0.0700"
    assert report._interesting(found, [f"p{i}" for i in range(8)], 7) == [*found.pictures, "p3"]
    assert findings.extremes(mean_curves([r for r in rows if r.codec == "avif"])) is None


def test_shares_of_sections_and_costs() -> None:
    bits = {name: 8.0 for name in findings.SECTIONS}
    rows = [row("sfumato", "1", p, 1, 30, bytes=12, **bits) for p in "ab"]
    timed = {"width": 1000, "height": 500, "encode_s": 0.25, "decode_s": 0.125, "peak_mb": 300.0}
    rows += [row("jpeg", "1", p, 1, 30, **timed) for p in "ab"]
    curves = mean_curves(rows)
    [table] = findings.shares(rows, curves)
    assert table.title == "sfumato" and len(table.headings) == 7
    assert [cell.text for cell in table.lines[0].cells] == ["1.0000", *["8.3 %"] * 6, "50.0 %"]
    blank, jpeg = findings.costs(rows, curves)
    assert [cell.text for cell in blank.cells] == ["–", "–", "–"]
    assert [cell.text for cell in jpeg.cells] == ["0.500", "0.250", "300"]


def test_figures_of_sets_come_with_their_crops(run: Run) -> None:
    settings = [(name, f"{setting:g}") for name in CODECS for setting in CODECS[name].settings]
    sets = [SetRow("tiny", *each, 1.0, 12.5, 0.01, 96, 64) for each in settings]
    words = plain(run.write(sets=sets))
    assert "96 crops of 64 pixels" in words and "96 × 64 px" in words and "sets.csv" in words


def test_published_curves_stand_only_beside_their_own_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [Anchor("VTM", "psnr_db", [0.1, 0.4], [28, 34], "paper")]
    known.append(Anchor(anchors.CHECKED, "psnr_db", [1], [30], "only there to check"))
    monkeypatch.setattr(anchors, "anchors", lambda dataset: known if dataset == "kodak" else [])
    all_24 = {f"kodim{i:02d}" for i in range(1, 25)}
    [vtm], lines = report._published("kodak", all_24)
    assert vtm.codec == "VTM" and lines == []
    assert report._published("kodak", all_24 - {"kodim24"}) == (
        [],
        ["published curves are left out: they are means over other pictures of kodak"],
    )
    assert report._published("clic", {"a"}) == ([], [])
    [equal] = findings.equal_rate(mean_curves(ladder("sfumato", 1.0, range(2))), [vtm])
    assert equal.lines[1].name == "VTM (published)"
    assert [cell.text for cell in equal.lines[1].cells] == ["28.00", "31.00", "32.75", "–"]


def test_missing_values_are_dashes_and_not_errors(run: Run) -> None:
    run.rows[:] = [dataclasses.replace(r, psnr_db=math.nan, lpips_alex=math.nan) for r in run.rows]
    words = plain(run.write(most_scenes=0))
    assert "At equal rate" in words and "nan" not in words.replace("Bjontegaard", "")
    run.rows[:] = [dataclasses.replace(r, psnr_db=math.inf) for r in run.rows]
    assert "∞" in run.write(most_scenes=1)
