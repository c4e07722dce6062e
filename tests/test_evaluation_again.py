"""An evaluation that goes on from an earlier one: what is kept of it is of the same images and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evaluation import measure
from evaluation.codecs import codec
from evaluation.measure import EvalConfig, images_in
from evaluation.records import write_records
from metrics import efficientnet
from sfumato.image import write
from studies import published, releases
from tests.test_evaluation_codecs import smooth_image
from tests.test_evaluation_curves import record


def weights_in(folder: Path) -> Path:
    torch.manual_seed(0)
    net = efficientnet.EfficientNetLite0()
    for parameter in net.parameters():
        if parameter.ndim == 4:  # else nothing but zeros would come through
            torch.nn.init.kaiming_normal_(parameter)
    folder.mkdir()
    save_file(
        {k: v for k, v in net.state_dict().items() if "num_batches" not in k}, folder / efficientnet.FILE
    )
    return folder


def test_features_and_lines_of_other_images_are_not_kept(tmp_path: Path) -> None:
    images, weights = tmp_path / "set", weights_in(tmp_path / "weights")
    images.mkdir()
    jpeg = dataclasses.replace(codec("jpeg"), settings=(30,))

    def run(out: str, *metrics: str) -> measure.Result:
        config = EvalConfig(images_in(images), [jpeg], tmp_path / out, metrics, weights, jobs=0)
        return measure.measure(config, warn=lambda line: None)

    def paint(seed: int) -> None:
        for name in "ab":
            write(images / f"{name}.png", smooth_image(70, 100, seed + ord(name)))

    paint(1)
    (before,) = run("again", "psnr_db", "fd_efflite0").datasets
    (kept,) = run("again", "psnr_db").datasets
    assert kept.values["fd_efflite0"] == before.values["fd_efflite0"], "nothing has changed"
    paint(7)
    assert run("again", "psnr_db").datasets == [], "a line on the images of before"
    (again,), (fresh,) = (run(out, "psnr_db", "fd_efflite0").datasets for out in ("again", "fresh"))
    assert again.values["fd_efflite0"] == pytest.approx(fresh.values["fd_efflite0"], rel=1e-4)
    assert not np.isclose(again.values["fd_efflite0"], before.values["fd_efflite0"])


def test_means_of_different_images_are_not_compared(tmp_path: Path) -> None:
    def table(folder: str, names: str) -> None:
        (tmp_path / folder).mkdir()
        rows = [record("sfumato", str(s), n, s / 10, 30.0 + s) for n in names for s in (1, 2, 3)]
        write_records(tmp_path / folder / "kodak.csv", rows)

    for folder, names in (("old", "ab"), ("new", "abc"), ("other", "abc")):
        table(folder, names)
    with pytest.raises(SystemExit, match="hold different images of kodak"):
        releases.main(tmp_path / "old", tmp_path / "new", tmp_path / "out.csv")
    releases.main(tmp_path / "other", tmp_path / "new", tmp_path / "out.csv")
    assert "kodak,psnr_db,0.00" in (tmp_path / "out.csv").read_text()
    with pytest.raises(SystemExit, match="not of the images"):
        published.main(tmp_path / "new" / "kodak.csv", tmp_path / "published.csv")
