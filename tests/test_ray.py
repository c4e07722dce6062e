"""Ray itself: a local cluster of two actors, for the command and for a pipeline of Ray Data.

What one actor does with a shard is in test_shards.py; nodes, kills and buckets are in benchmarks/scale.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sfumato
from sfumato import manifest
from sfumato.job import Decoding, Encoding, UsageError
from sfumato.ray import ONE_THREAD, Converter, connect
from tests.conftest import Call
from tests.test_batch import paint

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", 2)
    yield
    ray.shutdown()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six small images, one of them broken."""
    for i in range(6):
        paint(tmp_path / "in" / f"{i}.png", side=24 + 8 * i, seed=i)
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    return tmp_path / "in"


def test_two_actors_write_what_the_folder_command_writes(
    images: Path, tmp_path: Path, call: Callable[..., Call], cluster: None
) -> None:
    command = ["batch", images, tmp_path / "out", "-q", 0.3, "--shard-size", 2, "--jobs", 2]
    first = call(*command, "--json")
    assert first.returncode == 1, "a file failed"
    call("encode", images, "-o", tmp_path / "ref", "-q", 0.3, "--jobs", 1)
    ours = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.sfu")}
    assert ours == {p.name: p.read_bytes() for p in (tmp_path / "ref").glob("*.sfu")} and len(ours) == 5
    assert sorted(row["input"] for row in first.objects) == [f"{i}.png" for i in range(6)]
    assert [row["input"] for row in first.objects if "error" in row] == ["3.png"]
    lines = (tmp_path / "out" / manifest.ERRORS).read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("3.png,")
    again = call(*command)
    assert "3 of 3 shards are done already" in again.stderr and again.returncode == 1
    changed = call(*command[:4], 0.4)
    assert "holds a job with quality 0.3 in place of 0.4" in changed.stderr


def test_a_pipeline_of_ray_data_converts_bytes_in_columns(
    images: Path, tmp_path: Path, cluster: None
) -> None:
    settings = {"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 1, "runtime_env": ONE_THREAD}
    found = ray.data.read_binary_files(str(images), include_paths=True)
    found = found.map_batches(Converter, fn_constructor_args=(Encoding(quality=0.3),), **settings)
    found = found.materialize()
    rows = {Path(row["path"]).name: row for row in found.take_all()}
    assert len(rows) == 6 and [name for name, row in rows.items() if row["error"]] == ["3.png"]
    assert rows["0.png"]["sfu"] == sfumato.encode(images / "0.png", q=0.3)
    assert "bytes" not in rows["0.png"] and rows["0.png"]["__key__"].endswith("/0")
    whole = found.filter(lambda row: row["error"] is None).drop_columns(["error", "path"])
    whole.write_webdataset(str(tmp_path / "shards"))
    back = ray.data.read_webdataset(str(tmp_path / "shards"), decoder=None)
    back = back.map_batches(Converter, fn_constructor_args=(Decoding(steps=0), "sfu"), **settings)
    decoded = {row["__key__"].rpartition("/")[2]: row["png"] for row in back.take_all()}
    assert sorted(decoded) == ["0", "1", "2", "4", "5"]
    assert all(png.startswith(b"\x89PNG") for png in decoded.values())


def test_a_cluster_that_is_not_there_is_named() -> None:
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UsageError, match="no Ray cluster at 127.0.0.1:1 "):
        connect("127.0.0.1:1")
    assert json.dumps(ONE_THREAD)
