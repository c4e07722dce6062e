"""evaluation.curves: complete rows, means of the same pictures, equal-rate values, deltas, intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evaluation.curves import (
    METRICS,
    Curve,
    at_rate,
    at_rate_by_picture,
    bd_rate,
    complete,
    mean_curves,
    published,
)
from evaluation.rows import Row


def row(codec: str, setting: str, picture: str, bpp: float, psnr_db: float, **more: Any) -> Row:
    """A row of which only what matters is given."""
    blank: dict[str, Any] = {"str": "", "int": 8, "float": math.nan}
    values = {each.name: blank[str(each.type)] for each in dataclasses.fields(Row)}
    named = {"dataset": "set", "codec": codec, "setting": setting, "picture": picture, "bpp": bpp}
    return Row(**values | named | {"psnr_db": psnr_db, "bytes": round(8 * bpp)} | more)


def curve(bpp: list[float], psnr: list[float]) -> Curve:
    quality = np.array(psnr)
    values = {"psnr_db": quality, "lpips_alex": -quality / 100, "ms_ssim": np.full(len(psnr), np.nan)}
    return Curve("c", tuple(map(str, bpp)), np.array(bpp), values)


@dataclass(frozen=True)
class SetRow:
    dataset: str
    codec: str
    setting: str
    bpp: float
    fd_efflite0: float
    kid: float
    crops: int
    crop_px: int


@dataclass(frozen=True)
class Anchor:
    codec: str
    metric: str
    bpp: list[float]
    value: list[float]
    source: str


def ladder(codec: str, factor: float, pictures: Iterable[int], spread: float = 0.0) -> list[Row]:
    """Rows whose quality rises 4 dB with every doubling of the rate, `factor` times the usual one."""
    rng = np.random.default_rng(7)
    rows = []
    for picture in pictures:
        own = math.exp(spread * rng.normal())
        for k in range(5):
            bpp = factor * own * 0.1 * 2**k
            rows.append(row(codec, str(k), f"p{picture}", bpp, 24.0 + 4 * k + 0.1 * picture))
    return rows


def test_mean_curves_rise_in_rate() -> None:
    high = [row("a", "9", "p", 2, 40), row("a", "9", "q", 4, 50)]
    low = [row("a", "1", "q", 1, 20), row("a", "1", "p", 0.5, 30)]
    [mean] = mean_curves(high + low)
    assert mean.settings == ("1", "9")
    assert mean.bpp.tolist() == [0.75, 3]
    assert mean.values["psnr_db"].tolist() == [25, 45]
    assert mean.samples["psnr_db"].pictures == ("p", "q")
    assert np.isnan(mean.values["lpips_alex"]).all() and not mean.measured("lpips_alex")
    assert set(METRICS) <= set(mean.values)


def test_a_picture_that_one_setting_lacks_is_left_out_of_all() -> None:
    rows = [row(c, s, p, 1 + int(s), 30) for c in "ab" for s in "12" for p in "pqr"]
    rows.remove(row("b", "2", "q", 3, 30))
    kept, lines = complete(rows)
    assert lines == ["q: left out of all means, as it is missing for b 2"]
    assert {r.picture for r in kept} == {"p", "r"} and len(kept) == 8
    assert all(curve.samples["psnr_db"].pictures == ("p", "r") for curve in mean_curves(rows))
    assert complete(kept) == (kept, [])


def test_a_setting_that_lacks_most_pictures_is_left_out_itself() -> None:
    rows = [row("a", s, p, 1 + int(s), 30) for s in "12" for p in "pqr"] + [row("a", "3", "p", 4, 30)]
    kept, lines = complete(rows)
    assert lines == ["a, setting 3: left out, has 1 of 3 pictures"]
    assert kept == rows[:-1]
    assert mean_curves(rows)[0].settings == ("1", "2")


def test_a_picture_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="a, setting 1: p comes twice"):
        complete([row("a", "1", "p", 1, 30)] * 2)


def test_a_metric_that_some_pictures_have_is_compared_on_those_alone() -> None:
    rows = [row(c, s, p, int(s), 30, cer=0.1 * int(s)) for c in "ab" for s in "12" for p in "pq"]
    rows += [row(c, s, "r", 3 * int(s), 30) for c in "ab" for s in "12"]  # no text in it
    one = dataclasses.replace(rows[0], cer=math.nan)  # and once it could not be read in p
    first, second = mean_curves([one, *rows[1:]])
    for mean in (first, second):
        assert mean.samples["cer"].pictures == ("q",)
        assert mean.rate("cer").tolist() == [1, 2]
        assert mean.rate("psnr_db").tolist() == mean.bpp.tolist() == pytest.approx([5 / 3, 10 / 3])
        assert at_rate(mean, "cer", 1) == pytest.approx(0.1)
        assert math.isnan(at_rate(mean, "cer", 3))


def test_a_codec_without_a_metric_does_not_take_it_from_the_others() -> None:
    rows = [row("a", s, p, int(s), 30, dists=0.5) for s in "12" for p in "pq"]
    rows += [row("b", s, p, int(s), 30) for s in "12" for p in "pq"]
    first, second = mean_curves(rows)
    assert first.measured("dists") and not second.measured("dists")
    assert bd_rate(first, second, "dists").refused == "not measured"


def test_figures_of_sets_join_the_curves() -> None:
    rows = [row("a", s, "p", int(s), 30) for s in "21"]
    sets = [
        SetRow("set", "a", "1", 1.25, 40.0, 0.02, 96, 64),
        SetRow("set", "a", "2", 2.5, 20.0, 0.01, 96, 64),
    ]
    [mean] = mean_curves(rows, sets)
    assert mean.values["kid"].tolist() == [0.02, 0.01]
    assert mean.rate("fd_efflite0").tolist() == [1.25, 2.5]
    [part] = mean_curves(rows, sets[:1])
    assert part.values["kid"][0] == 0.02 and math.isnan(part.values["kid"][1])
    assert bd_rate(part, part, "kid").refused == "not measured"


def test_values_at_equal_rate_are_linear_in_log_rate_and_never_extrapolated() -> None:
    c = curve([0.1, 0.4, 1.6], [20, 30, 32])
    assert at_rate(c, "psnr_db", 0.2) == pytest.approx(25)
    assert at_rate(c, "psnr_db", 0.1) == 20
    assert at_rate(c, "psnr_db", 1.6) == 32
    assert math.isnan(at_rate(c, "psnr_db", 0.099))
    assert math.isnan(at_rate(c, "psnr_db", 1.61))
    assert math.isnan(at_rate(c, "ms_ssim", 0.2)) and math.isnan(at_rate(c, "dists", 0.2))


def test_pictures_have_values_at_equal_rate_too() -> None:
    rows = [row("a", "1", "p", 0.1, 20), row("a", "2", "p", 0.4, 30)]
    rows += [row("a", "1", "q", 0.3, 20), row("a", "2", "q", 0.4, 30)]
    values = at_rate_by_picture(mean_curves(rows)[0], "psnr_db", 0.2)
    assert values["p"] == pytest.approx(25) and math.isnan(values["q"])
    assert at_rate_by_picture(mean_curves(rows)[0], "dists", 0.2) == {}


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
    assert bd_rate(curve([0.2, 0.4], [30, math.inf]), test, "psnr_db").refused == "not measured"
    assert bd_rate(test, test, "ms_ssim").refused == "not measured"
    assert bd_rate(test, test, "dists").refused == "not measured"


def test_the_interval_is_repeatable_and_as_wide_as_the_pictures_differ() -> None:
    anchor_rows = ladder("anchor", 1.0, range(12))
    narrow = mean_curves(anchor_rows + ladder("test", 0.5, range(12)))
    delta = bd_rate(*narrow, "psnr_db", draws=50)
    assert delta.percent == pytest.approx(-50)
    assert (delta.low, delta.high) == pytest.approx((-50, -50))
    wide = mean_curves(anchor_rows + ladder("test", 0.5, range(12), spread=0.3))
    delta = bd_rate(*wide, "psnr_db", draws=200)
    assert delta.low < delta.percent < delta.high and 5 < delta.high - delta.low < 40
    assert bd_rate(*wide, "psnr_db", draws=200) == delta
    assert math.isnan(bd_rate(*wide, "psnr_db").low)


def test_there_is_no_interval_without_pictures_to_draw_from() -> None:
    few = mean_curves(ladder("anchor", 1.0, range(4)) + ladder("test", 0.5, range(4)))
    assert bd_rate(*few, "psnr_db", draws=20).percent == pytest.approx(-50)
    assert math.isnan(bd_rate(*few, "psnr_db", draws=20).low)
    plain = curve([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36])
    assert math.isnan(bd_rate(plain, plain, "psnr_db", draws=20).high)


def test_there_is_no_interval_when_many_draws_are_refused() -> None:
    # One picture alone makes the mean rise; without it in the draw the curve falls.
    steep = [row("test", str(k), "p0", 0.05 * 2**k, 24.0 + 50 * k) for k in range(5)]
    falls = [row("test", str(k), f"p{i}", 0.05 * 2**k, 30.0 - k) for k in range(5) for i in range(1, 12)]
    anchor, test = mean_curves(ladder("anchor", 1.0, range(12)) + steep + falls)
    delta = bd_rate(anchor, test, "psnr_db", draws=100)
    assert not delta.refused and math.isnan(delta.low)


def test_published_curves_join_by_codec() -> None:
    anchors = [
        Anchor("VTM", "psnr_db", [0.4, 0.1], [34, 28], "paper A"),
        Anchor("VTM", "lpips_alex", [0.1, 0.2], [0.3, 0.2], "paper A"),
        Anchor("VTM", "niqe", [0.1], [3.0], "paper A"),
        Anchor("ELIC", "psnr_db", [], [], "paper B"),
    ]
    [vtm] = published(anchors)
    assert vtm.codec == "VTM" and vtm.source == "paper A" and vtm.settings == ()
    assert at_rate(vtm, "psnr_db", 0.2) == pytest.approx(31)
    assert at_rate(vtm, "lpips_alex", 0.1) == pytest.approx(0.3)
    assert math.isnan(at_rate(vtm, "lpips_alex", 0.4))
    test = curve([0.1, 0.2, 0.4], [28, 31, 34])
    delta = bd_rate(vtm, test, "psnr_db", draws=10)
    assert delta.percent == pytest.approx(0, abs=1e-9) and math.isnan(delta.low)
