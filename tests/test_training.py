"""Training: data, loss and loop run on made-up images; a run can be cut and resumed; the loss falls."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import weights
from sfumato.weights import read_weights
from tests.conftest import image_of_noise, random_dists, random_metric
from training import interpolate, record, ship
from training.data import Images, Kind, Mixture
from training.initialise import karhunen_loeve
from training.loop import Progress, Run, choose_parameters, ema, learning_rate, train
from training.losses import Distortion, mse
from training.networks.model import Model
from training.objective import Objective, lmbda
from training.random_weights import calibrated
from training.recipes import RECIPES, Recipe, toy
from training.run_weights import load_weights, save_weights

CPU = torch.device("cpu")


def pixels(seed: int, height: int = 80, width: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width]
    waves = [np.sin(row / rng.uniform(4, 30) + column / rng.uniform(4, 30)) for _ in range(3)]
    return (np.stack(waves, -1) * 100 + 128).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in a folder, two in a tar beside them, one too small."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")
    Image.fromarray(pixels(9, 20, 20)).save(folder / "tiny.png")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i in (3, 4):
            buffer = io.BytesIO()
            Image.fromarray(pixels(i)).save(buffer, "PNG")
            member = tarfile.TarInfo(f"{i}.png")
            member.size = buffer.tell()
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return folder


def run_for(folder: Path, out: Path, seconds: float, **changes: object) -> Run:
    run = Run([folder], None, out, seconds / 60, log_every=1, held_out=1, save_every=100)
    return replace(run, **changes)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_images_come_from_folders_and_tars(folder: Path) -> None:
    images = Images.load([folder], CPU, smallest=64)
    assert len(images) == 5
    found = {bytes(images.image(i).numpy().tobytes()) for i in range(5)}
    assert found == {pixels(i).tobytes() for i in range(5)}
    train_on, held = images.split(2)
    assert (len(train_on), len(held)) == (3, 2)
    assert set(train_on.starts).isdisjoint(held.starts)


def test_missing_or_useless_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        Images.load([tmp_path / "absent"], CPU, 64)
    with pytest.raises(ValueError, match="no image of at least 64 px"):
        Images.load([tmp_path], CPU, 64)


def test_batches_are_crops_in_range_and_repeatable(folder: Path) -> None:
    images = Images.load([folder], CPU, smallest=64)
    mixture = Mixture(images, images, screen_share=0.4, flat_share=0.2)
    a, kinds = mixture.batch(20, 64, np.random.default_rng(5))
    assert {*kinds.tolist()} == {*Kind}
    assert a.shape == (20, 3, 64, 64) and a.min() >= -1 and a.max() <= 1
    assert 0 < (kinds == Kind.SCREEN).sum() < 20, "some crops are known to be rendered"
    assert torch.equal(a, mixture.batch(20, 64, np.random.default_rng(5))[0])
    assert not torch.equal(a, mixture.batch(20, 64, np.random.default_rng(6))[0])
    assert not Mixture(images).batch(20, 64, np.random.default_rng(5))[1].any()
    assert images.centres(64).shape == (5, 3, 64, 64)


def test_lambda_is_log_linear_in_q() -> None:
    recipe = Recipe("small", lmbda=(0.001, 0.1))
    assert lmbda(torch.tensor([0.0, 0.5, 1.0]), recipe).tolist() == pytest.approx([0.001, 0.01, 0.1])


def distortion(folder: Path, recipe: Recipe) -> Distortion:
    """The losses of a recipe, with random networks."""
    random_metric(folder, "squeeze")
    random_dists(folder)
    terms = set(recipe.base_loss) | set(recipe.refined_loss)
    return Distortion(terms, folder, recipe.perceptual_crop, recipe.vgg_crops)


def test_codec_and_denoiser_train_together(tmp_path: Path) -> None:
    model = Model("toy")
    torch.nn.init.normal_(model.denoiser.head.weight, std=0.01)  # type: ignore[union-attr, arg-type]
    parameters = choose_parameters(model, "all")
    loss = {"mse": 0.5, "chroma": 0.1, "grid": 20.0, "lpips": 100.0, "dists": 100.0}
    recipe = replace(toy(), part="all", crop=128, unroll=(1, 2), base_loss=loss, refined_loss=loss, text=3.0)
    objective = Objective(model, recipe, distortion(tmp_path, recipe))
    x, q = torch.rand(2, 3, 128, 128) * 2 - 1, torch.tensor([0.2, 0.8])
    out = objective(x, q, True, torch.tensor([Kind.SCREEN, Kind.PHOTO]))
    out["loss"].mean().backward()
    assert torch.isfinite(out["loss"]).all() and {"grid_refined", "dists_refined", "mse"} < set(out)
    assert all(p.grad is not None for p in parameters)


def test_learning_rate_warms_up_holds_and_falls() -> None:
    recipe = Recipe("small", learning_rate=1.0, warmup=10, decay_start=0.5)
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(recipe, 100, 0.5) == 1.0
    assert learning_rate(recipe, 100, 0.75) == pytest.approx(0.505)
    assert learning_rate(recipe, 100, 1.0) == pytest.approx(0.01)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_name_presets_and_crop_in_whole_hyper_latents(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.crop % 64 == 0 and recipe.perceptual_crop <= recipe.crop
    with torch.device("meta"):
        Model(recipe.preset)


def test_the_loss_falls_on_a_fixed_batch(folder: Path) -> None:
    model = Model("small").train()
    objective = Objective(model, replace(toy(), base_loss={"mse": 1.0}), Distortion({"mse"}, None, 64))
    parameters = choose_parameters(model, "codec")
    optimiser = torch.optim.AdamW(parameters, 1e-3)
    x, _ = Mixture(Images.load([folder], CPU, 64)).batch(2, 64, np.random.default_rng(0))
    q = torch.tensor([0.2, 0.8])
    losses = []
    for _ in range(40):
        loss = objective(x, q, False)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_each_stage_trains_its_own_part() -> None:
    model = Model("small")
    codec = {id(p) for p in choose_parameters(model, "codec")}
    assert not model.has_denoiser
    denoiser = {id(p) for p in choose_parameters(model, "denoiser")}
    assert model.has_denoiser and codec.isdisjoint(denoiser)
    assert len(codec | denoiser) == len(list(model.parameters()))
    assert len(choose_parameters(model, "all")) == len(codec | denoiser) and model.has_denoiser
    with pytest.raises(ValueError, match="part is 'prior'"):
        choose_parameters(model, "prior")


def test_a_run_writes_weights_resumes_and_goes_on_to_the_denoiser(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "codec"
    train(toy(), run_for(folder, out, 2))
    steps = [r["step"] for r in records(out) if "bpp" in r]
    assert steps and [row["q"] for row in records(out)[-1]["validation"]] == [0, 0.25, 0.5, 0.75, 1]
    assert "lpips" not in records(out)[-1]["validation"][0], "without metrics there is nothing to tell"
    assert "lpips" not in records(out)[0]["recipe"]["base_loss"]
    first = load_weights(out / "weights.safetensors")

    spent = torch.load(out / "checkpoint.pt", weights_only=True)["progress"]["seconds"]
    train(toy(), run_for(folder, out, spent + 2))  # the same command with more time goes on where it stopped
    more = [r["step"] for r in records(out) if "bpp" in r]
    assert more[: len(steps)] == steps and more == list(range(1, len(more) + 1)) and len(more) > len(steps)
    second = load_weights(out / "weights.safetensors")
    assert second.model_id != first.model_id and not second.model.has_denoiser

    stage = replace(toy(), part="denoiser")
    with pytest.raises(ValueError, match="is a stage of"):
        train(stage, run_for(folder, out, spent + 9))
    with pytest.raises(ValueError, match="--init"):
        train(stage, run_for(folder, tmp_path / "denoiser", 2))
    other = second.tables | {"fractions.h_s.up1": second.tables["fractions.h_s.up1"] - 1}  # of other images
    next(iter(second.model.g_a.parameters())).flatten()[0] = -0.0  # has to stay what it is
    init = tmp_path / "codec.safetensors"
    name = save_weights(second.model, init, other, {})
    denoised = train(stage, run_for(folder, tmp_path / "denoiser", 2, init=init))
    third = load_weights(denoised)
    assert third.model.has_denoiser and third.model_id == int(name, 16) != second.model_id
    for name, value in second.model.g_a.state_dict().items():
        assert torch.equal(value, third.model.g_a.state_dict()[name]), "the codec is frozen"
    assert float(third.model.denoiser.head.weight.abs().sum()) > 0  # type: ignore[union-attr, operator]

    moved = train(toy(), run_for(folder, tmp_path / "again", 1, init=denoised))
    assert not load_weights(moved).model.has_denoiser, "a codec that moved leaves its denoiser behind"
    run = run_for(folder, tmp_path / "x", 1, init=out / "weights.safetensors")
    with pytest.raises(ValueError, match="cannot grow"):
        train(replace(toy(), preset="small"), run)
    with pytest.raises(ValueError, match="holds preset 'toy', the recipe trains a denoiser of 'small'"):
        train(replace(stage, preset="small"), run)


def test_the_perceptual_loss_trains_and_validates(folder: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    for net in ("squeeze", "alex"):
        random_metric(metrics, net)
    recipe = replace(toy(), perceptual_from=0.0)
    denoiser = replace(recipe, part="denoiser")
    for stage, init in ((recipe, None), (denoiser, tmp_path / "codec" / "weights.safetensors")):
        out = tmp_path / stage.part
        train(stage, run_for(folder, out, 1.5, metrics=metrics, init=init))
        steps = [r for r in records(out) if "loss" in r]
        assert steps and all(np.isfinite(r["lpips"]) and r["lpips"] > 0 for r in steps)
    assert records(tmp_path / "codec")[-1]["validation"][0]["lpips"] > 0


def test_images_that_cannot_be_used_are_named(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png: cannot be read"):
        Images.load([folder], CPU, 64)
    (folder / "broken.png").unlink()
    with pytest.raises(ValueError, match="neither a folder nor a tar"):
        Images.load([folder / "0.png"], CPU, 64)
    with pytest.raises(ValueError, match="held_out is 5"):
        Images.load([folder], CPU, 64).split(5)


def test_training_needs_nothing_that_only_coding_needs() -> None:
    script = (
        "import sys; sys.modules['constriction'] = None; import training.__main__, training.loop;"
        "print([m for m in ('coder', 'codec', 'container') if 'sfumato.' + m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_processes_train_together(folder: Path, tmp_path: Path) -> None:
    """torchrun: data-parallel gradients, one log, one file of weights.

    Without the barrier at the end of `train`, gloo aborted one of two processes that left at different
    times, in one run of twenty; a second try tells a rare abort at exit from a defect.
    """
    for out in (tmp_path / "one", tmp_path / "two"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "training", "toy", "--data", folder, "--out", out, "--minutes", "0.1"]
        done = subprocess.run([*command, "--log-every", "1", "--held-out", "1"], capture_output=True)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr.decode()[:4000]
    steps = [r["step"] for r in records(out) if "bpp" in r]
    assert steps == list(range(1, len(steps) + 1)) and steps
    load_weights(out / "weights.safetensors")


def test_shipping_copies_weights_and_writes_the_record(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(toy(), run_for(folder, tmp_path / "run", 1))
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    old = tmp_path / "results" / "training.csv"
    old.parent.mkdir()
    old.write_text("model_id,notes\n01234567,before there were scores\n")
    for note in ("first", "second"):
        record.main(tmp_path / "run", "toy", "made-up images", "a test", notes=note)
    ship.main(tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "results" / "training.csv").read_text().splitlines()))
    model_id = f"{read_weights('toy').model_id:08x}"
    assert [row["notes"] for row in rows] == ["before there were scores", "first", "second"]
    assert rows[0]["model_id"] == "01234567" and rows[0]["steps"] == ""
    assert rows[1]["model_id"] == model_id and rows[1]["preset"] == "toy" and int(rows[1]["steps"]) > 0
    assert float(rows[1]["bpp_at_q0.5"]) > 0
    times = list(csv.DictReader((tmp_path / "results" / "record.csv").read_text().splitlines()))
    assert [line["minutes_to_score"] for line in times] == ["", ""], "without metrics no score is reached"
    assert (tmp_path / "results" / f"training-toy-{model_id}.jsonl").is_file()


def test_the_record_is_the_first_time_at_which_both_scores_are_reached() -> None:
    def validation(minutes: float, lpips: float, ms_ssim: float) -> dict:
        points = [
            {"bpp": b, "lpips": lpips + 0.1 - b, "ms_ssim": ms_ssim - 0.1 + b} for b in (0.05, 0.1, 0.3)
        ]
        return {"minutes": minutes, "validation": points}

    runs = [validation(5, 0.3, 0.95), validation(10, 0.2, 0.85), validation(15, 0.24, 0.91)]
    assert record.minutes_to_score(runs) == 15
    assert np.isnan(record.minutes_to_score(runs[:2]))


def test_training_starts_from_the_karhunen_loeve_transform() -> None:
    """Untrained, the transforms are already those of the images: orthonormal, largest part first."""
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 12, 12) * 2 - 1, (192, 192), mode="bicubic")
    model = Model("small").eval()
    karhunen_loeve(model, smooth)
    with torch.no_grad():
        y = model.g_a(smooth)
        x_base = model.g_s(y, torch.tensor([0.5])).x_base
    assert mse(smooth, x_base).mean() < 0.01 * mse(smooth, torch.zeros_like(smooth)).mean()
    power = y.square().mean((0, 2, 3))
    assert power[0] > 10 * power[15] > 100 * power[-1]
    assert y.square().sum() == pytest.approx(smooth.square().sum().item(), rel=0.01)
    with pytest.raises(ValueError, match="'paper' is not of the light family"):
        karhunen_loeve(Model("paper"), smooth)


def test_the_moving_average_forgets_its_start() -> None:
    progress, mean, value = Progress(), torch.zeros(1), torch.ones(1)
    update = ema(0.999, progress)
    for progress.step in range(1, 200):
        update([mean], [value], 0)
    assert mean.item() > 0.999, "with a constant decay of 0.999 it would be 0.18"
    progress.step = 10**6
    update([mean], [torch.zeros(1)], 0)
    assert mean.item() == pytest.approx(0.999, abs=1e-3)


def test_the_tail_has_its_own_losses(folder: Path, tmp_path: Path) -> None:
    recipe = replace(toy(), base_loss={"mse": 1.0}, late_loss={"chroma": 1.0}, late_from=0.5)
    assert recipe.at(0.49) == recipe and recipe.at(0.5).base_loss == {"chroma": 1.0}
    assert toy().at(1.0) == toy()
    train(recipe, run_for(folder, tmp_path / "tail", 3))
    steps = [record for record in records(tmp_path / "tail") if "loss" in record]
    assert "chroma" not in steps[0] and "chroma" in steps[-1]


def test_between_two_runs_lie_weights_of_both(folder: Path, tmp_path: Path) -> None:
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        run = calibrated(Model("toy"), image_of_noise())
        ends.append(tmp_path / f"{seed}.safetensors")
        save_weights(run.model, ends[-1], run.tables, {})
    interpolate.main(*ends, share=0.25, data=[folder], out=tmp_path / "mix", held_out=1, crop=64)
    a, b, mix = (load_weights(path).model for path in (*ends, tmp_path / "mix" / "weights.safetensors"))
    assert torch.allclose(mix.g_a.stem.weight, 0.75 * a.g_a.stem.weight + 0.25 * b.g_a.stem.weight, atol=1e-3)
    assert "bpp" in records(tmp_path / "mix")[-1]["validation"][0]
    with pytest.raises(ValueError, match="cannot grow"):
        interpolate.between(a, Model("small"), 0.5)
    with pytest.raises(SystemExit, match=r"0\.\.1"):
        interpolate.main(*ends, share=1.5, data=[folder], out=tmp_path / "x")


def test_a_resumed_stage_keeps_the_diffusion_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    other = {"sigma_b_max": 3.0, "t0": 0.5, "d_min": 0.05}
    first = train(replace(toy(), diffusion=other), run_for(folder, tmp_path / "first", 1))
    second = replace(run_for(folder, tmp_path / "second", 1), init=first)
    train(toy(), second)
    begun = load_weights(tmp_path / "second" / "weights.safetensors").model.diffusion
    train(toy(), replace(second, minutes=second.minutes + 1 / 60))
    resumed = load_weights(tmp_path / "second" / "weights.safetensors").model.diffusion
    assert begun == resumed and {name: begun[name] for name in other} == other


def test_a_recipe_without_its_screens_is_recorded_so(folder: Path, tmp_path: Path) -> None:
    train(replace(toy(), screens=0.5), run_for(folder, tmp_path / "out", 0.5))
    assert records(tmp_path / "out")[0]["recipe"]["screens"] == 0.0
