"""What several test files share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
from safetensors.torch import save_file

from metrics import features
from metrics.dists import CHANNELS, DISTS, HEADS
from sfumato.__main__ import main
from sfumato.codec import Codec, load
from sfumato.image import write_bytes
from sfumato.weights import Weights, to_bytes
from training.export import export
from training.networks.model import Model
from training.random_weights import calibrated

# A commit passes or fails, whoever runs it and on however slow a machine; fuzz/ looks for new examples.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random numbers are those of the test, not of what ran before it in the same process."""
    torch.manual_seed(0)


def random_metric(folder: Path, net: features.Net) -> Path:
    """Random weights of LPIPS in a folder, of the right shapes: for what does not depend on their values."""
    build, name = features.BACKBONES[net]
    backbone = build()
    save_file(backbone.state_dict(), folder / name)
    channels = [f.shape[1] for f in backbone(torch.zeros(1, 3, 31, 31))]
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    save_file(heads, folder / f"lpips_{net}_v0.1_heads.safetensors")
    return folder


def random_dists(folder: Path) -> DISTS:
    """DISTS with random weights, which are put into a folder."""
    torch.manual_seed(0)
    save_file(features.vgg16().state_dict(), folder / features.BACKBONES["vgg"][1])
    heads = {name: torch.rand(1, sum(CHANNELS), 1, 1) for name in ("alpha", "beta")}
    save_file(heads, folder / HEADS)
    return DISTS(folder)


def image_of_noise() -> torch.Tensor:
    """An image to calibrate random weights on, [1, 3, 64, 64]."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def shipped_form(model: Model) -> Weights:
    """Random weights as `sfumato` reads them."""
    return export(calibrated(model, image_of_noise()))


def ship(model: Model, path: Path) -> Path:
    """Writes them to a file."""
    write_bytes(path, to_bytes(shipped_form(model)))
    return path


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The shipped one."""
    return load()


@pytest.fixture(scope="session")
def data(codec: Codec) -> bytes:
    """A small file of it."""
    from tests.test_codec import photo

    return codec.encode(photo(96, 160), q=0.4)


class Call(NamedTuple):
    """What one call of the command came to."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output, one JSON object a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Call]:
    """The command in this process, where everything is loaded already."""

    def inner(*arguments: object) -> Call:
        monkeypatch.setattr(sys, "argv", ["sfumato", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code
        if isinstance(code, str):  # as the interpreter does
            print(code, file=sys.stderr)
            code = 1
        return Call(int(str(code or 0)), *capsys.readouterr())

    return inner
