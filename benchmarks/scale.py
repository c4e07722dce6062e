"""python -m benchmarks.scale make | timed | killed | growth: a large set on a cluster of this machine.

    make    a folder of small images of mixed kinds, a hundredth of them broken
    timed   the folder command with two jobs against two nodes and one; needs two idle cores
    killed  a worker, a node and the driver killed in mid-run, then resumed; to a folder and to a bucket
    growth  what resuming costs with many entries in the manifest; nothing is encoded

`pip install '.[readers]'` brings what it needs.  Each part replaces its own lines of the table.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from PIL import Image

from benchmarks.cluster import SETTINGS, Cluster, cluster, family, kill, s3_server
from sfumato import conversion, manifest
from sfumato.files import write_csv
from sfumato.jobs import EncodeJob
from sfumato.storage import Store

TABLE = Path("results/0.2.0/scale.csv")
KINDS = ("png", "jpeg", "webp", "grey", "alpha", "sixteen")
SIZES = ((128, 96), (192, 144), (256, 192), (320, 240))  # width, height in pixels
SHARD = 25  # files
BROKEN = 100  # every so many files one that cannot be read
NODE_KILLED, WORKER_KILLED, DRIVER_KILLED = 0.4, 0.2, 0.6  # parts of the shards that are done by then


def make(data: Path, out: Path, count: int = 2000) -> None:
    """Make the images: crops of those in a folder, scaled, as PNG, JPEG, WebP, grey, with alpha, 16 bit.

    Args:
        data: a folder of images, searched with its sub-folders.
        out: the folder to write to.
        count: how many.
    """
    kinds = {".png", ".jpg", ".webp", ".avif"}
    paths = [path for path in sorted(data.rglob("*")) if path.suffix.lower() in kinds]
    rng = np.random.default_rng(0)
    out.mkdir(parents=True)
    for i in range(count):
        if i % 50 == 0:
            with Image.open(paths[i // 50 % len(paths)]) as opened:
                whole = opened.convert("RGB")
        width, height = SIZES[i // len(KINDS) % len(SIZES)]
        scale = rng.uniform(1, min(whole.width / width, whole.height / height))
        left, top = rng.uniform(0, whole.width - width * scale), rng.uniform(0, whole.height - height * scale)
        box = (left, top, left + width * scale, top + height * scale)
        one = whole.resize((width, height), Image.Resampling.LANCZOS, box=box)
        folder = out / f"{i // 500}"
        folder.mkdir(exist_ok=True)
        suffix, blob = encoded(one, KINDS[i % len(KINDS)])
        if i % BROKEN == BROKEN - 1:
            blob = blob[: len(blob) // 3] if i // BROKEN % 2 else b"no image at all"
        (folder / f"{i:05d}{suffix}").write_bytes(blob)
    print(f"{out}: {count} images, {count // BROKEN} of them broken")


def encoded(image: Image.Image, kind: str) -> tuple[str, bytes]:
    """(suffix, bytes) of an image in one of `KINDS`."""
    out = io.BytesIO()
    if kind == "jpeg":
        image.save(out, "JPEG", quality=90)
    elif kind == "webp":
        image.save(out, "WEBP", quality=90)
    elif kind == "grey":
        image.convert("L").save(out, "PNG")
    elif kind == "alpha":
        ramp = np.broadcast_to(np.linspace(0, 255, image.width).astype(np.uint8), image.size[::-1])
        image.putalpha(Image.fromarray(np.ascontiguousarray(ramp)))
        image.save(out, "PNG")
    elif kind == "sixteen":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(out, "PNG")
    else:
        image.save(out, "PNG")
    return {"jpeg": ".jpg", "webp": ".webp"}.get(kind, ".png"), out.getvalue()


def timed(source: Path, table: Path = TABLE) -> None:
    """Time the folder command and the cluster, in turn, on two cores.

    Args:
        source: the folder that `make` made.
        table: where the lines go.
    """
    lines = Lines("timed", table)
    count = len(Store.at(str(source)).names())
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        begun = time.perf_counter()
        run_to_end(folder_command(source, out / "folder"))
        folder = time.perf_counter() - begun
        lines.add("folder command, 2 jobs", "images a second", count / folder)
        for nodes in (2, 1):
            with cluster(nodes) as nodes_up:
                name = f"cluster, {nodes} node{'s' * (nodes > 1)}"
                watched = Watched(nodes_up, batch_command(source, out / f"{nodes}", nodes_up))
                watched.wait()
                lines.add(name, "images a second", count / watched.seconds)
                lines.add(name, "of the folder command's throughput", folder / watched.seconds)
                lines.add(name, "cores busy with actors, mean", watched.busy / watched.seconds)
                lines.add(
                    name, "cores busy with actors while they work, mean", watched.busy / watched.working
                )
                lines.add(name, "seconds before the first actor and after the last shard", watched.idle)
                lines.add(name, "MB of an actor, highest", watched.memory / 1e6)
                same = differing(out / "folder", Store.at(str(out / f"{nodes}")))
                lines.add(name, "files that differ from the folder command's", len(same))
    lines.write()


def killed(source: Path, table: Path = TABLE) -> None:
    """Kill a worker, a node and the driver in mid-run, resume, and compare with the folder command.

    Args:
        source: the folder that `make` made.
        table: where the lines go.
    """
    lines = Lines("killed", table)
    with tempfile.TemporaryDirectory() as temporary:
        expected = Path(temporary) / "folder"
        failures = run_to_end(folder_command(source, expected)).count('"error"')
        lines.add("folder command", "failed", failures)
        lines.add("folder command", "files", len(Store.at(str(expected)).names()))
        disturb(str(source), str(Path(temporary) / "out"), "to a folder", expected, lines)
        with s3_server("bucket"):
            begun = time.perf_counter()
            store = Store.at("s3://bucket/images")
            for name in Store.at(str(source)).names():
                store.fs.pipe_file(store.path(name), (source / name).read_bytes())
            lines.add("from bucket to bucket", "seconds to upload the images", time.perf_counter() - begun)
            disturb(store.url, "s3://bucket/out", "from bucket to bucket", expected, lines)
    lines.write()


def disturb(source: str, dest: str, name: str, expected: Path, lines: Lines) -> None:
    """One run that is killed three times, and what came of it."""
    out = Store.at(dest)
    with cluster() as nodes:
        total = len(Store.at(source).names())
        shards = -(-total // SHARD)

        def done() -> float:
            return len(out.names(manifest.STATUS)) / shards

        first = Watched(nodes, batch_command(source, dest, nodes))
        first.wait(lambda: done() >= WORKER_KILLED)
        kill(nodes.actors()[0].pid)
        lines.add(name, "shards done when a worker was killed", round(done() * shards))
        first.wait(lambda: done() >= NODE_KILLED)
        raylet = nodes.raylet(1)
        assert raylet is not None
        kill(raylet.pid)
        lines.add(name, "shards done when a node was killed", round(done() * shards))
        first.wait(lambda: done() >= DRIVER_KILLED)
        assert first.process.poll() is None, "the driver has to be there to be killed"
        for process in [*family(first.process.pid), first.process]:
            kill(process.pid)
        first.process.wait()
        at_kill = len(out.names(manifest.STATUS))
        lines.add(name, "shards done when the driver was killed", at_kill)
        time.sleep(5)
        nodes.add()
        begun = time.perf_counter()
        second = Watched(nodes, batch_command(source, dest, nodes))
        second.wait()
        lines.add(name, "shards done in the resumed run", shards - len(second.before))
        lines.add(name, "seconds of the resumed run", time.perf_counter() - begun)
    found = manifest.Manifest.read(out)
    assert found is not None
    rows = manifest.collect(found, out)
    times = Counter(row["input"] for row in rows)
    errors = list(csv.reader(out.read(manifest.ERRORS).decode().splitlines()))[1:]
    lines.add(name, "images with a row", len(times))
    lines.add(name, "images with more than one row", sum(count > 1 for count in times.values()))
    lines.add(name, "images without a row", len(set(Store.at(source).names()) - set(times)))
    lines.add(name, "lines of the table of errors", len(errors))
    lines.add(name, "files that differ from the folder command's", len(differing(expected, out)))
    lines.add(name, "temporary files left", sum(".part" in path for path in out.fs.find(out.root)))
    sizes = {"read": "image_bytes", "written": "bytes"}
    for what, key in sizes.items():
        lines.add(name, f"bytes of images {what}, an image", sum(r.get(key, 0) for r in rows) / len(rows))
    books = len(out.read(manifest.MANIFEST)) + sum(len(out.read(shard.status)) for shard in found.shards)
    lines.add(name, "bytes through Ray, an image (names and rows)", books / len(rows))


def growth(entries: int = 100_000, table: Path = TABLE) -> None:
    """Time what a resumed run does before its first image, with made-up entries of which one shard is left.

    Args:
        entries: images in the manifest.
        table: where the lines go.
    """
    lines = Lines("growth", table)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        stack.enter_context(s3_server("bucket"))
        for place, dest in (("folder", Store.at(temporary)), ("bucket", Store.at("s3://bucket/out"))):
            fill(dest, entries)
            names = [name for shard in read(dest).shards for name in shard.sources]
            steps: dict[str, Any] = {
                "read the manifest": lambda dest=dest: read(dest),
                "list what is done": lambda dest=dest: read(dest).left(dest),
                "look for new files (listing not counted)": lambda dest=dest, names=names: plan(dest, names),
                "collect all rows": lambda dest=dest: manifest.collect(read(dest), dest),
            }
            for what, step in steps.items():
                begun, begun_cpu = time.perf_counter(), time.process_time()
                step()
                cpu = time.process_time() - begun_cpu
                lines.add(f"{place}, {entries} entries", f"seconds to {what}", time.perf_counter() - begun)
                lines.add(f"{place}, {entries} entries", f"CPU seconds to {what}", cpu)
            size = len(dest.read(manifest.MANIFEST))
            lines.add(f"{place}, {entries} entries", "bytes of the manifest", size)
    lines.write()


def fill(dest: Store, entries: int, size: int = 256) -> None:
    """A manifest of so many images, and the status of all shards but the last."""
    job = conversion.Encode(EncodeJob())
    source = Store(dest.fs, f"{dest.root}-source")
    names = [f"{i // 1000:05d}/{i:08d}.jpg" for i in range(entries)]
    made = manifest.prepare(source, names, dest, job, "files", size, {})
    row = {"width": 640, "height": 480, "bytes": 12_345, "bpp": 0.32, "quality": 0.5, "model": "00000000"}
    row |= {"image_bytes": 123_456, "seconds": 0.123456, "warnings": []}
    for shard in made.shards[:-1]:
        pairs = zip(shard.sources, shard.targets, strict=True)
        rows = [{"input": a, "output": b, **row, "shard": shard.name} for a, b in pairs]
        dest.write(shard.status, manifest.to_status(rows), overwrite=True)


def read(dest: Store) -> manifest.Manifest:
    found = manifest.Manifest.read(dest)
    assert found is not None
    return found


def plan(dest: Store, names: list[str]) -> manifest.Manifest:
    source = Store(dest.fs, f"{dest.root}-source")
    return manifest.prepare(source, names, dest, conversion.Encode(EncodeJob()), "files", 256, {})


class Watched:
    """A command on a cluster, with the time and memory that its actors take."""

    def __init__(self, nodes: Cluster, command: list[str]) -> None:
        self.nodes, self.begun = nodes, time.perf_counter()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment())
        self.memory, self.seconds = 0.0, 0.0
        self.times: dict[int, float] = {}
        self.first = self.last = self.begun
        self.dest = Store.at(command[command.index("batch") + 2])
        self.before = self.dest.names(manifest.STATUS)

    def wait(self, until: Any = None) -> None:
        """Until the condition holds, or the command is over, which has to have done its work."""
        while self.process.poll() is None:
            if until is not None and until():
                return
            for actor in self.nodes.actors():
                try:
                    used = sum(actor.cpu_times()[:2])
                    if used > self.times.get(actor.pid, 0.0):
                        self.last = time.perf_counter()
                        if not self.times:
                            self.first = self.last
                    self.times[actor.pid] = used
                    self.memory = max(self.memory, actor.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.25)
        self.seconds = time.perf_counter() - self.begun
        self.log.seek(0)
        text = self.log.read().decode()
        if until is not None or "seconds" not in text:
            raise RuntimeError(f"the command ended: {text[-3000:]}")

    @property
    def busy(self) -> float:
        return sum(self.times.values())

    @property
    def working(self) -> float:
        return self.last - self.first

    @property
    def idle(self) -> float:
        return self.seconds - self.working


class Lines:
    """Lines of the table: part, setting, what, value."""

    def __init__(self, part: str, table: Path) -> None:
        self.part, self.table = part, table
        self.lines: list[list[str]] = []

    def add(self, setting: str, what: str, value: float) -> None:
        self.lines.append(
            [self.part, setting, what, f"{value:.4g}" if isinstance(value, float) else str(value)]
        )
        print(*self.lines[-1][1:], sep=": ", flush=True)

    def write(self) -> None:
        head = ["part", "setting", "what", "value"]
        old = list(csv.reader(self.table.open()))[1:] if self.table.exists() else []
        kept = [line for line in old if line[0] != self.part]
        write_csv(self.table, head, [*kept, *self.lines])


def folder_command(source: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "sfumato", "encode", str(source), "-o", str(out), "--jobs", "2", "--json"]


def batch_command(source: str | Path, dest: str | Path, nodes: Cluster) -> list[str]:
    command = [sys.executable, "-m", "sfumato", "batch", str(source), str(dest)]
    return [*command, "--address", nodes.address, "--shard-size", str(SHARD)]


def environment() -> dict[str, str]:
    return os.environ | SETTINGS


def run_to_end(command: list[str]) -> str:
    """Standard output of a command that may find broken files."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{command}: {done.stderr[-3000:]}")
    return done.stdout


def differing(expected: Path, out: Store) -> list[str]:
    """Names of files that are in one of the two only, or have other bytes."""
    ours = {name for name in out.names() if not name.startswith(manifest.FOLDER)}
    theirs = set(Store.at(str(expected)).names())
    both = sorted(ours & theirs)
    found = out.read_all(both)
    return sorted(ours ^ theirs) + [name for name in both if found[name] != (expected / name).read_bytes()]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped
    tyro.extras.subcommand_cli_from_dict({"make": make, "timed": timed, "killed": killed, "growth": growth})
