"""python -m benchmarks.interruptions -o CSV: a folder run that is killed, or out of disk or memory, midway.

Each time: what is written is whole, nothing is left running, and a second run completes and equals, byte for
byte, one that nothing disturbed.  Linux only.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from sfumato import container
from sfumato.errors import FormatError
from sfumato.files import write_csv

SIGNALS = {"kill -9": "SIGKILL", "TERM": "SIGTERM", "HUP": "SIGHUP", "Ctrl-C": "SIGINT"}
COLUMNS = (
    "way", "first_exit", "whole_files", "half_files", "left_running", "temporary_files", "second_exit",
    "temporary_files_after", "equal_files", "files",
)  # fmt: skip
PATIENCE = 300  # seconds


def images(folder: Path, count: int, side: int) -> None:
    """Images of waves and noise, each another."""
    folder.mkdir()
    row, column = np.mgrid[0:side, 0:side] / 16
    for number in range(count):
        waves = np.stack([np.sin(row + k + number) * np.cos(column - k) for k in range(3)], -1) * 90 + 128
        noise = np.random.default_rng(number).normal(0, 9, waves.shape)
        Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")


def start(source: Path, target: Path) -> subprocess.Popen[bytes]:
    """The command on a folder, in a session of its own."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sfumato",
        "encode",
        "--jobs",
        "2",
        source,
        "-o",
        target,
    ]
    null = subprocess.DEVNULL

    def defaults() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's is inherited
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True, preexec_fn=defaults)


def session(number: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, leader = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            if int(leader) == number and state not in "ZX":
                found.append(int(folder.name))
    return found


def wait_for_files(process: subprocess.Popen[bytes], target: Path, count: int) -> None:
    limit = time.monotonic() + PATIENCE
    while len(list(target.glob("*.sfu"))) < count and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)


def files(target: Path) -> tuple[int, int, int]:
    """(whole, half, temporary) files in a folder."""
    whole = half = 0
    for path in target.glob("[!.]*"):
        try:
            container.unpack(path.read_bytes())
            whole += 1
        except FormatError:
            half += 1
    return whole, half, len(list(target.glob(".*")))


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Whether a disk of so many bytes is mounted at the folder; it grows by `mount -o remount`."""
    folder.mkdir()
    option = f"size={size},mode=700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder], capture_output=True, check=False
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=False)


def limit_memory(process: subprocess.Popen[bytes]) -> None:
    """No process of the run gets more address space than 4 MB over what it has."""
    for pid in session(process.pid):
        with contextlib.suppress(OSError, ProcessLookupError):
            now = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(pid, resource.RLIMIT_AS, (now + (4 << 20), resource.RLIM_INFINITY))


def disturbed(way: str, source: Path, target: Path, undisturbed: Path) -> list[object]:
    """One row of the table."""
    process = start(source, target)
    if way != "full disk":
        wait_for_files(process, target, 2)
    if way in SIGNALS:
        process.send_signal(getattr(signal, SIGNALS[way]))
    elif way == "ulimit -v":
        limit_memory(process)
    process.wait(PATIENCE)
    limit = time.monotonic() + 30
    while (left := session(process.pid)) and time.monotonic() < limit:
        time.sleep(0.05)
    whole, half, hidden = files(target)
    if way == "full disk":
        subprocess.run(["mount", "-o", "remount,size=64m", target], check=True)
    second = start(source, target)
    second.wait(5 * PATIENCE)
    names = sorted(path.name for path in undisturbed.iterdir())
    equal = sum(
        (target / name).is_file() and (target / name).read_bytes() == (undisturbed / name).read_bytes()
        for name in names
    )
    after = files(target)[2]
    return [
        way,
        process.returncode,
        whole,
        half,
        len(left),
        hidden,
        second.returncode,
        after,
        equal,
        len(names),
    ]


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None, count: int = 24, side: int = 320
) -> None:
    """Disturb a run of each kind; exit code 1 if anything does not hold.

    Args:
        output: CSV file, one row a kind.
        count: images in the folder.
        side: of each, pixels.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, undisturbed = folder / "in", folder / "undisturbed"
        images(source, count, side)
        start(source, undisturbed).wait(5 * PATIENCE)
        size = sum(path.stat().st_size for path in undisturbed.iterdir())
        rows = [disturbed(way, source, folder / way, undisturbed) for way in (*SIGNALS, "ulimit -v")]
        with small_disk(folder / "disk", max(4 * 4096, size // 3)) as mounted:
            if mounted:
                rows.append(disturbed("full disk", source, folder / "disk", undisturbed))
            else:
                print("full disk: no file system can be mounted here; left out")
    good = all(row[3:5] == [0, 0] and row[6:8] == [0, 0] and row[8] == row[9] for row in rows)
    for row in (COLUMNS, *rows):
        print(*row, sep=",")
    if output is not None:
        write_csv(output, COLUMNS, rows)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    tyro.cli(main)
