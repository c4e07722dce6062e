"""A job over many files, as `encode` and `decode` do it: lines or JSON objects out, and a table of sums."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict

from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from sfumato import batch, terminal
from sfumato.jobs import EncodeJob, Job, JobResult
from sfumato.terminal import print_json, print_table, warn


def run(
    job: Job, planned: batch.Plan, title: str, jobs: int | None, overwrite: bool, as_json: bool, update: bool
) -> None:
    """Does what is planned, and prints what became of each file; exit code 1 if one of them failed.

    title  of the progress bar
    """
    begun = time.perf_counter()
    work = batch.sort(job, planned.tasks, overwrite, update)
    if work.todo:
        job.check()
    for note in (*planned.notes, *work.notes):
        warn(note)
    for skipped in work.skipped:
        if as_json:
            print_json(asdict(skipped))
        elif skipped.reason != batch.DONE:
            warn(f"{skipped.output}: {skipped.reason}")
    if done := sum(skipped.reason == batch.DONE for skipped in work.skipped):
        if not as_json:
            warn(f"{done} files skipped: each {batch.DONE}; --overwrite writes them again")
    reports: list[JobResult] = []
    failures = [*planned.failures, *work.failures]
    for failure in failures:
        print_failure(failure, as_json)
    progress = terminal.progress(MofNCompleteColumn(), TimeRemainingColumn())
    processes = batch.processors() if jobs is None else jobs
    with progress, contextlib.closing(batch.run(job, work.todo, processes)) as outcomes:
        bar = progress.add_task(terminal.printable(title), total=len(work.todo))
        for outcome in outcomes:
            progress.advance(bar)
            if isinstance(outcome, batch.Failure):
                failures.append(outcome)
                print_failure(outcome, as_json)
                continue
            reports.append(outcome)
            if as_json:
                print_json(asdict(outcome))
            else:
                print_warnings(outcome)
    if not as_json:
        counts = len(work.skipped), len(failures)
        print_table(_summary(job, reports, *counts, time.perf_counter() - begun))
    if failures:
        sys.exit(1)


def print_warnings(report: JobResult) -> None:
    """What was changed or left out, a line each, to standard error."""
    for sentence in report.warnings:
        warn(f"{report.input}: {sentence}")


def print_failure(failure: batch.Failure, as_json: bool) -> None:
    """A file that could not be done: an object, or a line to standard error."""
    if as_json:
        print_json(asdict(failure))
    else:
        warn(f"sfumato: {failure.input}: {failure.error}")


def _summary(job: Job, reports: list[JobResult], skipped: int, failures: int, seconds: float) -> Table:
    files, images = sum(r.bytes for r in reports), sum(r.image_bytes for r in reports)
    before, after = (images, files) if isinstance(job, EncodeJob) else (files, images)
    bpp = f"{sum(r.bpp for r in reports) / len(reports):.3f}" if reports else "-"
    table = Table("files", "skipped", "failed", "bytes before", "bytes after", "mean bpp", "seconds")
    table.columns[0].justify = "right"
    cells = [len(reports), skipped, failures, before, after]
    table.add_row(*map(str, cells), bpp, f"{seconds:.1f}")
    return table
