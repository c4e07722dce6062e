"""Weights that come back or are refused: those of a run, and what `training.export` makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sfumato import weights
from sfumato.codec import Codec
from sfumato.errors import WeightsError
from sfumato.transforms import Transforms
from sfumato.weights import Weights, read_weights, shipped, to_bytes
from tests.conftest import image_of_noise, shipped_form
from training import export as export_module
from training.export import export, verify
from training.networks.layers import pad_with_zeros
from training.networks.model import Model
from training.random_weights import calibrated, tables_of
from training.run_weights import RunWeights, load_weights, save_weights


def random_model(preset: str = "toy", denoiser: bool = True) -> Model:
    torch.manual_seed(0)
    model = Model(preset).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    model.has_denoiser = denoiser
    return model


@pytest.fixture(scope="module")
def trained() -> RunWeights:
    return calibrated(random_model(), image_of_noise())


@pytest.fixture(scope="module")
def toy(trained: RunWeights) -> Weights:
    return export(trained)


def written(toy: Weights, path: Path, **tensors: np.ndarray) -> Path:
    path.write_bytes(to_bytes(replace(toy, tensors={**toy.tensors, **tensors})))
    return path


# of a run


def test_weights_of_a_run_come_back(tmp_path: Path) -> None:
    model = random_model("small", denoiser=False)
    path = tmp_path / "run.safetensors"
    name = save_weights(model, path, tables_of(model, image_of_noise()), {"recipe": "toy"})
    found = load_weights(path)
    assert found.notes == {"recipe": "toy"} and not found.model.has_denoiser
    for key, value in found.model.g_a.state_dict().items():
        assert torch.equal(value, model.g_a.state_dict()[key].half().float())
    again = save_weights(found.model, tmp_path / "again.safetensors", found.tables, {})
    assert again == name == f"{found.model_id:08x}", "saving twice keeps the id"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "run.safetensors"]


def test_fractions_of_version_0_1_in_the_order_of_registration_are_read(tmp_path: Path) -> None:
    model = random_model()
    tables = tables_of(model, image_of_noise())
    save_weights(model, tmp_path / "named.safetensors", tables, {})
    in_order = torch.stack([v for k, v in tables.items() if k.startswith("fractions.")])
    old = {k: v for k, v in tables.items() if not k.startswith("fractions.")} | {"fractions": in_order}
    save_weights(model, tmp_path / "old.safetensors", old, {})
    named, ordered = (load_weights(tmp_path / f"{name}.safetensors") for name in ("named", "old"))
    assert named.fractions == ordered.fractions and len(named.fractions) == len(in_order)
    old["fractions"] = in_order[:-1]
    save_weights(model, tmp_path / "old.safetensors", old, {})
    with pytest.raises(WeightsError, match="holds other tables than preset 'toy' asks for"):
        load_weights(tmp_path / "old.safetensors")


def test_weights_of_a_run_that_cannot_be_used_are_named(tmp_path: Path, toy: Weights) -> None:
    with pytest.raises(WeightsError, match=r"no weights of a run at .*nope"):
        load_weights(tmp_path / "nope.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"broken\.safetensors"):
        load_weights(broken)
    with pytest.raises(WeightsError, match="no weights 'nope'"):
        load_weights("nope")
    few = {name: value for name, value in toy.tensors.items() if name != "g_s.head.bias"}
    broken.write_bytes(to_bytes(replace(toy, tensors=few)))
    with pytest.raises(WeightsError, match=r"cannot be trained on: .* do not fit it: .*g_s\.head"):
        load_weights(broken)
    model = random_model()
    save_weights(model, broken, tables_of(model, image_of_noise()), {})
    tensors = load_file(broken)
    metadata = {"preset": "toy", "model_id": "00000000", "denoiser_id": "00000000"}
    save_file(tensors, broken, metadata)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(broken)


# as they are shipped


@pytest.mark.parametrize("name", ["small", "toy"])
def test_shipped_weights_can_be_trained_on_and_give_the_same_integers(
    name: str, toy: Weights, tmp_path: Path
) -> None:
    """Shipped, as of a run, saved, loaded, exported: every tensor of the entropy model and both ids."""
    source = written(toy, tmp_path / "toy.safetensors") if name == "toy" else name
    shipped_weights = read_weights(source)
    back = load_weights(source)
    save_weights(back.model, tmp_path / "run.safetensors", back.tables, back.notes)
    again = export(load_weights(tmp_path / "run.safetensors"))
    for key, value in shipped_weights.tensors.items():
        if not key.startswith("graph."):
            assert again.tensors[key].dtype == value.dtype, key
            assert np.array_equal(again.tensors[key], value), key
    assert set(again.tensors) == set(shipped_weights.tensors) and again.config == shipped_weights.config
    assert again.model_id == shipped_weights.model_id and again.denoiser_id == shipped_weights.denoiser_id
    assert again.position_bias == shipped_weights.position_bias


def test_exported_weights_come_back(toy: Weights, tmp_path: Path) -> None:
    found = read_weights(written(toy, tmp_path / "toy.safetensors"))
    assert (found.config, found.preset, found.notes) == (toy.config, "toy", {"recipe": "none: random"})
    assert (found.model_id, found.denoiser_id) == (toy.model_id, toy.denoiser_id)
    assert found.position_bias == toy.position_bias and list(found.costs) == list(toy.costs)
    assert set(found.tensors) == set(toy.tensors)
    for name, value in toy.tensors.items():
        assert found.tensors[name].dtype == value.dtype and np.array_equal(found.tensors[name], value), name
        assert name.startswith(("entropy.", "tables.")) == (value.dtype.kind == "i"), "integers, and no more"
        assert value.dtype in (np.float16, np.uint8) or value.dtype.kind == "i"


def test_the_graphs_compute_what_the_networks_do(trained: RunWeights, toy: Weights) -> None:
    verify(trained.model, toy, 1e-4)
    moved = {**toy.tensors, "denoiser.time.0.bias": toy.tensors["denoiser.time.0.bias"] + np.float16(1)}
    with pytest.raises(ValueError, match=r"denoiser: the graph is .* away from the network"):
        verify(trained.model, replace(toy, tensors=moved), 1e-4)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_padding_of_the_transforms_is_exported(padding: str) -> None:
    """The graphs repeat the border where the networks do, and take zeros where those of version 0.1 did."""
    trained = calibrated(random_model(), image_of_noise())
    if padding == "zeros":
        pad_with_zeros(trained.model)
    form = export(trained)
    assert form.config.padding == padding
    verify(trained.model, form, 1e-4)
    assert (b"edge" in form.tensors["graph.g_a"].tobytes()) == (padding == "replicate")


def test_the_id_names_what_decides_symbols_and_base_image(toy: Weights) -> None:
    def ids(name: str) -> tuple[bool, bool]:
        value = toy.tensors[name].copy()
        value.reshape(-1)[0] += 1
        other = replace(toy, tensors={**toy.tensors, name: value})
        return other.model_id != toy.model_id, other.denoiser_id != toy.denoiser_id

    entropy = "entropy.h_s.up1.weight", "entropy.z_mu.embedding", "tables.widths"
    for name in (*entropy, "gain.embedding", "g_s.head.bias"):
        assert ids(name) == (True, False), name
    for name in ("g_a.head.bias", "h_a.down2.bias", "graph.g_s"):
        assert ids(name) == (False, False), "a better encoder serves the files that are there"
    assert ids("denoiser.head.bias") == (False, True)
    backwards = dict(reversed(list(toy.tensors.items())))
    assert replace(toy, tensors=backwards).model_id == toy.model_id, "the order is that of the names"
    blurred = replace(toy, config=replace(toy.config, sigma_b_max=7.0))
    assert blurred.model_id == toy.model_id and blurred.denoiser_id != toy.denoiser_id
    padded = replace(toy, config=replace(toy.config, padding="zeros"))
    assert padded.model_id != toy.model_id


def test_the_diffusion_is_kept_with_the_weights(trained: RunWeights) -> None:
    model = random_model()
    model.set_diffusion(sigma_b_max=3.0, t0=0.25, d_min=0.01, times_power=1.5)
    config = shipped_form(model).config
    assert (config.sigma_b_max, config.t0, config.d_min, config.times_power) == (3.0, 0.25, 0.01, 1.5)
    assert config.schedule == model.schedule


def test_a_diffusion_that_files_cannot_hold_is_not_exported() -> None:
    model = random_model()
    model.set_diffusion(blur_power=4)
    with pytest.raises(ValueError, match="blur_power is 4"):
        shipped_form(model)


@pytest.mark.parametrize("chunks", [(2, 2, 2), (2, 2, 2, 2, 2, 4)])
def test_any_number_of_chunks_codes(chunks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Six once crashed, and three left empty sections in the file."""
    from training.networks import model as model_module

    other = replace(model_module.PRESETS["toy"], chunks=chunks)
    monkeypatch.setitem(model_module.PRESETS, "other", other)
    monkeypatch.setattr(export_module, "costs", lambda preset: ())
    codec = Codec(shipped_form(random_model("other")))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    data = codec.encode(pixels, q=0.8)
    assert codec.decode(data).shape == pixels.shape
    assert len(codec.estimate_bits(pixels)) == len(codec.sections) == 1 + len(chunks)
    assert codec.decode(data, chunks=1).shape == pixels.shape
    with pytest.raises(ValueError, match=f"chunks is 9, not in 0..{len(chunks)}"):
        codec.decode(data, chunks=9)


