"""Images of other domains: out of wheels, measured against AVIF, and the position bias fitted to them."""

from __future__ import annotations

import copy
import csv
import io
import statistics
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fuzz import toy
from sfumato import image
from sfumato.codec import load
from sfumato.distortion import psnr
from studies import domain_bias, domain_images, domain_views, domains
from studies.latents import Base, EntropyNetworks, Schedule, reference_bits, train
from studies.variants import half_interval
from tests.conftest import random_metric
from training.run_weights import load_weights


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def wheel(path: Path, members: dict[str, np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, pixels in members.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    return path


def test_images_come_out_of_wheels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 256, shape, np.uint8) for shape in ((20, 30), (20, 30, 3)))
    wheels = [
        wheel(tmp_path / "a.whl", {"skimage/data/cell.png": grey, "skimage/data/other.png": grey}),
        wheel(tmp_path / "b.whl", {"deepforest/data/OSBS_029.png": colour}),
    ]
    domain_images.main(wheels, tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")} == {
        "medical/cell.png",
        "aerial/savanna.png",
    }
    with Image.open(tmp_path / "out/medical/cell.png") as opened:
        assert opened.mode == "RGB" and (np.asarray(opened) == grey[..., None]).all()
    assert (image.read(tmp_path / "out/aerial/savanna.png") == colour).all()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(domain_images.MEMBERS) - 2
    assert "left out: medical/ct-head: pip download --no-deps pydicom-data==1.0.0" in lines


def test_a_window_is_linear_inside_and_clipped_outside() -> None:
    values = np.array([[-500.0, -10, 39.5, 89, 500]])
    assert domain_images.windowed(values, 40, 100).tolist() == [[0, 0, 128, 255, 255]]
    assert domain_images.windowed(values).tolist() == [[0, 125, 138, 150, 255]]
    assert domain_images.windowed(np.full((1, 2), 7)).tolist() == [[0, 0]]


