"""The decoder of `web/`: the same symbols and images as Python's, in Node and in Chromium.

The tests themselves are in `web/tests`; here they get what Python decodes as a reference, and their verdict
is reported.  They need `npm ci && npm run build` in `web/`, which `scripts/test` runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sfumato

ROOT = Path(__file__).parent.parent
WEB = ROOT / "web"
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Python makes of the files that are compared."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (WEB / "node_modules").is_dir() or not (WEB / "dist" / "index.js").is_file():
        pytest.skip("web/ is not built: npm ci && npm run build")
    folder = tmp_path_factory.mktemp("reference")
    for path in GOLDEN.glob("[!x]*.sfu"):
        (folder / f"{path.stem}.raw").write_bytes(sfumato.decode(path.read_bytes()).tobytes())
    if os.environ.get("SFUMATO_SLOW"):
        row, column = np.mgrid[0:2070, 0:2120] / 300
        waves = np.stack([np.sin(row + k) * np.cos(column * (1 + k / 3)) for k in range(3)], -1)
        data = sfumato.encode((100 * waves + 128).astype(np.uint8), q=0.2)
        (folder / "tiles.sfu").write_bytes(data)
        (folder / "tiles.raw").write_bytes(sfumato.decode(data, steps=0).tobytes())
    return folder


def run(reference: Path, name: str, **environment: str) -> None:
    command = ["node", "--test", "--test-reporter=spec", f"tests/{name}.test.mjs"]
    variables = os.environ | {"SFUMATO_REFERENCE": str(reference)} | environment
    done = subprocess.run(command, cwd=WEB, env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_node(reference: Path) -> None:
    """With SFUMATO_SLOW also an image in several tiles, which takes half a minute."""
    run(reference, "node")


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_in_a_browser(reference: Path, browser: str) -> None:
    """Firefox only where SFUMATO_BROWSERS names it: its tests take two minutes."""
    if not any(map(shutil.which, {"chromium": ["chromium"], "firefox": ["firefox-esr", "firefox"]}[browser])):
        pytest.skip(f"{browser} is not installed")
    if browser not in os.environ.get("SFUMATO_BROWSERS", "chromium").split(","):
        pytest.skip(f"SFUMATO_BROWSERS does not name {browser}")
    run(reference, "browser", SFUMATO_BROWSERS=browser)


def test_python_reads_what_is_encoded_there(reference: Path) -> None:
    """`npm run build` encodes the example: every section is, but for a rounding at times, that of Python."""
    found = sfumato.decode((WEB / "dist" / "sample.sfu").read_bytes(), steps=0)
    mine = sfumato.decode(sfumato.encode(ROOT / "examples" / "chelsea.png", q=100 / 255), steps=0)
    assert np.abs(found.astype(int) - mine).mean() < 0.5
