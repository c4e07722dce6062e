"""A job and two folders in; the job done on every file by several processes, and what came of each.

    plan      folder -> tasks (source, target), sub-folders kept, and notes on what was left out
    sort      tasks -> those to do, those to skip and why, those that cannot be done
    run       tasks -> worker processes -> outcomes, as they are ready

A bad file is an outcome like any other.  Whatever ends `run`, or the process that it runs in, ends the
workers with it; a file that was being written is not there.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import tempfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

from sfumato import container, files, image
from sfumato.errors import FormatError
from sfumato.jobs import STREAM, SUFFIX, DecodeJob, EncodeJob, Job, JobResult, UsageError, error_message

IMAGE_SUFFIXES = frozenset(
    ".apng .avif .bmp .gif .jp2 .jpeg .jpg .jfif .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp"
    # read with a plugin, or refused by name: never passed over without a word
    " .heic .heif .hif .dng .jxl .j2k .jpf .jpx .j2c .jpe .arw .cr2 .cr3 .nef .orf .pef .raf .rw2 .srw .psd"
    " .exr .hdr .qoi .ico .svg .eps".split()
)


@dataclass(frozen=True)
class Task:
    """One file to read and one to write."""

    source: Path
    target: Path
    replace: bool = False  # whether what is there may be replaced, whatever the job says


@dataclass(frozen=True)
class Failure:
    """A file that could not be done, and the one line that says why."""

    input: str
    error: str


@dataclass(frozen=True)
class Skipped:
    """A file that was left alone, and why."""

    input: str
    output: str
    reason: str
    skipped: bool = True


class Plan(NamedTuple):
    """What a folder holds for a job."""

    tasks: list[Task]
    notes: list[str]  # lines on files that were left out or got another name
    failures: list[Failure] = []  # folders that cannot be read


class Work(NamedTuple):
    """The tasks, by what is to become of them."""

    todo: list[Task]
    skipped: list[Skipped]
    failures: list[Failure]
    notes: list[str]


_Outcome = Future[JobResult | Failure]
DONE = "is there already, and no older than its input"


def plan(job: Job, source: Path, target: Path) -> Plan:
    """The tasks of a folder, in the order of names; hidden files are left out.

    Files that would share a target, also on a disk that takes A for a, get targets with their whole
    names: a.jpg.sfu beside a.png.sfu.  Raises UsageError where there is nothing to do, or a decoder would
    write among what it reads, where the originals may lie.
    """
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"is not a folder, as {source} is", str(target))
    decodes = isinstance(job, DecodeJob)
    if decodes and target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the folder of the input; name another one with -o")
    suffixes = {SUFFIX} if decodes else IMAGE_SUFFIXES
    sources: list[Path] = []
    others: Counter[str] = Counter()
    notes: list[str] = []
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(source, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [path for name in folders if (path := Path(folder, name)).is_symlink()]
        notes += [f"{path}: a link to a folder, left out" for path in links]
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() not in suffixes:
                others[path.suffix.lower() or "no suffix"] += 1
            elif path.is_file():
                sources.append(path)
            else:
                notes.append(f"{path}: no file, or a link to nothing, left out")
    if not sources:
        looked = f"no files to read; looked for {' '.join(sorted(suffixes))}"
        raise unreadable[0] if unreadable else FileNotFoundError(errno.ENOENT, looked, str(source))
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        what = "no .sfu files" if decodes else "no images by their suffix"
        notes.append(f"{source}: {others.total()} files are {what} and were left out: {kinds}")
    planned = _named(job, target, {path: path.relative_to(source) for path in sources}, notes)
    return planned._replace(failures=[Failure(e.filename, str(e.strerror)) for e in unreadable])


def plan_files(job: Job, sources: Sequence[Path], target: Path | None) -> Plan:
    """The tasks of several files, which go into the folder `target`, or, if that is None, beside each.

    Names as `plan` gives them.  UsageError for what is no file by its name, and for two of one name.
    """
    names = {path: path if target is None else Path(path.name) for path in sources}
    for path, name in names.items():
        if path.is_dir() or path == STREAM:
            raise UsageError(f"{path}: give several files, or one folder, or - alone")
        if same := [other for other in names if other != path and names[other] == name]:
            raise UsageError(f"{path} and {same[0]} would be one file in {target}")
    return _named(job, Path() if target is None else target, names, [])


def _named(job: Job, target: Path, relative: dict[Path, Path], notes: list[str]) -> Plan:
    """Targets by the relative paths, with the job's suffix, or it behind whole names where two clash."""
    sources = list(relative)
    names = names_for(list(relative.values()), job.suffix)
    groups: dict[str, list[Path]] = {}
    for path in sources:
        groups.setdefault(folded(names[relative[path]]), []).append(path)
    for group in groups.values():
        if len(group) > 1 and not _is_case_sensitive(target):
            left_out = [path for path in group[1:] if path in sources]
            clash = f"{group[0]} would be the same file in {target}; rename one"
            notes += [f"{path}: {clash}" for path in left_out]
            sources = [path for path in sources if path not in left_out]
    for path in sorted(sources):
        plain, full = relative[path].with_suffix(job.suffix), names[relative[path]]
        if full != plain:
            notes.append(f"{path}: becomes {full}, as another file would become {plain} as well")
    return Plan([Task(path, target / names[relative[path]]) for path in sources], notes)


