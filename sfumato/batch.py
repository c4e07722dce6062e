"""A job and two folders in; the job done on every file by several processes, and what came of each.

    plan      folder -> tasks (source, target), sub-folders kept, two sources of one target refused
    pending   the tasks whose target is missing or older than its source
    run       tasks -> worker processes -> outcomes, as they are ready

A bad file is an outcome like any other.  Whatever ends `run`, Ctrl-C included, ends the workers with it; a
file that was being written is not there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from sfumato.job import SUFFIX, Decoding, Job, Report, UsageError, explain

PICTURES = frozenset(
    ".avif .bmp .gif .jp2 .jpeg .jpg .jfif .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)


@dataclass(frozen=True)
class Task:
    """One file to read and one to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Failure:
    """A file that could not be done, and the one line that says why."""

    input: str
    error: str


def plan(job: Job, source: Path, target: Path) -> list[Task]:
    """The tasks of a folder, in the order of names; hidden files and links to folders are left out.

    Raises UsageError where there is nothing to do, two files would become one, or a decoder would write
    among what it reads, where the originals may lie.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder, as {source} is")
    decodes = isinstance(job, Decoding)
    if decodes and target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the folder of the input; name another one with -o")
    suffixes = {SUFFIX} if decodes else PICTURES
    tasks: dict[Path, Task] = {}
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
                continue
            task = Task(path, target / path.relative_to(source).with_suffix(job.suffix))
            if (other := tasks.setdefault(task.target, task)) is not task:
                raise UsageError(f"{other.source} and {path} would both become {task.target}; rename one")
    if not tasks:
        raise UsageError(f"{source}: no files to read; looked for {' '.join(sorted(suffixes))}")
    return list(tasks.values())


def pending(tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose target is not there or older than its source; settings are not compared."""
    return [
        task
        for task in tasks
        if not task.target.exists() or task.target.stat().st_mtime < task.source.stat().st_mtime
    ]


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(job: Job, tasks: Sequence[Task], jobs: int) -> Generator[Report | Failure, None, None]:
    """Does the tasks in `jobs` processes of one thread each; yields one outcome a task, as they are ready.

    Folders of targets are made.  If a process dies (the system may kill it for its memory), the tasks that it
    leaves are tried one at a time, and those on which it dies again are failures.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: need at least 1")
    left = list(tasks)
    while left:
        done: set[Task] = set()
        try:
            for task, outcome in _attempt(job, left, min(jobs, len(left))):
                done.add(task)
                yield outcome
        except BrokenProcessPool:
            if jobs == 1:  # one at a time, in order: the first that is not done is the one
                culprit = next(task for task in left if task not in done)
                done.add(culprit)
                yield Failure(str(culprit.source), "its process was killed, perhaps for want of memory")
            jobs = 1
        left = [task for task in left if task not in done]


def _attempt(
    job: Job, tasks: Sequence[Task], jobs: int
) -> Generator[tuple[Task, Report | Failure], None, None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, initializer=_enter, initargs=(stop,))
    try:
        # workers inherit both: only this process answers Ctrl-C, and each of them has one thread
        with _uninterrupted(), _one_thread():
            futures: dict[Future[Report | Failure], Task] = {
                pool.submit(_work, job, task): task for task in tasks
            }
        broken: BaseException | None = None
        for future in as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                broken = future.exception()  # told last, after all that was done before
            else:
                yield futures[future], future.result()
        if broken is not None:
            raise broken
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


class _Stopped(BaseException):
    """The parent process is ending; not an Exception, so that nothing takes it for a bad file."""


_stop: Event | None = None


def _enter(stop: Event) -> None:
    """Once in every worker process."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: Job, task: Task) -> Report | Failure:
    """One task, in a worker process."""

    def stopping(what: str, part: float) -> None:
        if _stop is not None and _stop.is_set():
            raise _Stopped

    name = str(task.source)
    try:
        stopping("", 0)
        task.target.parent.mkdir(parents=True, exist_ok=True)
        return job.run(task.source, task.target, stopping)
    except _Stopped:
        return Failure(name, "stopped")
    except Exception as error:
        reason = explain(error) or f"internal error: {type(error).__name__}: {error}"
        return Failure(name, reason.removeprefix(f"{name}: "))
