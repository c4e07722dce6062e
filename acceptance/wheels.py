"""python -m acceptance.wheels -o CSV: whether every dependency has a wheel for each Python and system.

pip resolves the package's own dependencies for another Python and platform, from wheels only, and installs
nothing.  It needs a package index.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.files import write_csv

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86_64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"),
    "Linux aarch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"),
    "Windows x86_64": ("win_amd64",),
    "macOS arm64": ("macosx_14_0_arm64", "macosx_13_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
}
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
SHOWN = ("numpy", "onnxruntime", "constriction", "pillow", "safetensors")


def resolve(python: str, platforms: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """(what pip says when it fails, else "", package -> version) of a Python and its platform tags."""
    requirements = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--only-binary=:all:", "--python-version", python]
        command += ["--implementation", "cp", "--report", str(report)]
        command += [part for tag in platforms for part in ("--platform", tag)]
        done = subprocess.run([*command, *requirements], capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1], {}
        installed = json.loads(report.read_text())["install"]
    return "", {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in installed}


def main(output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]) -> None:
    """Resolve the dependencies for every Python and system; exit code 1 if one has none.

    Args:
        output: the CSV file.
    """
    rows = []
    for name, platforms in PLATFORMS.items():
        for python in PYTHONS:
            error, versions = resolve(python, platforms)
            rows.append([name, python, error or "resolved", *(versions.get(part, "") for part in SHOWN)])
            print(*rows[-1], sep="  ", flush=True)
    write_csv(output, ["system", "python", "result", *SHOWN], rows)
    if any(row[2] != "resolved" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
