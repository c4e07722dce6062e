"""A TOML file in, codecs out that are programs called by their command line.

[cjxl]
suffix = ".jxl"                                  # of the coded file
pictures = "png"                                 # what encoder reads and decoder writes; see PICTURES
settings = [1, 2, 4, 8]
encode = "cjxl {input} {output} -d {setting}"    # split as a shell would, but no shell is run
decode = "djxl {input} {output}"
version = "cjxl --version"                       # optional: its first line goes into the report
timeout_s = 600                                  # optional
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.codecs import Codec, CodecMissing, Picture
from evaluation.y4m import read_y4m, write_y4m
from sfumato.image import read, write

EXAMPLES = Path(__file__).with_name("commands.toml")
PICTURES: dict[str, tuple[str, Callable[[Path, Picture], object], Callable[[Path], Picture]]] = {
    "png": (".png", write, read),
    "ppm": (".ppm", write, read),
    "y4m-420p10": (".y4m", partial(write_y4m, subsampled=True), read_y4m),
    "y4m-444p10": (".y4m", partial(write_y4m, subsampled=False), read_y4m),
}
"""Kind of picture -> suffix, writer, reader."""

TIMEOUT_S = 600.0
REQUIRED: dict[str, type] = {
    "suffix": str,
    "pictures": str,
    "settings": list,
    "encode": str,
    "decode": str,
}
OPTIONAL: dict[str, tuple[type, ...]] = {"version": (str,), "timeout_s": (int, float)}


class CommandError(RuntimeError):
    """A program that failed, took too long or wrote nothing; the message ends with its last line."""


@dataclass
class Command:
    """One codec of the file.  `peak_mb` tells the peak resident memory of the program that ran last."""

    name: str
    suffix: str
    pictures: str  # key of PICTURES
    settings: tuple[float, ...]
    encode_command: tuple[str, ...]
    decode_command: tuple[str, ...]
    version_command: tuple[str, ...] = ()
    timeout_s: float = TIMEOUT_S
    _peak_mb: float = field(default=float("nan"), compare=False)

    def encode(self, picture: Picture, setting: float, path: Path) -> None:
        """Writes the picture to a temporary file and lets the program make `path` of it."""
        suffix, write_picture, _ = PICTURES[self.pictures]
        with tempfile.TemporaryDirectory() as scratch:
            source, target = Path(scratch, f"picture{suffix}"), Path(scratch, f"coded{self.suffix}")
            write_picture(source, picture)
            self._run(self.encode_command, scratch, input=source, output=target, setting=f"{setting:g}")
            shutil.move(target, path)

    def decode(self, path: Path) -> Picture:
        """Lets the program make a picture of `path` and reads it."""
        suffix, _, read_picture = PICTURES[self.pictures]
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch, f"decoded{suffix}")
            self._run(self.decode_command, scratch, input=path.resolve(), output=target)
            return read_picture(target)

    def peak_mb(self) -> float:
        """Of the program that ran last, as the system tells when it ends; NaN before the first.

        Linux counts from the fork on: it is never under what this process held when it started the program.
        """
        return self._peak_mb

    def _run(self, template: tuple[str, ...], folder: str, *, output: Path, **values: Any) -> None:
        command = [part.format(output=output, **values) for part in template]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            late = threading.Event()

            def stop() -> None:
                late.set()
                process.kill()

            clock = threading.Timer(self.timeout_s, stop)
            clock.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)  # unlike `wait`, tells this program's own memory
            finally:
                clock.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            self._peak_mb = usage.ru_maxrss / 1024  # kilobytes on Linux
            said.seek(0)
            lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "no message"
        if late.is_set():
            raise CommandError(f"{self.name}: {command[0]} took over {self.timeout_s:g} s: {last}")
        if process.returncode != 0:
            raise CommandError(f"{self.name}: {command[0]} ended with {process.returncode}: {last}")
        if not output.is_file():
            raise CommandError(f"{self.name}: {command[0]} wrote no file: {last}")


def load_commands(path: Path) -> dict[str, Command]:
    """The codecs of a TOML file by name.  ValueError naming file, codec and key for what cannot be meant."""
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return {name: _command(f"{path}: [{name}]", name, table) for name, table in tables.items()}


def codec_of(command: Command) -> Codec:
    """Command -> codec.  CodecMissing where a program is not installed."""
    for program in dict.fromkeys((command.encode_command[0], command.decode_command[0])):
        if shutil.which(program) is None:
            raise CodecMissing(f"{command.name}: the program {program} is not installed")
    version = f"{_first_line(command.version_command)}: " if command.version_command else ""
    description = f"{version}{shlex.join(command.encode_command)}, from {command.pictures}"
    return Codec(
        command.name,
        command.suffix,
        command.settings,
        command.encode,
        command.decode,
        description,
        command.peak_mb,
    )


def _first_line(command: tuple[str, ...]) -> str:
    """What a program says first when asked for its version; its name when it says nothing."""
    try:
        said = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return command[0]
    lines = said.stdout.decode(errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), command[0])


def _command(where: str, name: str, table: Any) -> Command:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a table")
    for key, kind in REQUIRED.items():
        if not isinstance(table.get(key), kind):
            raise ValueError(f"{where}: {key} has to be a {kind.__name__}, got {table.get(key)!r}")
    for key, value in table.items():
        if key not in REQUIRED and not isinstance(value, OPTIONAL.get(key, ())):
            raise ValueError(f"{where}: {key} = {value!r} is not known")
    if any(mark in name for mark in ":,=/\\") or not name:
        raise ValueError(f"{where}: the name must have none of : , = / \\")
    if table["pictures"] not in PICTURES:
        raise ValueError(f"{where}: pictures is {table['pictures']!r}, known are {', '.join(PICTURES)}")
    if not table["suffix"].startswith(".") or "/" in table["suffix"]:
        raise ValueError(f"{where}: suffix is {table['suffix']!r}, expected one like '.jxl'")
    numbers = table["settings"]
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"{where}: settings are {numbers!r}, expected numbers")
    templates = []
    for key, holes in (("encode", {"input", "output", "setting"}), ("decode", {"input", "output"})):
        parts = tuple(shlex.split(table[key]))
        _check_template(f"{where}: {key}", parts, holes)
        templates.append(parts)
    timeout = float(table.get("timeout_s", TIMEOUT_S))
    version = tuple(shlex.split(table.get("version", "")))
    return Command(
        name, table["suffix"], table["pictures"], tuple(numbers), templates[0], templates[1], version, timeout
    )


def _check_template(where: str, parts: tuple[str, ...], holes: set[str]) -> None:
    marks = {hole: f"<{hole}>" for hole in holes}
    try:
        filled = " ".join(part.format(**marks) for part in parts)
    except (KeyError, IndexError, ValueError) as error:
        known = " ".join(f"{{{hole}}}" for hole in sorted(holes))
        message = f"{where}: {' '.join(parts)!r} has a hole that is none of {known}: {error}"
        raise ValueError(message) from None
    for hole, mark in marks.items():
        if mark not in filled:
            raise ValueError(f"{where}: {' '.join(parts)!r} has no {{{hole}}}")
