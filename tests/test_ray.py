"""Ray itself: a local cluster of two actors, for the command and for a pipeline of Ray Data.

What an actor does with a shard is in test_shards.py; nodes, kills and buckets are in benchmarks/scale.py.  A
process of its own, as Ray leaves threads and warnings behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato import manifest
from tests.test_batch import paint

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
import ray
import sfumato
from sfumato.__main__ import main
from sfumato.jobs import DecodeJob, EncodeJob, UsageError
from sfumato.ray import ONE_THREAD, Converter, connect

folder = Path(sys.argv[1])
try:
    connect("127.0.0.1:1")
except UsageError as error:
    print(json.dumps({"absent": str(error)}))
connect("local", 2)

def command(*arguments):
    sys.argv = ["sfumato", *map(str, arguments)]
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}

batch = ["batch", folder / "in", folder / "out", "--shard-size", 2, "--jobs", 2, "-q"]
runs = [command(*batch, 0.3, "--json"), command(*batch, 0.3), command(*batch, 0.4)]
runs.append(command("encode", folder / "in", "-o", folder / "ref", "-q", 0.3, "--jobs", 1))

settings = {"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 1, "runtime_env": ONE_THREAD}
ds = ray.data.read_binary_files(str(folder / "in"), include_paths=True)
ds = ds.map_batches(Converter, fn_constructor_args=(EncodeJob(quality=0.3),), **settings).materialize()
rows = {Path(row["path"]).name: row for row in ds.take_all()}
(folder / "column.sfu").write_bytes(rows["0.png"]["sfu"])
errors = {name: row["error"] for name, row in rows.items() if row["error"]}
whole = ds.filter(lambda row: row["error"] is None).drop_columns(["error", "path"])
whole.write_webdataset(str(folder / "shards"))
back = ray.data.read_webdataset(str(folder / "shards"), decoder=None)
back = back.map_batches(Converter, fn_constructor_args=(DecodeJob(steps=0), "sfu"), **settings)
heads = {row["__key__"].rpartition("/")[2]: row["png"][:4].hex() for row in back.take_all()}
found = {"columns": sorted(rows["0.png"]), "errors": errors, "heads": heads}
print(json.dumps({"runs": runs, "pipeline": found}))
"""


def test_ray_runs_the_command_and_pipelines(tmp_path: Path) -> None:
    for i in range(6):
        paint(tmp_path / "in" / f"{i}.png", side=24 + 8 * i, seed=i)
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    script = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    absent, found = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert absent["absent"] == "no Ray cluster at 127.0.0.1:1: Connection refused"

    first, again, changed, folder = found["runs"]
    assert [run["code"] for run in found["runs"]] == [1, 1, 2, 1], "a file failed; other settings"
    rows = [json.loads(line) for line in first["out"].splitlines()]
    assert sorted(row["input"] for row in rows) == [f"{i}.png" for i in range(6)]
    assert [row["input"] for row in rows if "error" in row] == ["3.png"]
    assert "3 of 3 shards are done already" in again["errors"]
    assert "holds a job with quality 0.3 in place of 0.4" in changed["errors"]
    ours = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.sfu")}
    assert ours == {p.name: p.read_bytes() for p in (tmp_path / "ref").glob("*.sfu")} and len(ours) == 5
    lines = (tmp_path / "out" / manifest.ERRORS).read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("3.png,") and "3.png" in folder["errors"]

    pipeline = found["pipeline"]
    assert (tmp_path / "column.sfu").read_bytes() == ours["0.sfu"]
    assert pipeline["columns"] == ["__key__", "error", "path", "sfu"] and list(pipeline["errors"]) == [
        "3.png"
    ]
    assert pipeline["heads"] == dict.fromkeys("01245", "89504e47"), "the heads of PNG files"
