"""Folders in, folders out: every file accounted for, nothing half-written, and no process left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato import batch, container
from sfumato.batch import Failure, Task
from sfumato.jobs import DecodeJob, EncodeJob, Job, JobResult, Progress, UsageError
from tests.conftest import Call
from tests.test_cli import run


def paint(path: Path, side: int = 40, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side)).save(path)
    return path


def test_the_plan_keeps_folders_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "sub/deep/c.webp", "notes.txt", ".hidden.png", ".cache/d.png", "e.sfu"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    tasks, notes, failures = batch.plan(EncodeJob(), tmp_path / "in", tmp_path / "out")
    left_out = "2 files are no images by their suffix and were left out: .sfu 1, .txt 1"
    assert notes == [f"{tmp_path}/in: {left_out}"] and failures == []
    assert [str(t.target.relative_to(tmp_path / "out")) for t in tasks] == [
        "a.sfu",
        "b.sfu",
        "sub/deep/c.sfu",
    ]
    tasks, *_ = batch.plan(DecodeJob(), tmp_path / "in", tmp_path / "out")
    assert [t.target.name for t in tasks] == ["e.png"]


def test_what_cannot_be_meant_is_reported_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("in/a.png", "in/z.sfu"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="no files to read; looked for .apng"):
        batch.plan(EncodeJob(), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        batch.plan(DecodeJob(), tmp_path / "in", tmp_path / "file")
    with pytest.raises(UsageError, match="is the folder of the input"):
        batch.plan(DecodeJob(), tmp_path / "in", tmp_path / "in")
    with pytest.raises(UsageError, match="need at least 1"):
        next(batch.run(EncodeJob(), [Task(tmp_path / "file", tmp_path / "a.sfu")], 0))
    with pytest.raises(UsageError, match="give one of"):
        EncodeJob(quality=0.2, target_bytes=100)


def test_settings_that_fit_no_file_are_reported_once(tmp_path: Path, call: Callable[..., Call]) -> None:
    for name in "ab":
        paint(tmp_path / "in" / f"{name}.png")
    for setting, value, message in (
        ("--model", "huge", "no weights 'huge'"),
        ("--quality", 2, "q is 2.0, not in 0..1"),
        ("--target-bpp", 0, "a target of 0 bits per pixel: need more than 0"),
        ("--jobs", 0, "--jobs 0: need at least 1"),
    ):
        done = call("encode", tmp_path / "in", "-o", tmp_path / "out", setting, value)
        assert done.returncode == (1 if setting == "--model" else 2) and message in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_only_what_is_whole_and_as_new_as_its_source_counts_as_done(tmp_path: Path) -> None:
    """Nothing whole is replaced unasked, no cut file counts as whole."""
    whole = sfumato.encode(paint(tmp_path / "whole.png"))
    contents = {"missing": None, "stale": whole, "done": whole, "empty": b"", "cut": whole[:-9]}
    contents |= {"foreign": b"no file of ours", "later": b"SFU\xf0 of a version to come"}
    tasks = [Task(tmp_path / f"{name}.png", tmp_path / f"{name}.sfu") for name in contents]
    for task, content in zip(tasks, contents.values(), strict=True):
        task.source.touch()
        os.utime(task.source, (1000, 1000))
        if content is not None:
            task.target.write_bytes(content)
    os.utime(tmp_path / "stale.sfu", (900, 900))
    work = batch.sort(EncodeJob(), tasks)
    assert [task.target.stem for task in work.todo] == ["missing", "empty", "cut"]
    assert [task.replace for task in work.todo] == [False, True, True]
    assert [(Path(s.output).stem, s.reason == batch.DONE) for s in work.skipped] == [
        ("stale", False),
        ("done", True),
    ]
    assert "older than its input, and was kept" in work.skipped[0].reason
    assert [Path(failure.input).stem for failure in work.failures] == ["foreign", "later"]
    assert len(work.notes) == 2 and "was not whole (the file ends at byte" in work.notes[1]
    assert [t.target.stem for t in batch.sort(EncodeJob(), tasks, update=True).todo][1] == "stale"
    assert len(batch.sort(EncodeJob(), tasks, overwrite=True).todo) == len(tasks)


def test_decoding_a_folder_never_replaces_an_original(tmp_path: Path, call: Callable[..., Call]) -> None:
    """Newer .sfu files made the originals stale, and they were replaced without a word."""
    originals = [paint(tmp_path / "orig" / f"{name}.png", seed=i) for i, name in enumerate("ab")]
    before = [path.read_bytes() for path in originals]
    assert call("encode", tmp_path / "orig", "-o", tmp_path / "small", "--jobs", 1).returncode == 0
    for path in originals:
        os.utime(path, (1000, 1000))
    done = call("decode", tmp_path / "small", "-o", tmp_path / "orig")
    assert [path.read_bytes() for path in originals] == before
    for path in originals:
        assert f"{path}: is there already, older than its input, and was kept; --overwrite" in done.stderr
    (printed, _) = call("decode", tmp_path / "small", "-o", tmp_path / "orig", "--json").objects
    assert printed["skipped"] and "older than its input" in printed["reason"]
    originals[0].write_bytes(before[0][:100])
    done = call("decode", tmp_path / "small", "-o", tmp_path / "orig")
    assert done.returncode == 1 and "a.png is there and cannot be read" in done.stderr
    assert originals[0].read_bytes() == before[0][:100], "what a user has is left as it is, broken or not"
    done = call("decode", tmp_path / "small", "-o", tmp_path / "orig", "--overwrite", "--jobs", 1)
    assert done.returncode == 0 and [path.read_bytes() for path in originals] != before


def test_two_files_of_one_name_do_not_stop_the_rest(tmp_path: Path, call: Callable[..., Call]) -> None:
    """Also where only a disk that tells no case makes one of them."""
    for name in ("a.png", "a.jpg", "B.png", "b.bmp", "c.png", "sub/a.webp"):
        paint(tmp_path / "in" / name)
    done = call("encode", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.sfu"))
    assert names == ["B.png.sfu", "a.jpg.sfu", "a.png.sfu", "b.bmp.sfu", "c.sfu", "sub/a.sfu"]
    assert (
        f"{tmp_path}/in/a.jpg: becomes a.jpg.sfu, as another file would become a.sfu as well" in done.stderr
    )


def test_names_that_are_one_on_the_target_disk_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "A.png"):
        paint(tmp_path / "in" / name)
    assert len(batch.plan(EncodeJob(), tmp_path / "in", tmp_path / "out").tasks) == 2
    monkeypatch.setattr(batch, "_is_case_sensitive", lambda folder: False)
    tasks, notes, _ = batch.plan(EncodeJob(), tmp_path / "in", tmp_path / "out")
    assert [task.source.name for task in tasks] == ["A.png"]
    assert any("a.png: " in note and "would be the same file" in note for note in notes)


def test_folders_that_cannot_be_read_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Call]
) -> None:
    paint(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "locked").mkdir()
    scandir = os.scandir

    def refused(path: str) -> Any:
        if Path(path).name in ("locked", "shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    done = call("encode", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1)
    assert done.returncode == 1 and f"{tmp_path}/in/locked: Permission denied" in done.stderr
    assert (tmp_path / "out" / "a.sfu").exists()
    (tmp_path / "shut").mkdir()
    done = call("encode", tmp_path / "shut", "-o", tmp_path / "out")
    assert done.returncode == 1 and f"{tmp_path}/shut: Permission denied" in done.stderr


def test_images_that_cannot_be_read_are_reported_and_never_passed_over(
    tmp_path: Path, call: Callable[..., Call]
) -> None:
    """Raw photographs, JPEG XL and animations in a folder."""
    paint(tmp_path / "in" / "a.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "in" / "b.apng", "PNG", save_all=True, append_images=frames[1:])
    (tmp_path / "in" / "c.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    (tmp_path / "in" / "d.CR3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(50))
    (tmp_path / "in" / "notes.txt").write_text("x")
    done = call("encode", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1)
    assert done.returncode == 1 and (tmp_path / "out" / "a.sfu").exists()
    for line in (
        "b.apng: has 2 frames",
        "c.jxl: JPEG XL, which is not read",
        "d.CR3: a raw photograph (CR3)",
    ):
        assert line in done.stderr
    assert "1 files are no images by their suffix and were left out: .txt 1" in done.stderr


def test_a_folder_there_and_back(tmp_path: Path, call: Callable[..., Call]) -> None:
    paint(tmp_path / "in" / "a.png")
    paint(tmp_path / "in" / "sub" / "b.bmp", seed=1)
    (tmp_path / "in" / "bad.png").write_text("no image")
    done = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 2, "--target-bpp", 1.5)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sfumato: {tmp_path}/in/bad.png: not an image in a known format; known")
    assert done.stderr.count("\n") == 1
    assert "failed" in done.stdout and "mean bpp" in done.stdout
    files = [tmp_path / "out" / "a.sfu", tmp_path / "out" / "sub" / "b.sfu"]
    assert sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file()) == files
    assert all(path.stat().st_size <= 1.5 * 1600 / 8 for path in files)

    os.utime(tmp_path / "in" / "a.png", (2**31, 2**31))  # from now on newer than its file
    (tmp_path / "in" / "bad.png").unlink()
    done = call("encode", tmp_path / "in", "-o", tmp_path / "out", "--json", "--update")
    printed = sorted(done.objects, key=lambda line: str(line["input"]))
    assert done.returncode == 0 and done.stderr == ""
    assert printed[0]["quality"] == pytest.approx(0.5, abs=1 / 255)
    assert printed[0]["bytes"] == files[0].stat().st_size
    assert printed[1] == {
        "input": f"{tmp_path}/in/sub/b.bmp",
        "output": f"{tmp_path}/out/sub/b.sfu",
        "reason": batch.DONE,
        "skipped": True,
    }

    done = call("decode", tmp_path / "out", "-o", tmp_path / "back", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "back" / "sub" / "b.png") as back:
        assert back.size == (40, 40)
    done = call("decode", tmp_path / "out")
    assert done.returncode == 2 and "is a folder; name one for what is written with -o" in done.stderr


def alive(group: int) -> list[str]:
    """The commands of the processes of a group that have not ended (the system may still list those)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            name, _, rest = (folder / "stat").read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_workers_end_with_their_parent(name: str, tmp_path: Path) -> None:
    """A signal to the parent alone left workers of 300 MB that went on writing; Ctrl-C goes to all."""
    for i in range(40):
        paint(tmp_path / "in" / f"{i:02}.png", side=700, seed=i)
    command: list[str | Path] = [sys.executable, "-m", "sfumato", "encode", "--jobs", "2"]
    command += [tmp_path / "in", "-o", tmp_path / "out"]

    def heard() -> None:  # nohup's SIGHUP and a background shell's SIGINT are inherited
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)

    process = subprocess.Popen(
        command, stdout=-1, stderr=-1, text=True, start_new_session=True, preexec_fn=heard
    )
    limit = time.monotonic() + 90
    while not list((tmp_path / "out").glob("*.sfu")) and time.monotonic() < limit:
        time.sleep(0.02)
    number = getattr(signal, name)
    (os.killpg if name == "SIGINT" else os.kill)(process.pid, number)
    process.wait(timeout=60)
    code = {"SIGINT": 130, "SIGKILL": -number}.get(name, 128 + number)
    assert process.returncode == code
    limit = time.monotonic() + 20
    while (left := alive(process.pid)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not left
    out, errors = process.communicate()
    assert name != "SIGINT" or out == errors == ""
    written = list((tmp_path / "out").iterdir())
    assert 1 <= len(written) < 40 and {path.suffix for path in written} == {".sfu"}
    assert all(container.unpack(path.read_bytes()).complete for path in written)


@dataclass(frozen=True)
class Fatal(Job):
    """Copies a file, and dies where the file says so."""

    suffix = ".copy"

    def check(self) -> None:
        pass

    def run(self, source: Path, target: Path, progress: Progress | None = None) -> JobResult:
        text = source.read_text()
        if text == "die":
            os._exit(9)
        if text == "bug":
            raise TypeError("of nobody's making")
        target.write_text(text)
        return JobResult(str(source), str(target), 1, 1, 1, 8.0, 0.0, "00000000", 1, 0.0)


def test_a_worker_that_dies_takes_only_its_file_along(tmp_path: Path) -> None:
    texts = ["a", "die", "b", "bug", "c"]
    tasks = []
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
        tasks.append(Task(tmp_path / f"{i}.txt", tmp_path / f"{i}.copy"))
    outcomes = {Path(o.input).name: o for o in batch.run(Fatal(), tasks, 2)}
    assert sorted(outcomes) == [f"{i}.txt" for i in range(5)]
    killed, bug = outcomes["1.txt"], outcomes["3.txt"]
    assert isinstance(killed, Failure) and "its process was killed" in killed.error
    assert isinstance(bug, Failure) and bug.error == "internal error: TypeError: of nobody's making"
    assert sum(isinstance(o, JobResult) for o in outcomes.values()) == 3
    assert (tmp_path / "4.copy").read_text() == "c"
