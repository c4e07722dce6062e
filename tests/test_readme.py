"""What the README tells a newcomer to type works, on the image that it names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "DESIGN.md").read_text()


def test_first_command(tmp_path: Path) -> None:
    line = next(line for line in README.splitlines() if "sfumato encode" in line).strip()
    install, *commands = line.split(" && ")
    assert install == "pip install ."
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in commands:
        arguments = shlex.split(command)
        assert arguments[0] == "sfumato"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}  # also where the package is not installed
        command = [sys.executable, "-m", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    original = np.asarray(Image.open(ROOT / "examples" / "chelsea.png")).astype(float)
    back = np.asarray(Image.open(tmp_path / "chelsea.png"))
    assert 10 * np.log10(255**2 / np.square(original - back).mean()) > 28
    assert (tmp_path / "chelsea.sfu").stat().st_size < 0.8 / 8 * original.shape[0] * original.shape[1]


def test_python_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(examples) == 1
    exec(examples[0], scope)
    assert scope["image"].shape == (300, 451, 3)


def test_second_command_and_tree() -> None:
    assert "\n    bash scripts/test\n" in README
    named = set(re.findall(r"^  (\w+\.py) ", DESIGN, re.M))
    present = {path.name for path in (ROOT / "sfumato").glob("*.py")}
    assert named == present
    for folder in re.findall(r"^(\w+)/", DESIGN, re.M):
        assert (ROOT / folder).is_dir(), folder
