"""A path or URL in; names, bytes and whole files out, wherever they lie: a folder, s3://, gs://, https://.

fsspec does the work, with its packages for each protocol (s3fs, gcsfs, aiohttp), settings and credentials.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sfumato import files

PUTS_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory"}
"""Protocols where an object that is put is there complete or not at all; others get a temporary name."""
READ_ONLY = {"http", "https"}
NAME = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""WebDataset's notation of numbered shards: shard-{0000..0099}.tar."""


class StorageError(ValueError):
    """A URL that cannot be read or written; the message names it."""


@dataclass(frozen=True)
class Store:
    """A folder of any file system; names in it are relative, with slashes.  Goes to other processes."""

    fs: Any  # fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, url: str) -> Store:
        """StorageError for a protocol that is unknown or whose package is missing."""
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise StorageError("needs fsspec: pip install 'sfumato[ray]'") from None
        try:
            # without a cache: a listing from before would not show what other processes wrote
            fs, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{url}: {error}") from error
        return cls(fs, root.rstrip("/"))

    @property
    def url(self) -> str:
        """The whole URL, good on any working directory."""
        return str(self.fs.unstrip_protocol(self.root))

    @property
    def _protocols(self) -> set[str]:
        protocol = self.fs.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    def path(self, name: str) -> str:
        """The whole path of a name, without the protocol."""
        return f"{self.root}/{name}" if name else self.root

    def names(self, folder: str = "") -> list[str]:
        """All files under a folder, sorted, but those that are hidden or in hidden folders; none if it is
        missing."""
        top = self.path(folder)
        try:
            found = self.fs.find(top)
        except FileNotFoundError:
            return []
        names = [path[len(top) + 1 :] for path in found if path.startswith(f"{top}/")]
        return sorted(n for n in names if n and not any(part.startswith(".") for part in n.split("/")))

    def has(self, name: str) -> bool:
        return bool(self.fs.isfile(self.path(name)))

    def read(self, name: str) -> bytes:
        """FileNotFoundError for what is not there, OSError for what cannot be read."""
        return bytes(self.fs.cat_file(self.path(name)))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Several at once, which takes a bucket far less time than one after another."""
        paths = {self.path(name): name for name in names}
        if not paths:
            return {}
        found = self.fs.cat(list(paths), on_error="raise")
        if isinstance(found, bytes):  # of a list of one, for some file systems
            return {next(iter(paths.values())): found}
        return {name: bytes(found[path]) for path, name in paths.items()}

    def write(self, name: str, data: bytes, overwrite: bool = False) -> None:
        """Complete or not at all.  What is there with these very bytes stays, whoever wrote it; with others
        FileExistsError unless `overwrite`."""
        path = self.path(name)
        if self._protocols & READ_ONLY:
            raise StorageError(f"{path}: cannot be written to, only read")
        if not overwrite and self.has(name):
            if self.read(name) == data:
                return
            raise FileExistsError(17, "is there with other contents, and was kept", path)
        folder = path.rpartition("/")[0]
        if self._protocols & PUTS_WHOLE:
            self.fs.pipe_file(path, data)
            return
        self.fs.makedirs(folder, exist_ok=True)
        if "file" in self._protocols:
            files.write_bytes(path, data, overwrite)
        else:
            part = f"{folder}/.{secrets.token_hex(8)}{files.PART}"
            self.fs.pipe_file(part, data)
            self.fs.mv(part, path)

    def delete(self, name: str) -> None:
        if self.has(name):
            self.fs.rm_file(self.path(name))


def expand(url: str) -> list[str]:
    """The URLs that `shard-{000..099}.tar` stands for; itself without braces."""
    found = NAME.search(url)
    if found is None:
        return [url]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [u for n in numbers for u in expand(NAME.sub(f"{n:0{len(first)}d}", url, count=1))]