def test_dicom_is_windowed_in_its_units_and_inverted(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    stored = np.array([[0, 1000, 1024, 1064, 1100, 4000]], np.uint16)
    file.Rows, file.Columns, file.SamplesPerPixel = *stored.shape, 1
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.WindowCenter, file.WindowWidth = [40, 450], [81, 1500]
    file.PixelData = stored.tobytes()

    def pixels() -> list[int]:
        buffer = io.BytesIO()
        file.save_as(buffer, enforce_file_format=True)
        found: list[int] = domain_images.dicom_pixels(buffer.getvalue())[0].tolist()
        return found

    # the first window, of -0.5 .. 79.5 after the intercept
    assert pixels() == [0, 0, 2, 129, 244, 255]
    file.PhotometricInterpretation = "MONOCHROME1"
    assert pixels() == [255, 255, 253, 126, 11, 0]


def test_sets_are_measured_against_avif(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/one", "a/two", "b/three"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = toy.test_image(96, 128)
        if name == "a/two":  # grey images decode to two dimensions
            pixels = np.repeat(pixels[::-1, :, :1], 3, 2)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "metrics").mkdir()
    random_metric(tmp_path / "metrics", "alex")
    output, model = tmp_path / "found.csv", str(toy.WEIGHTS)

    def run(*folders: str, **options: Any) -> list[dict[str, str]]:
        options = {"model": model, "largest": 100, "weights": tmp_path / "metrics", **options}
        domains.main([tmp_path / folder for folder in folders], output, **options)
        return rows(output)

    found = run("a")
    assert "dists: not measured" in capsys.readouterr().out
    assert [(row["image"], row["q"]) for row in found] == [
        (name, q) for name in ("one", "two") for q in ("0.2", "0.4", "0.6")
    ]
    codec = load(model)
    for row in found:
        pixels = image.read(tmp_path / "a" / f"{row['image']}.png")[:, 14:114]
        data = codec.encode(pixels, q=float(row["q"]))
        assert (int(row["width"]), int(row["height"]), int(row["bytes"])) == (100, 96, len(data))
        assert float(row["bpp"]) == pytest.approx(8 * len(data) / 9600, rel=1e-4)
        x_hat = codec.decode(data)
        x_hat = np.repeat(x_hat[..., None], 3, 2) if x_hat.ndim == 2 else x_hat
        assert float(row["psnr_db"]) == pytest.approx(psnr(pixels, x_hat), rel=1e-4)
        assert sum(float(row[name]) for name in domains.SHARES) == pytest.approx(1, abs=1e-4)
        assert int(row["avif_bytes"]) <= len(data) or row["avif_quality"] == "0"
        assert float(row["lpips_alex"]) > 0 and row["dists"] == row["avif_dists"] == ""
        assert all((row[name] != "") == (row["q"] == "0.4") for name in domains.KNOCKOUTS)
    assert any(float(row["no_global_percent"] or 0) for row in found)

    views = (domain_views.View("a", "two", 0.2, 10, 5),)
    sheet = domain_views.sheet(codec, tmp_path, found, views, 100)
    first, second, _ = (
        np.asarray(sheet)[domain_views.BAR :, place * (domain_views.WIDTH + domain_views.GAP) :][:91, :90]
        for place in range(3)
    )
    assert (first == image.read(tmp_path / "a/two.png")[5:, 24:114]).all()
    row = next(row for row in found if (row["image"], row["q"]) == ("two", "0.2"))
    assert 10 < psnr(np.ascontiguousarray(first), np.ascontiguousarray(second)) != float(row["psnr_db"])
    with pytest.raises(LookupError, match="a/none"):
        domain_views.sheet(codec, tmp_path, found, (domain_views.View("a", "none", 0.2, 0, 0),))

    measured = domains.measured
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(domains, "measured", lambda *args: seen.append(args[-1].shape) or measured(*args))
    both = run("a", "b")
    assert seen == [(96, 100, 3)] and both[:6] == found and len(both) == 9, "only what is missing"

    summary = {
        (line["dataset"], line["q"], line["figure"]): line for line in rows(tmp_path / "found-summary.csv")
    }
    values = [float(row["psnr_db"]) - float(row["avif_psnr_db"]) for row in found if row["q"] == "0.2"]
    line = summary["a", "0.2", "psnr_db_difference"]
    assert float(line["mean"]) == pytest.approx(statistics.mean(values), rel=1e-3, abs=1e-3)
    assert float(line["interval"]) == pytest.approx(half_interval(values), rel=1e-3, abs=1e-3)
    assert summary["b", "0.2", "bpp"]["interval"] == "" and ("a", "0.2", "dists") not in summary
    assert "lpips" not in str(seen) and (tmp_path / "found.svg").stat().st_size > 1000
    output.write_text(output.read_text().replace(found[0]["model"], "00000000"))
    with pytest.raises(SystemExit, match="00000000"):
        run("a")


def test_the_bias_alone_is_fitted(tmp_path: Path) -> None:
    folder = tmp_path / "waves"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(toy.test_image(280 + 8 * number, 256)).save(folder / f"{number}.png")
    Image.fromarray(toy.test_image(64, 256)).save(folder / "small.png")
    domain_bias.main([folder], tmp_path / "bias.csv", str(toy.WEIGHTS), seeds=2, steps=3, windows=1)
    found = rows(tmp_path / "bias.csv")
    assert [(row["seed"], row["chunk"]) for row in found] == [(s, c) for s in "01" for c in "12345"]
    assert {row["images"] for row in found} == {"2"}, "the small one holds no window"
    assert all(row["A"] != row["A_fitted"] and row["sigma"] != row["sigma_fitted"] for row in found)
    assert (
        found[0]["A_fitted"] != found[5]["A_fitted"]
        and found[0]["no_bias_percent"] == found[5]["no_bias_percent"]
    )

    model = load_weights(toy.WEIGHTS).model
    own = domain_bias.latents_of(model, folder, 512)
    assert own.shapes == ((16, 16), (16, 16))
    base = Base(model, own, own, 0, reference_bits(model, own))
    networks = EntropyNetworks(copy.deepcopy(model.h_a), copy.deepcopy(model.prior))
    before = copy.deepcopy(networks.state_dict())
    fitted = train(networks, base, Schedule(2, 1, rate=0.1), 0, lambda name: domain_bias.NAME in name)
    changed = {name for name, value in fitted.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == 10 and all(domain_bias.NAME in name for name in changed)