def test_weights_that_cannot_be_used_are_named(toy: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights 'nope' .*; weights in this package: small"):
        read_weights("nope")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"broken\.safetensors is not a file of weights"):
        read_weights(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"no file of weights of version 3; `python -m training\.export`"):
        read_weights(path)
    data = bytearray(to_bytes(toy))
    data[-1] ^= 1  # of the last tensor's bytes
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged: ids and checksum are"):
        read_weights(path)
    bare = {name: value for name, value in toy.tensors.items() if name != "graph.h_a"}
    path.write_bytes(to_bytes(replace(toy, tensors=bare)))
    with pytest.raises(WeightsError, match=r"lacks graph\.h_a"):
        read_weights(path)
    written(toy, path, **{"graph.g_a": np.zeros(9, np.uint8)})
    with pytest.raises(WeightsError, match="graph of g_a cannot be loaded"):
        Transforms(read_weights(path)).analyze(np.zeros((1, 3, 64, 64), np.float32))
    norm = toy.tensors["entropy.h_s.up1.bias"]
    written(toy, path, **{"entropy.h_s.up1.running_mean": norm})
    with pytest.raises(WeightsError, match="no exact form of layer h_s.up1 with .*running_mean"):
        Codec(read_weights(path))


def test_shipped_weights_are_complete_and_noted() -> None:
    assert shipped(), "the package ships weights"
    for model_id, name in shipped().items():
        found = read_weights(name)
        assert found.model_id == model_id
        assert found.preset == name
        assert "recipe" in found.notes and json.loads(found.notes["recipe"])["preset"] == name
        Codec(found)  # the tables fit the networks
    sizes = [path.stat().st_size for path in weights.FOLDER.glob("*")]
    assert sum(sizes) <= 64 << 20
