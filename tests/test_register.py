"""What `sfumato register` writes, used by the programs it is for; and taken back."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato.pillow
from sfumato import register
from sfumato.jobs import UsageError

GOLDEN = Path(__file__).parent / "golden"
FILE = GOLDEN / "low.sfu"  # 160x96


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, with nothing of this one's."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_DATA_DIRS", "MAGICK_CONFIGURE_PATH", "MAGIC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # the delegate and the thumbnailer start another Python
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return tmp_path


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_media_type_is_known_by_name_and_by_content(home: Path) -> None:
    need("update-mime-database")
    register.register()
    query = need("xdg-mime")
    unnamed = home / "unnamed"
    unnamed.write_bytes(FILE.read_bytes())
    for path in (FILE, unnamed):
        assert run(query, "query", "filetype", path).strip() == register.MIME
    register.register(undo=True)
    assert run(query, "query", "filetype", FILE).strip() != register.MIME


def test_file_names_the_format_and_its_version(home: Path) -> None:
    program = need("file")
    register.register()
    assert "sfumato image, version 3" in run(program, FILE)
    assert run(program, "--brief", "--mime-type", FILE).strip() == register.MIME
    register.register(undo=True)
    assert "sfumato" not in run(program, "--brief", FILE)


@pytest.mark.parametrize("side", [64, 512])
def test_the_thumbnailers_command_makes_a_png_of_at_most_a_size(home: Path, side: int) -> None:
    register.register()
    text = (home / ".local/share/thumbnailers/sfumato.thumbnailer").read_text()
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert fields["MimeType"] == f"{register.MIME};"
    assert os.access(fields["TryExec"], os.X_OK)
    out = home / "thumbnail"
    values = {"%i": str(FILE), "%o": str(out), "%s": str(side)}
    run(*(values.get(part, part) for part in shlex.split(fields["Exec"])))
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == ((64, 38) if side == 64 else (160, 96))


def test_imagemagick_reads_and_writes(home: Path) -> None:
    program = shutil.which("magick") or need("convert")
    if "ImageMagick" not in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
        pytest.skip(f"{program} is not ImageMagick's")
    register.register()
    png, again = home / "a.png", home / "b.sfu"
    run(program, FILE, png)
    with Image.open(png) as image:
        found = np.asarray(image.convert("RGB"))
    assert np.array_equal(found, sfumato.decode(FILE.read_bytes()))
    run(program, png, again)
    assert sfumato.decode(again.read_bytes()).shape == (96, 160, 3)
    register.register(undo=True)
    assert subprocess.run([program, str(FILE), str(home / "c.png")], capture_output=True).returncode


def test_imageio_reads_and_writes_by_way_of_pillow(tmp_path: Path) -> None:
    iio = pytest.importorskip("imageio.v3")
    sfumato.pillow.register()
    pixels = iio.imread(FILE)
    assert np.array_equal(pixels, sfumato.decode(FILE.read_bytes()))
    iio.imwrite(tmp_path / "a.sfu", pixels, plugin="pillow")
    assert iio.improps(tmp_path / "a.sfu", plugin="pillow").shape == (96, 160, 3)


def test_registering_with_pillow_twice_changes_nothing() -> None:
    sfumato.pillow.register()
    before = list(Image.ID), dict(Image.OPEN), dict(Image.EXTENSION)
    sfumato.pillow.register()
    assert (list(Image.ID), dict(Image.OPEN), dict(Image.EXTENSION)) == before


def test_undoing_leaves_what_others_wrote(home: Path) -> None:
    delegates = home / ".config/ImageMagick/delegates.xml"
    delegates.parent.mkdir(parents=True)
    delegates.write_text('<delegatemap>\n  <delegate decode="x" command="y"/>\n</delegatemap>\n')
    (home / ".magic").write_text("0 string XYZ a thing")
    before = tree(home)
    register.register()
    once = tree(home)
    register.register()
    assert tree(home) == once, "a second time changes nothing"
    assert b'decode="x"' in once[".config/ImageMagick/delegates.xml"]
    register.register(undo=True)
    after = {name: data for name, data in tree(home).items() if not name.startswith(".local/share/mime/")}
    assert after.pop(".magic").rstrip() == before.pop(".magic")
    assert after == before


def test_printing_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register.register(print=True)
    printed = capsys.readouterr().out
    assert str(home / ".magic") in printed
    assert '<glob pattern="*.sfu"/>' in printed
    assert tree(home) == {}


def test_files_of_somebody_else_stay(home: Path) -> None:
    path = home / ".local/share/mime/packages/sfumato.xml"
    path.parent.mkdir(parents=True)
    path.write_text("<mine/>")
    for undo in (False, True):
        with pytest.raises(UsageError, match="sfumato.xml"):
            register.register(undo=undo)
    assert path.read_text() == "<mine/>"


def test_system_wide_files_lie_where_all_users_programs_look(tmp_path: Path) -> None:
    for name in ("etc/ImageMagick-6", "etc/ImageMagick-7"):
        (tmp_path / name).mkdir(parents=True)
    names = [str(e.path.relative_to(tmp_path)) for e in register.entries("system", {}, tmp_path)]
    assert names == [
        "usr/local/share/mime/packages/sfumato.xml",
        "usr/local/share/thumbnailers/sfumato.thumbnailer",
        "etc/magic",
        "etc/ImageMagick-6/delegates.xml",
        "etc/ImageMagick-7/delegates.xml",
    ]


def test_the_helper_names_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sfu"
    bad.write_bytes(b"no image")
    command = [sys.executable, "-m", "sfumato.register", str(bad), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("sfumato: ")
    assert not (tmp_path / "a.png").exists()
