"""evaluation.curves: complete records, means of the same images, equal-rate values, deltas, intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from evaluation.curves import Curve, at_rate, at_rate_by_image, bd_rate, complete, mean_curves
from evaluation.metrics import METRICS
from evaluation.published import published_curves
from evaluation.records import DatasetRecord, Record


def record(codec: str, setting: str, image: str, bpp: float, psnr_db: float, **more: Any) -> Record:
    """A record of which only what matters is given; metric values by their names."""
    values = {"psnr_db": psnr_db, **{name: more.pop(name) for name in list(more) if name in METRICS}}
    given: dict[str, Any] = {"dataset": "set", "width": 8, "height": 8, "bytes": round(8 * bpp)}
    given |= {"codec": codec, "setting": setting, "image": image, "bpp": bpp, "values": values}
    return Record(**given | more)


def dataset_record(codec: str, setting: str, bpp: float, fd: float, kid: float) -> DatasetRecord:
    values = {"fd_efflite0": fd, "kid": kid}
    return DatasetRecord(
        dataset="set", codec=codec, setting=setting, bpp=bpp, values=values, crops=96, crop_px=64
    )


def curve(bpp: list[float], psnr: list[float]) -> Curve:
    quality = np.array(psnr)
    values = {"psnr_db": quality, "lpips_alex": -quality / 100, "ms_ssim": np.full(len(psnr), np.nan)}
    return Curve("c", tuple(map(str, bpp)), np.array(bpp), values)


def ladder(codec: str, factor: float, images: Iterable[int], spread: float = 0.0) -> list[Record]:
    """Records whose quality rises 4 dB with every doubling of the rate, `factor` times the usual one."""
    rng = np.random.default_rng(7)
    rows = []
    for image in images:
        own = math.exp(spread * rng.normal())
        for k in range(5):
            bpp = factor * own * 0.1 * 2**k
            rows.append(record(codec, str(k), f"p{image}", bpp, 24.0 + 4 * k + 0.1 * image))
    return rows


def test_mean_curves_rise_in_rate() -> None:
    high = [record("a", "9", "p", 2, 40), record("a", "9", "q", 4, 50)]
    low = [record("a", "1", "q", 1, 20), record("a", "1", "p", 0.5, 30)]
    [mean] = mean_curves(high + low)
    assert mean.settings == ("1", "9")
    assert mean.bpp.tolist() == [0.75, 3]
    assert mean.values["psnr_db"].tolist() == [25, 45]
    assert mean.samples["psnr_db"].images == ("p", "q")
    assert np.isnan(mean.values["lpips_alex"]).all() and not mean.measured("lpips_alex")

    assert set(METRICS) <= set(mean.values)


def test_an_exact_image_counts_as_one_that_was_rounded() -> None:
    rows = [record("a", "1", "p", 1, 30), record("a", "1", "q", 1, math.inf)]
    rounding = 10 * math.log10(255**2 / (1 / 12))  # the variance of U(-1/2, 1/2)
    assert mean_curves(rows)[0].values["psnr_db"] == pytest.approx([(30 + rounding) / 2])


def test_an_image_that_one_setting_lacks_is_left_out_of_all() -> None:
    rows = [record(c, s, p, 1 + int(s), 30) for c in "ab" for s in "12" for p in "pqr"]
    rows.remove(record("b", "2", "q", 3, 30))
    kept, lines = complete(rows)
    assert lines == ["q: left out of all means, as it is missing for b 2"]
    assert {r.image for r in kept} == {"p", "r"} and len(kept) == 8
    assert all(curve.samples["psnr_db"].images == ("p", "r") for curve in mean_curves(rows))
    assert complete(kept) == (kept, [])


def test_a_setting_that_lacks_most_images_is_left_out_itself() -> None:
    rows = [record("a", s, p, 1 + int(s), 30) for s in "12" for p in "pqr"] + [record("a", "3", "p", 4, 30)]
    kept, lines = complete(rows)
    assert lines == ["a, setting 3: left out, has 1 of 3 images"]
    assert kept == rows[:-1]
    assert mean_curves(rows)[0].settings == ("1", "2")


def test_an_image_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="a, setting 1: p comes twice"):
        complete([record("a", "1", "p", 1, 30)] * 2)


def test_a_metric_that_some_images_have_is_compared_on_those_alone() -> None:
    rows = [record(c, s, p, int(s), 30, cer=0.1 * int(s)) for c in "ab" for s in "12" for p in "pq"]
    rows += [record(c, s, "r", 3 * int(s), 30) for c in "ab" for s in "12"]  # no text in it
    one = dataclasses.replace(
        rows[0], values=rows[0].values | {"cer": math.nan}
    )  # and once it could not be read in p
    first, second = mean_curves([one, *rows[1:]])
    for mean in (first, second):
        assert mean.samples["cer"].images == ("q",)
        assert mean.rate("cer").tolist() == [1, 2]
        assert mean.rate("psnr_db").tolist() == mean.bpp.tolist() == pytest.approx([5 / 3, 10 / 3])
        assert at_rate(mean, "cer", 1) == pytest.approx(0.1)
        assert math.isnan(at_rate(mean, "cer", 3))


def test_a_codec_without_a_metric_does_not_take_it_from_the_others() -> None:
    rows = [record("a", s, p, int(s), 30, dists=0.5) for s in "12" for p in "pq"]
    rows += [record("b", s, p, int(s), 30) for s in "12" for p in "pq"]
    first, second = mean_curves(rows)
    assert first.measured("dists") and not second.measured("dists")
    assert bd_rate(first, second, "dists").refused == "not measured"


def test_metrics_of_data_sets_join_the_curves() -> None:
    rows = [record("a", s, "p", int(s), 30) for s in "21"]
    sets = [dataset_record("a", "1", 1.25, 40.0, 0.02), dataset_record("a", "2", 2.5, 20.0, 0.01)]
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


def test_images_have_values_at_equal_rate_too() -> None:
    rows = [record("a", "1", "p", 0.1, 20), record("a", "2", "p", 0.4, 30)]
    rows += [record("a", "1", "q", 0.3, 20), record("a", "2", "q", 0.4, 30)]
    values = at_rate_by_image(mean_curves(rows)[0], "psnr_db", 0.2)
    assert values["p"] == pytest.approx(25) and math.isnan(values["q"])
    assert at_rate_by_image(mean_curves(rows)[0], "dists", 0.2) == {}


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


def test_the_interval_is_repeatable_and_as_wide_as_the_images_differ() -> None:
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


def test_there_is_no_interval_without_images_to_draw_from() -> None:
    few = mean_curves(ladder("anchor", 1.0, range(4)) + ladder("test", 0.5, range(4)))
    assert bd_rate(*few, "psnr_db", draws=20).percent == pytest.approx(-50)
    assert math.isnan(bd_rate(*few, "psnr_db", draws=20).low)
    plain = curve([0.1, 0.2, 0.4, 0.8], [24, 28, 32, 36])
    assert math.isnan(bd_rate(plain, plain, "psnr_db", draws=20).high)


def test_there_is_no_interval_when_many_draws_are_refused() -> None:
    # One image alone makes the mean rise; without it in the draw the curve falls.
    steep = [record("test", str(k), "p0", 0.05 * 2**k, 24.0 + 8 * k) for k in range(5)]
    falls = [
        record("test", str(k), f"p{i}", 0.05 * 2**k, 30.0 - k / 10) for k in range(5) for i in range(1, 12)
    ]
    anchor, test = mean_curves(ladder("anchor", 1.0, range(12)) + steep + falls)
    delta = bd_rate(anchor, test, "psnr_db", draws=100)
    assert not delta.refused and math.isnan(delta.low)


def test_published_curves_are_of_kodak_and_our_metrics() -> None:
    found = {curve.codec: curve for curve in published_curves("Kodak")}
    assert {"VTM", "MS-ILLM", "HiFiC", "ELIC"} <= set(found) and published_curves("clic") == []
    for curve in found.values():
        assert curve.source and set(curve.values) <= {"psnr_db", "ms_ssim", "lpips_alex", "dists"}
        for metric, rate in curve.rates.items():
            assert len(rate) == len(curve.values[metric]) >= 2 and (np.diff(rate) > 0).all()
    assert at_rate(found["VTM"], "psnr_db", 0.2) == pytest.approx(30.2, abs=0.5)
    assert math.isnan(at_rate(found["VTM"], "psnr_db", 10))
    delta = bd_rate(found["VTM"], found["ELIC"], "psnr_db", draws=10)
    assert delta.percent < 0 and math.isnan(delta.low)
