"""Training from streamed shards: every image, bounded memory, several processes, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_shards import png, tar
from tests.test_training import pixels
from training import streaming
from training.data import Mixture
from training.run_weights import load_weights
from training.streaming import Stream

pytest.importorskip("webdataset")

CPU = torch.device("cpu")


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Four shards of three images, each of one colour that names it."""
    paths = []
    for i in range(4):
        members = {}
        for j in range(3):
            image = Image.new("RGB", (80, 70 + j), (20 * i + 5 * j, 7, 9))
            image.save(tmp_path / "one.png")
            members[f"{i}{j}.png"] = (tmp_path / "one.png").read_bytes()
            members[f"{i}{j}.json"] = b"{}"
        paths.append(str(tar(tmp_path / "shards" / f"{i}.tar", members)))
    return paths


def colours(stream: Stream, passes: int = 1) -> list[int]:
    """Of the images in so many passes, in their order."""
    return [int(a[0, 0, 0]) for n in range(passes) for a in stream._one_pass(n)]


def test_processes_share_the_shards_of_a_pass(shards: list[str]) -> None:
    streams = [Stream(shards, 64, CPU, seed=3, process=i, processes=2) for i in range(2)]
    found = [colours(stream) for stream in streams]
    assert sorted(found[0] + found[1]) == sorted(20 * i + 5 * j for i in range(4) for j in range(3))
    assert len(found[0]) == len(found[1]) == 6
    orders = {tuple(int(a[0, 0, 0]) for a in streams[0]._one_pass(n)) for n in range(8)}
    assert len(orders) > 1, "each pass has an order of its own"
    assert found[0] == colours(Stream(shards, 64, CPU, seed=3, processes=2)), "which follows from the seed"


def test_crops_come_from_a_window_that_moves_on(shards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FIRST", 2)
    window = 3 * 80 * 72 * 3
    stream = Stream(shards, 64, CPU, window=window)
    rng = np.random.default_rng(0)
    seen, largest = set(), 0
    for _ in range(12 * streaming.CROPS_PER_IMAGE):
        x = stream.crop(64, rng, rescaled=0.0)
        assert x.shape == (1, 3, 64, 64)
        seen.add(round((float(x[0, 0, 0, 0]) + 1) * 127.5))
        largest = max(largest, sum(image.nbytes for image in stream._images))
    assert len(seen) > 6 and largest <= window
    again = Stream(shards, 64, CPU, window=window)
    rng = np.random.default_rng(0)
    crops = [again.crop(64, rng, rescaled=0.5) for _ in range(9)]
    third = Stream(shards, 64, CPU, window=window)
    rng = np.random.default_rng(0)
    assert all(torch.equal(crop, third.crop(64, rng, rescaled=0.5)) for crop in crops), "repeatable"
    batch, kinds = Mixture(third).batch(3, 64, rng)
    assert batch.shape == (3, 3, 64, 64) and not kinds.any()
    for used in (stream, again, third):
        used.close()


def test_shards_that_cannot_be_used_are_named(shards: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 shards for 5 processes"):
        Stream(shards, 64, CPU, processes=5)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no image of at least 200 px"):
        Stream(shards, 200, CPU).crop(192, rng, 0.0)
    with pytest.raises(FileNotFoundError, match="absent"):
        Stream([str(tmp_path / "absent.tar")], 64, CPU).crop(64, rng, 0.0)
    broken = str(tar(tmp_path / "broken.tar", {"a.png": b"broken", "b.png": png(side=80)}))
    with pytest.warns(UserWarning, match=r"broken\.tar/a\.png: cannot be read: .*; left out"):
        assert len(list(Stream([broken], 64, CPU)._one_pass(0))) == 1


def workers(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.skipif("SFUMATO_SLOW" not in os.environ, reason="takes minutes: set SFUMATO_SLOW")
def test_two_processes_stream_and_go_on_when_one_is_killed(tmp_path: Path) -> None:
    """torchrun starts both again, from the last checkpoint."""
    images = {f"{i}.png": pixels(i) for i in range(4)}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / name)
    members = {name: (tmp_path / name).read_bytes() for name in images}
    shards = [str(tar(tmp_path / "shards" / f"{i}.tar", members)) for i in range(2)]
    out = tmp_path / "out"
    held = str(tar(tmp_path / "held.tar", members))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "2", "-m", "training", "toy", "--data", held, "--shards", *shards]
    command += ["--out", str(out), "--minutes", "0.1", "--log-every", "1", "--held-out", "1"]
    command += ["--save-every", "0.005"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    limit = time.monotonic() + 120
    log = out / "log.jsonl"
    while process.poll() is None and time.monotonic() < limit:
        if log.exists() and "validation" in log.read_text():  # a checkpoint is there
            break
        time.sleep(0.05)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()[-4000:]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    starts = [i for i, line in enumerate(lines) if "recipe" in line]
    assert len(starts) >= 2 and lines[0]["shards"] == 2
    before, after = lines[: starts[-1]], lines[starts[-1] :]
    steps = [line["step"] for line in after if "bpp" in line]
    first = next(line["step"] for line in before if "validation" in line)
    assert steps[0] > first, "the steps go on from a checkpoint"
    assert steps == list(range(steps[0], steps[-1] + 1))
    load_weights(out / "weights.safetensors")
