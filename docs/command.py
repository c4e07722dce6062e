"""python -m docs.command: the --help of every command in; docs/command.md, a table for each, out.

The help is asked for at a width at which no line breaks, and only its words are taken, so the page is the
same on every terminal and every version of Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import tyro

from sfumato.image import write_bytes

PAGE = Path(__file__).with_name("command.md")
WIDTH = "1000"  # columns
ABOVE = """# The command

Written by `python -m docs.command` from what `sfumato COMMAND --help` prints.

An option that is not given does what its text says, or takes the default. Exit codes: 0 done, 1 something
could not be done, 2 bad arguments, 130 interrupted. `sfumato --version` prints the versions of the
package and of the format.
"""


def text() -> str:
    """The page."""
    commands = re.search(r"\{([\w,-]+)\}", _help())
    if commands is None:
        raise ValueError("sfumato --help lists no commands")
    return "\n".join([ABOVE, *(_section(name) for name in commands[1].split(","))])


def _section(command: str) -> str:
    """Usage, description and table of one command."""
    _, _, rest = _help(command).partition("\n")
    description, _, boxes = rest.partition("\n╭")
    entries = _entries(boxes)
    words = " ".join(name for name, _ in entries if not name.startswith("-"))
    head = f"## sfumato {command}\n{' '.join(description.split())}\n\n"
    head += f"    sfumato {command} {words} [options]\n\n"
    rows = [f"| `{name}` | {' | '.join(_defaults(meaning))} |" for name, meaning in entries]
    return head + "\n".join(["| argument | meaning | default |", "|---|---|---|", *rows]) + "\n"


def _entries(boxes: str) -> list[tuple[str, str]]:
    """(spelling, meaning) of each argument: a spelling begins its line, a long meaning follows indented."""
    found: list[tuple[str, str]] = []
    for line in re.findall(r"^│ (.*?) *│$", boxes, re.M):
        spelling, _, meaning = line.partition("  ") if not line.startswith(" ") else ("", "", line)
        if spelling:
            found.append((spelling, meaning.strip()))
        else:
            name, before = found.pop()
            found.append((name, f"{before} {meaning.strip()}".strip()))
    escaped = [(name.replace("|", "\\|"), meaning.replace("|", "\\|")) for name, meaning in found]
    return [(name, meaning) for name, meaning in escaped if not name.startswith("-h,")]


def _defaults(meaning: str) -> tuple[str, str]:
    """(meaning, default); "" for what has no default worth showing."""
    found = re.fullmatch(r"(.*?)\s*\((?:default: ([^()]*)|required)\)", meaning)
    if found is None:
        return meaning, ""
    return found[1], "required" if found[2] is None else f"`{found[2]}`"


def _help(*command: str) -> str:
    """What `sfumato COMMAND --help` prints on a very wide terminal without colours."""
    plain = {"COLUMNS": WIDTH, "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_COLOR")} | plain
    arguments = [sys.executable, "-m", "sfumato", *command, "--help"]
    done = subprocess.run(arguments, env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def main() -> None:
    """Write the page of the command anew from its help."""
    write_bytes(PAGE, text().encode())
    print(f"{PAGE.name}: written")


if __name__ == "__main__":
    tyro.cli(main)
