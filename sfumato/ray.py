"""Jobs and pipelines on a Ray cluster: actors that hold the codec, one thread each.

    run        shards (`manifest`) -> Ray Data, an actor pool -> rows, as they are ready
    Converter  a class for `Dataset.map_batches`: bytes in a column -> bytes in another, and an error's column

Image bytes do not pass through Ray's object store in `run`: an actor is given the names of a shard, reads it
from the source, writes what comes out to the destination, and returns its rows.  Ray starts actors, gives
them work, and does again what a lost process or node had in hand.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, final

from sfumato import conversion
from sfumato.batch import processors
from sfumato.conversion import Row
from sfumato.jobs import DecodeJob, EncodeJob, UsageError, error_message
from sfumato.manifest import Shard
from sfumato.shards import Work

ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
OBJECT_STORE = 100 * 2**20  # bytes, of a cluster that is started here: only names and rows pass through it
CONNECT_SECONDS = 10.0


@final
class ShardActor:
    """Does shards, one after another; what Ray Data keeps in its pool."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """{"shard": [JSON of a Shard]} -> {"rows": [JSON of its rows]}; a store that failed: one row with an
        error and no input."""
        found = []
        for text in batch["shard"]:
            given = json.loads(text)
            shard = Shard(given["name"], tuple(given["sources"]), tuple(given["targets"]))
            try:
                rows = self.work.do(shard)
            except (OSError, ValueError) as error:
                rows = [{"shard": shard.name, "error": error_message(error) or str(error)}]
            found.append(json.dumps(rows))
        return {"rows": found}


def run(
    work: Work, shards: Sequence[Shard], jobs: int | None = None, address: str | None = None
) -> Iterator[list[Row]]:
    """Does the shards with `jobs` actors, one for each CPU of the cluster if None; yields the rows of each.

    A shard whose store failed yields one row with "shard" and "error" and no "input"; it is left for the next
    run.  `address` is that of Ray's head, "local" for a cluster in this process, None for the one that
    RAY_ADDRESS names or that was started on this machine, or a local one.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: need at least 1")
    if not shards:
        return
    ray = connect(address, jobs)
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    actors = min(jobs or int(ray.cluster_resources().get("CPU", 1)), len(shards))
    items = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    dataset = data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardActor,
        batch_size=1,
        compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(work,),
        num_cpus=1,
        runtime_env=ONE_THREAD,
    )
    for row in dataset.iter_rows():
        yield json.loads(row["rows"])


def require() -> None:
    """UsageError where Ray is not installed."""
    if any(find_spec(name) is None for name in ("ray", "pyarrow", "fsspec")):
        raise UsageError("needs Ray: pip install 'sfumato[ray]'")


def connect(address: str | None, jobs: int | None = None) -> Any:
    """Ray's module, connected to a cluster; UsageError where Ray or the cluster is missing."""
    require()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors come as exceptions
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    local: dict[str, Any] = {"num_cpus": jobs or processors(), "object_store_memory": OBJECT_STORE}
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    host, colon, port = wanted.rpartition(":")
    if colon and "/" not in host and port.isdigit():  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise UsageError(f"no Ray cluster at {wanted}: {error.strerror or error}") from None
    try:
        ray.init(address=wanted, **quiet, **(local if wanted == "local" else {}))
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if wanted != "auto" or not isinstance(error, ConnectionError):
            raise UsageError(f"no Ray cluster at {wanted}: {error}") from None
        ray.init(address="local", include_dashboard=False, **quiet, **local)
    return ray


@final
class Converter:
    """Image bytes -> .sfu bytes, or with a `DecodeJob` back to PNG, for `Dataset.map_batches`.

        ds = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
        ds = ds.map_batches(Converter, fn_constructor_args=(EncodeJob(quality=0.4),), batch_size=16,
                            compute=ray.data.ActorPoolStrategy(size=8), num_cpus=1, runtime_env=ONE_THREAD)

    A row keeps its columns but `column`; it gets `into` (None for a broken file), "error" (None else) and
    "__key__", the path without its suffix, for `write_webdataset`, if it has none.
    """

    def __init__(
        self, job: EncodeJob | DecodeJob | None = None, column: str = "bytes", into: str | None = None
    ) -> None:
        self.convert: conversion.Conversion
        if isinstance(job, DecodeJob):
            self.convert = conversion.Decode(job)
        else:
            self.convert = conversion.Encode(job or EncodeJob())
        self.column, self.into = column, into or self.convert.suffix.removeprefix(".")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of rows, as columns."""
        count = len(batch[self.column])
        names = batch.get("path", batch.get("__key__", [""] * count))
        target = f"a{self.convert.suffix}"
        done = [
            self.convert(bytes(data), str(name), target)
            for data, name in zip(batch[self.column], names, strict=True)
        ]
        out = {name: values for name, values in batch.items() if name != self.column}
        out.setdefault("__key__", [str(PurePosixPath(str(name)).with_suffix("")) for name in names])
        out[self.into] = [found.data for found in done]
        out["error"] = [found.row.get("error") for found in done]
        return out
