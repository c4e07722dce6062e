"""Texts in; what a terminal shows, whatever the names of files hold.  And how the command ends on a
signal.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table


class Ended(BaseException):
    """The process is asked to end (SIGTERM, SIGHUP): not an Exception, so that nothing takes it for a
    fault.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        """Exit code, as shells count."""


def prepare() -> None:
    """Once, at the start of the command: SIGTERM and SIGHUP clean up as Ctrl-C does, unless they are ignored
    (nohup); a character that the terminal does not have is printed as an escape, and is no error."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end(number: int, frame: object) -> None:
    raise Ended(number)


def printable(text: object) -> str:
    """One line for a terminal: control characters, line ends and bytes that are no characters become
    escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def print_line(text: object, stream: TextIO | None = None) -> None:
    """Prints one line, `printable`, to standard output if no other stream is given."""
    print(printable(text), file=stream or sys.stdout, flush=True)


def warn(text: object) -> None:
    """Prints one line to standard error."""
    print_line(text, sys.stderr)


def print_json(value: object, stream: TextIO | None = None) -> None:
    """One object a line, in ASCII."""
    print(json.dumps(value, allow_nan=False), file=stream or sys.stdout, flush=True)


def print_table(table: Table) -> None:
    """Prints a table of figures: all columns but the first to the right."""
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """The progress of one piece of work: to be called with what is being done, and the part that is done."""
    with progress() as shown:
        task = shown.add_task("loading", total=1.0)
        yield lambda what, part: shown.update(task, description=printable(what), completed=part)


def progress(*more: ProgressColumn) -> Progress:
    """A progress bar on the terminal while the work lasts; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), *more
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
