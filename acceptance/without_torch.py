"""python acceptance/without_torch.py [-o CSV] [--python PATH ...]: what users install, as the README has it.

Each interpreter has the package installed and no torch.  The README's first command, the Pillow plugin, a
folder there and back, and `sfumato compare` run in processes of it, in an empty folder, so that nothing of
this checkout is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.files import write_csv

PHOTO = Path(__file__).parents[1] / "examples" / "chelsea.png"
VERSIONS = """
import importlib.metadata as m, importlib.util as u, platform
assert u.find_spec("torch") is None, "torch is installed"
print(platform.python_version(), *(m.version(name) for name in ("numpy", "onnxruntime", "pillow")))
"""
PLUGIN = """
import sys
import sfumato.pillow
from PIL import Image
sfumato.pillow.register()
with Image.open(sys.argv[1]) as photo:
    photo.save("plugin.sfu", quality=40)
with Image.open("plugin.sfu") as opened:
    assert opened.size == photo.size and opened.mode == "RGB", opened
    opened.save("plugin.png")
"""
COLUMNS = ("python", "numpy", "onnxruntime", "pillow", "torch", "what", "result")


class Session:
    """Commands of one interpreter in one folder."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python, self.folder = python, folder

    def run(self, *words: str) -> str:
        """Standard output; RuntimeError with the last line of an error."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [self.python, *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
        return done.stdout

    def sfumato(self, *words: object) -> None:
        """The command."""
        self.run("-m", "sfumato", *map(str, words))

    def expect(self, *names: str) -> None:
        """RuntimeError unless these files were written."""
        missing = [name for name in names if not (self.folder / name).stat().st_size]
        if missing:
            raise RuntimeError(f"{missing} are empty")


def first_command(session: Session) -> None:
    session.sfumato("encode", PHOTO, "-o", "chelsea.sfu")
    session.sfumato("decode", "chelsea.sfu", "-o", "chelsea.png")
    session.expect("chelsea.sfu", "chelsea.png")


def plugin(session: Session) -> None:
    session.run("-c", PLUGIN, str(PHOTO))
    session.expect("plugin.sfu", "plugin.png")


def folder(session: Session) -> None:
    photos = session.folder / "photos"
    (photos / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        (photos / name).write_bytes(PHOTO.read_bytes())
    session.sfumato("encode", "photos", "-o", "small", "--jobs", 2)
    session.sfumato("decode", "small", "-o", "back", "--jobs", 2)
    session.expect("small/a.sfu", "small/more/b.sfu", "back/a.png", "back/more/b.png")


def compare(session: Session) -> None:
    session.sfumato("compare", PHOTO, "-o", "page.html")
    session.expect("page.html")


CHECKS: dict[str, Callable[[Session], None]] = {
    "encode, decode": first_command,
    "Pillow plugin: open, save": plugin,
    "a folder, and back": folder,
    "compare": compare,
}


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    python: tuple[str, ...] = (sys.executable,),
) -> None:
    """Run every check in every interpreter; exit code 1 if one fails.

    Args:
        output: CSV file, a row for each interpreter and check.
        python: interpreters that have the package without extras.
    """
    rows = []
    for path in python:
        with tempfile.TemporaryDirectory() as name:
            session = Session(path, Path(name))
            versions = session.run("-c", VERSIONS).split()
            for what, check in CHECKS.items():
                try:
                    check(session)
                    result = "works"
                except (RuntimeError, OSError) as error:
                    result = str(error)
                rows.append((*versions, "not importable", what, result))
                print(*rows[-1], sep="  ", flush=True)
    if output is not None:
        write_csv(output, COLUMNS, rows)
    if any(row[-1] != "works" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
