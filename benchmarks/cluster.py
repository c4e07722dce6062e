"""A Ray cluster of several nodes and a server of S3's protocol, on this machine, for `benchmarks.scale`."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ACTOR = "ShardActor"
# Ray lowers the priority of its workers; here they have to compare with processes that have the usual one.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
PATIENCE = 120.0  # seconds, for what has to come up


class Cluster:
    """Nodes of one CPU each; the first is the head."""

    def __init__(self, nodes: int = 2) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        self.nodes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(nodes):
                self.add()
        except BaseException:
            self.stop()
            raise

    def add(self) -> None:
        """One more node."""
        port = self.address.rpartition(":")[2]
        where = [f"--address={self.address}"]
        if not self.nodes:
            where = ["--head", f"--port={port}", "--include-dashboard=false"]
            where += [f"--temp-dir={self.folder.name}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        command += [f"--object-store-memory={100 * 2**20}", *where]
        output = subprocess.DEVNULL
        node = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | SETTINGS)
        self.nodes.append(node)
        wait_for(lambda: self.raylet(-1) is not None and node.poll() is None, "a raylet")
        time.sleep(3)  # until it has registered

    def raylet(self, index: int) -> psutil.Process | None:
        """The process that is a node."""
        return next((p for p in family(self.nodes[index].pid) if name_of(p).endswith("raylet")), None)

    def actors(self) -> list[psutil.Process]:
        """The processes that hold the codec."""
        processes = [p for node in self.nodes for p in family(node.pid)]
        return [p for p in processes if "ray::" in name_of(p) and ACTOR in name_of(p)]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            for process in [*family(node.pid), node]:
                kill(process.pid)
            node.wait()
        self.folder.cleanup()


@contextmanager
def cluster(nodes: int = 2) -> Iterator[Cluster]:
    """Nodes that end with the block."""
    made = Cluster(nodes)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def s3_server(bucket: str) -> Iterator[None]:
    """A server on the loopback, with an empty bucket; the environment names it until the block ends."""
    port = free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    nowhere = subprocess.DEVNULL
    server = subprocess.Popen([program, "-p", str(port)], stdout=nowhere, stderr=nowhere)
    new = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        wait_for(lambda: connects(port), "the S3 server")
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
        yield
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def family(pid: int) -> list[psutil.Process]:
    """A process's children, and theirs."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def kill(pid: int) -> None:
    """As `kill -9`."""
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: object, what: str) -> None:
    """RuntimeError if it does not become true in `PATIENCE` seconds."""
    assert callable(condition)
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError(f"{what} does not come up")
        time.sleep(0.2)
