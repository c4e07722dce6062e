"""Bytes in; a file that is there as a whole or not at all out.

Written under a temporary name in the folder of the target, flushed to the disk, renamed.  A file that is
there is replaced only where the caller allows it, and keeps its permissions and its hard links.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PART = ".part"
"""Suffix of temporary names."""
ABANDONED = re.compile(r"\.[0-9a-f]{16}\.part")

writing = threading.RLock()
"""Held while a file is being written: a process that is to end waits for it, and leaves nothing half."""


def write_bytes(path: str | os.PathLike[str], data: bytes, overwrite: bool = True) -> None:
    """Writes a file that appears complete or not at all, and stays after a loss of power.

    A symbolic link is followed; what is neither file nor folder (/dev/stdout, a pipe) is written directly.
    A file that is replaced keeps its mode, and its owner where the system lets it; one with several hard
    links is filled anew under all of its names; where that fails half way, the new contents stay beside it
    under a name that ends in .new, which the error gives.

    Raises OSError as `open` does, always with the name of the target: FileNotFoundError names the folder when
    that is missing, FileExistsError is raised without `overwrite` where anything is there, PermissionError
    for a file that is read-only.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with _named(path):  # the name of /dev/stdout is not resolved: it may lead to a pipe without a name
            path.write_bytes(data)
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    with writing, _named(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        old = target.stat() if target.exists() else None
        if old is not None and not overwrite:
            raise FileExistsError(errno.EEXIST, "exists, and was not to be replaced", str(path))
        if old is not None and not old.st_mode & 0o222:
            raise PermissionError(errno.EACCES, "is read-only", str(path))
        with _new_part(target.parent) as file:  # open, and so locked, until it has its name
            part = Path(file.name)
            try:
                _write(file, data, old)
                if old is not None and old.st_nlink > 1:
                    _refill(target, data, part)
                elif not overwrite:
                    _rename_new(part, target)
                else:
                    part.replace(target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    part.unlink()
        _sync_folder(target.parent)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, a line a row, as `write_bytes` does; its folder is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, csv_bytes([columns, *rows]))


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV in UTF-8; bytes of names that are no text as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def remove_abandoned(folder: Path) -> int:
    """Removes the temporary files of writers that were killed; how many there were.

    A writer holds a lock on its file, which the system takes from it when it ends; where there are no such
    locks nothing is removed.
    """
    count = 0
    for part in folder.glob(f".*{PART}") if fcntl else ():
        if not ABANDONED.fullmatch(part.name) or part.is_symlink():
            continue
        with contextlib.suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
            count += 1
    return count


def _new_part(folder: Path) -> IO[bytes]:
    """A new temporary file, locked where the system can."""
    while True:
        file = open(folder / f".{secrets.token_hex(8)}{PART}", "xb")
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:  # taken for an abandoned one before it was locked
                file.close()
                continue
        return file


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the target, and not a temporary file that nobody knows of."""
    try:
        yield
    except OSError as error:
        hidden = error.filename is None or str(error.filename).endswith(PART)
        if hidden and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"{error.strerror}: no file can be made in the folder {path.parent}"
            raise type(error)(error.errno, reason, str(path)) from error
        if hidden:
            error.filename = os.fspath(path)
        if error.filename2 is not None:
            error.filename2 = None
        raise


def _write(file: IO[bytes], data: bytes, old: os.stat_result | None) -> None:
    if old is not None and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):  # the owner can be kept by root only
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
    if not fcntl:
        file.close()  # Windows renames no open file


def _refill(target: Path, data: bytes, part: Path) -> None:
    """Writes over a file; where that fails half way, `part`, which holds the same, gets a name that stays."""
    try:
        with open(target, "r+b") as file:
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        saved = target.with_name(f"{target.name}.{secrets.token_hex(4)}.new")
        os.link(part, saved)
        if isinstance(error, OSError):
            reason = f"{error.strerror}: may be half written; all of it is in {saved.name}"
            raise OSError(error.errno, reason, str(target)) from error
        raise


def _rename_new(part: Path, target: Path) -> None:
    """Gives the file its name; FileExistsError, and nothing is lost, if another took it meanwhile."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "exists, and was not to be replaced", str(target)) from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists, and was not to be replaced", str(target)) from None
        part.replace(target)


def _sync_folder(folder: Path) -> None:
    """So that the new name stays too; systems that cannot flush a folder do without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
