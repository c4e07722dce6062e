"""Files that are written stay, keep their modes and links, and errors name
them.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato import files, terminal
from sfumato.files import write_bytes
from tests.conftest import Call


def test_file_and_folder_are_flushed_before_and_after_the_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def named(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", named)
    write_bytes(tmp_path / "a", b"new")
    assert done == ["file", "rename", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_modes_links_and_read_only_files_are_respected(tmp_path: Path) -> None:
    target, other = tmp_path / "a", tmp_path / "b"
    target.write_bytes(b"old and longer")
    target.chmod(0o600)
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new" and stat.S_IMODE(target.stat().st_mode) == 0o600
    os.link(target, other)
    write_bytes(target, b"newer")
    assert other.read_bytes() == b"newer" and target.samefile(other)
    target.chmod(0o400)
    with pytest.raises(PermissionError, match="is read-only") as error:
        write_bytes(target, b"newest")
    assert error.value.filename == str(target) and target.read_bytes() == b"newer"
    assert sorted(tmp_path.iterdir()) == [target, other]


def test_without_overwrite_nothing_is_replaced_even_in_a_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    write_bytes(target, b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write_bytes(target, b"second", overwrite=False)
    target.unlink()
    write = files._write

    def meanwhile(part: Path, data: bytes, old: os.stat_result | None) -> None:
        write(part, data, old)
        target.write_bytes(b"of another program")

    monkeypatch.setattr(files, "_write", meanwhile)
    with pytest.raises(FileExistsError):
        write_bytes(target, b"second", overwrite=False)
    assert target.read_bytes() == b"of another program" and list(tmp_path.iterdir()) == [target]


def test_errors_name_the_target_and_not_a_hidden_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / ".0123456789abcdef.part"))

    monkeypatch.setattr(files, "_new_part", refused)
    with pytest.raises(PermissionError) as error:
        write_bytes(tmp_path / "a.png", b"x")
    assert error.value.filename == str(tmp_path / "a.png")
    assert error.value.strerror == f"Permission denied: no file can be made in the folder {tmp_path}"


def photo(path: Path) -> Path:
    row, column = np.mgrid[0:60, 0:90]
    pixels = np.stack([row * 4, column * 2, row + column], -1).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.mark.parametrize(
    "name", ["b].png", "[red]x.png", "a\nb.png", "a\x1b[31mred.png", "caf\u00e9\u202e.png", b"\xff\xfe.png"]
)
def test_any_name_can_be_reported(name: str | bytes, tmp_path: Path, call: Callable[..., Call]) -> None:
    folder = (
        tmp_path / "in["
    )  # with the first name the path holds [/b], which ends bold text in rich's markup
    folder.mkdir()
    path = photo(Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name)))))
    done = call("encode", path, "-o", tmp_path / "a.sfu")
    assert done.returncode == 0, done.stderr
    path.with_suffix(".jpg").write_text("no image")
    done = call("encode", folder, "-o", tmp_path / "out", "--jobs", 1)
    assert done.returncode == 1
    printed = done.stdout + done.stderr
    assert all(c.isprintable() for c in printed.replace("\n", "")) and "Traceback" not in printed
    assert len(list((tmp_path / "out").iterdir())) == 1
    shown = terminal.printable(path.name)
    assert "\n" not in shown and "\x1b" not in shown


def test_a_terminal_without_the_characters_is_no_error(tmp_path: Path) -> None:
    """The file was written, and the command ended with 1."""
    path = photo(tmp_path / "\u96ea.png")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "sfumato", "encode", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "\\u96ea.sfu: 90x60" in done.stdout, done.stderr


def test_a_progress_bar_shows_names_as_they_are() -> None:
    with terminal.progress() as bar:
        bar.disable = False
        task = bar.add_task("[/b] [red]")
        (column, *_) = bar.columns
        assert column.render(bar.tasks[task]).plain == "[/b] [red]"  # type: ignore[union-attr]


def test_where_a_name_ends_in_a_slash_a_folder_is_made(tmp_path: Path, call: Callable[..., Call]) -> None:
    source = photo(tmp_path / "a.png")
    assert call("encode", source, "-o", f"{tmp_path}/new/").returncode == 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.sfu"]
    (tmp_path / "there").mkdir()
    assert call("encode", source, "-o", tmp_path / "there").returncode == 0
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["a.sfu"]
    done = call("encode", source, "-o", f"{source}/")
    assert done.returncode == 1 and "a.png: is no folder" in done.stderr


def test_an_encoder_writes_no_bytes_under_another_format_s_name(
    tmp_path: Path, call: Callable[..., Call]
) -> None:
    source = photo(tmp_path / "a.png")
    for name in ("b.png", "b.JPG", "b.tiff", "b.heic"):
        done = call("encode", source, "-o", tmp_path / name)
        assert done.returncode == 2 and "encode writes .sfu files" in done.stderr
    done = call("compare", source, "-o", tmp_path / "b.png")
    assert done.returncode == 2 and "compare writes a page" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_nothing_that_is_there_is_replaced_by_name_either(tmp_path: Path, call: Callable[..., Call]) -> None:
    source = photo(tmp_path / "a.png")
    assert call("encode", source).returncode == 0
    for name in ("old.png", "old.jpg"):
        (tmp_path / name).write_bytes(b"an original")
        done = call("decode", tmp_path / "a.sfu", "-o", tmp_path / name)
        assert done.returncode == 1 and f"{name}: exists" in done.stderr
        assert (tmp_path / name).read_bytes() == b"an original"
    (tmp_path / "a.html").write_text("my page")
    done = call("compare", source, "-o", tmp_path / "a.html")
    assert done.returncode == 1 and (tmp_path / "a.html").read_text() == "my page"
    assert call("decode", tmp_path / "a.sfu", "-o", tmp_path / "old.png", "--overwrite").returncode == 0


def test_a_crop_reports_its_own_size(tmp_path: Path, call: Callable[..., Call]) -> None:
    call("encode", photo(tmp_path / "a.png"))
    done = call("decode", tmp_path / "a.sfu", "-o", tmp_path / "b.png", "--crop", 10, 20, 30, 7)
    assert "b.png: 30x7, " in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_in_mid_write_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from sfumato import files, terminal\n"
        "terminal.prepare(); fsync = os.fsync\n"
        "os.fsync = lambda handle: (print('now', flush=True), __import__('time').sleep(20))\n"
        "try:\n    files.write_bytes(sys.argv[1], b'x' * 100000)\n"
        "except terminal.Ended as end:\n    sys.exit(end.code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "now\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """kill -9 in mid-write leaves a hidden file, which stayed for ever."""
    script = (
        "import os, sys; from sfumato import files\n"
        "os.fsync = lambda handle: (print('now', flush=True), __import__('time').sleep(60))\n"
        "files.write_bytes(sys.argv[1], b'x' * 100000)\n"
    )
    (tmp_path / ".notes.part").write_bytes(b"of another program")
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "now\n"
        assert files.remove_abandoned(tmp_path) == 0 and len(list(tmp_path.iterdir())) == 2
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2
    assert files.remove_abandoned(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".notes.part"]


def test_a_full_disk_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from sfumato import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "files.write_bytes(sys.argv[1], b'x' * 100000)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "File too large: " in done.stderr and str(tmp_path / "a") in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_refilled_under_all_its_names_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old" * 1000)
    os.link(target, tmp_path / "b.png")
    fsync = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_nlink > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="all of it is in") as error:
        write_bytes(target, b"new" * 3000)
    assert error.value.filename == str(target)
    (saved,) = tmp_path.glob("a.png.*.new")
    assert saved.read_bytes() == b"new" * 3000 and saved.name in error.value.strerror
    assert not files.remove_abandoned(tmp_path) and len(list(tmp_path.iterdir())) == 3