def names_for(sources: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """What each source is to be called: its name with this suffix, or with it behind the whole name where
    two would meet."""

    def place(path: Path) -> Path:
        return path.with_name(path.name + suffix) if path in whole else path.with_suffix(suffix)

    whole: set[Path] = set()
    while True:
        groups: dict[str, list[Path]] = {}
        for path in sources:
            groups.setdefault(folded(place(path)), []).append(path)
        clash = {path for group in groups.values() if len(group) > 1 for path in group} - whole
        if not clash:
            return {path: place(path) for path in sources}
        whole |= clash


def folded(path: Path) -> str:
    """What names have in common that are one on a disk that heeds neither case nor composition of letters."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _is_case_sensitive(folder: Path) -> bool:
    """Whether A and a are two files in this folder, or in the first above it that is there."""
    while not folder.is_dir():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".case", suffix=".part", dir=folder) as file:
            return not (folder / Path(file.name).name.swapcase()).exists()
    except OSError:  # not to be written in: an error when it is tried
        return True


def sort(job: Job, tasks: Sequence[Task], overwrite: bool = False, update: bool = False) -> Work:
    """What to do and what to leave.  Nothing that is whole is replaced but by `overwrite`, or by `update` a
    .sfu file that is older than its image.  What a broken run left, an empty or cut .sfu, is done again."""
    work = Work([], [], [], [])
    for folder in sorted({task.target.parent for task in tasks}):
        if count := files.remove_abandoned(folder):
            work.notes.append(f"{folder}: {count} temporary files of a run that was killed were removed")
    for task in tasks:
        source, target = task.source, task.target
        if overwrite or not os.path.lexists(target) or not source.exists():
            work.todo.append(replace(task, replace=overwrite))
            continue
        if target.is_file() and not target.stat().st_size:
            work.notes.append(f"{target}: was empty, written anew")
            work.todo.append(replace(task, replace=True))
            continue
        fault, is_ours = _fault(job, target)
        if fault and is_ours:
            work.notes.append(f"{target}: was not whole ({fault}), written anew")
            work.todo.append(replace(task, replace=True))
        elif fault:
            reason = f"{target} is there and cannot be read ({fault}); --overwrite replaces it"
            work.failures.append(Failure(str(source), reason))
        elif target.stat().st_mtime >= source.stat().st_mtime:
            work.skipped.append(Skipped(str(source), str(target), DONE))
        elif update and isinstance(job, EncodeJob):
            work.todo.append(replace(task, replace=True))
        else:
            ways = "--update or --overwrite" if isinstance(job, EncodeJob) else "--overwrite"
            reason = f"is there already, older than its input, and was kept; {ways} replaces it"
            work.skipped.append(Skipped(str(source), str(target), reason))
    return work


def _fault(job: Job, target: Path) -> tuple[str, bool]:
    """(what is wrong with a file that is there, or ""; whether it is one of ours that was cut or damaged)."""
    try:
        if isinstance(job, DecodeJob):
            return image.fault(target), False
        if not isinstance(job, EncodeJob):
            return "", False
        data = target.read_bytes()
        try:
            container.unpack(data)
            return "", True
        except FormatError as error:
            with contextlib.suppress(FormatError):  # whether at least its beginning is that of a file of ours
                container.unpack(data[: container.HEADER_MAX], partial=True)
                return str(error), True
            return str(error), False
    except OSError as error:
        return error_message(error) or str(error), False


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(job: Job, tasks: Sequence[Task], jobs: int) -> Generator[JobResult | Failure, None, None]:
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
) -> Generator[tuple[Task, JobResult | Failure], None, None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, initializer=_enter, initargs=(stop,))
    try:
        # workers inherit both: only this process answers Ctrl-C, and each of them has one thread
        with _uninterrupted(), _one_thread():
            futures: dict[Future[JobResult | Failure], Task] = {
                pool.submit(_work, job, task): task for task in tasks
            }
        broken: BaseException | None = None
        for future in _as_completed(pool, futures):
            if isinstance(future.exception(), BrokenProcessPool):
                broken = future.exception()  # reported last, after all that was done before
            else:
                yield futures[future], future.result()
        if broken is not None:
            raise broken
    finally:
        stop.set()
        if _is_dead(pool):
            for process in pool._processes.values():
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _as_completed(pool: ProcessPoolExecutor, futures: Iterable[_Outcome]) -> Iterator[_Outcome]:
    """As `concurrent.futures` has it, but BrokenProcessPool where that would wait for ever."""
    left = set(futures)
    while left:
        done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
        yield from done
        if not done and _is_dead(pool):
            raise BrokenProcessPool("the thread that serves the processes ended")


def _is_dead(pool: ProcessPoolExecutor) -> bool:
    """Whether the thread that serves the processes ended, as it does where memory is short."""
    thread = getattr(pool, "_executor_manager_thread", None)
    return thread is not None and not thread.is_alive()


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
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the parent answers them, and stops its workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, however that ended; a file being written is finished
    first.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        with files.writing:
            os._exit(1)


def _work(job: Job, task: Task) -> JobResult | Failure:
    """One task, in a worker process."""

    def stopping(what: str, part: float) -> None:
        if _stop is not None and _stop.is_set():
            raise _Stopped

    name = str(task.source)
    try:
        stopping("", 0)
        task.target.parent.mkdir(parents=True, exist_ok=True)
        if task.replace and isinstance(job, EncodeJob | DecodeJob):
            job = replace(job, overwrite=True)
        return job.run(task.source, task.target, stopping)
    except _Stopped:
        return Failure(name, "stopped")
    except Exception as error:
        reason = error_message(error) or f"internal error: {type(error).__name__}: {error}"
        return Failure(name, reason.removeprefix(f"{name}: "))
