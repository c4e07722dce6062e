"""A shard in; its files converted and written, and a row a file, out.  The work of one actor.

Whatever runs it, and however often, a shard comes to the same bytes: nothing depends on the order, the time
or the machine.  A file is an error's row where it is broken; a store that fails is an exception, and the
shard is left for the next run.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sfumato.batch import names_for
from sfumato.conversion import Conversion, Converted, Row, failure
from sfumato.manifest import FOLDER, TAR, Layout, Shard, rows_of, to_status
from sfumato.storage import Store

ATTEMPTS = f"{FOLDER}/attempts"
DEATHS = 3
"""Times that a process may die on one image before it is left out."""
GONE = (FileNotFoundError, IsADirectoryError, PermissionError)  # faults of a file and not of the store


class Member(NamedTuple):
    """A file of a shard: to be converted, or one that goes along with an image in a tar."""

    source: str  # as the report has it
    target: str
    data: bytes | Row  # or the row of a failure
    converts: bool = True


@dataclass(frozen=True)
class Work:
    """A job on the shards of a store; goes to other processes."""

    source: Store
    dest: Store
    conversion: Conversion
    layout: Layout
    overwrite: bool = False

    def do(self, shard: Shard) -> list[Row]:
        """Converts a shard, writes what comes out and then its status; one that is done is only read.

        Raises OSError where the store does, FileExistsError for a shard that is there with other contents.
        """
        if self.dest.has(shard.status):
            return rows_of(self.dest.read(shard.status))
        attempt = Attempt(self.dest, f"{ATTEMPTS}/{shard.name}.json")
        rows: list[Row] = []
        written: list[tuple[str, bytes, Row]] = []
        for sample in self._samples(shard):
            found = [(m, self._convert(m, attempt)) for m in sample]
            images = [c.data for m, c in found if m.converts]
            kept = not images or any(data is not None for data in images)  # what goes along, with an image
            for member, (data, row) in found:
                if member.converts:
                    rows.append(row | {"shard": shard.name})
                if data is None or not self.conversion.writes:
                    continue
                if self.layout == "files":
                    rows[-1] = self._write(data, rows[-1])
                elif kept:
                    written.append((row.get("output", member.target), data, row))
        if written:
            pack = to_tar if self.layout == "tar" else to_parquet
            suffix = TAR if self.layout == "tar" else ".parquet"
            self.dest.write(shard.name + suffix, pack(written), self.overwrite)
        self.dest.write(shard.status, to_status(rows), overwrite=True)
        attempt.over()
        return rows

    def _convert(self, member: Member, attempt: Attempt) -> Converted:
        if isinstance(member.data, dict):
            return Converted(None, member.data)
        if not member.converts:
            return Converted(member.data, {})
        if not attempt.begins(member.source):
            reason = f"its process was killed {DEATHS} times, perhaps for want of memory"
            return Converted(None, failure(member.source, reason))
        return self.conversion(member.data, member.source, member.target)

    def _write(self, data: bytes, row: Row) -> Row:
        try:
            self.dest.write(row["output"], data, self.overwrite)
        except FileExistsError:
            reason = f"{row['output']} is there with other contents, and was kept; --overwrite replaces it"
            return failure(row["input"], reason) | {"shard": row["shard"]}
        return row

    def _samples(self, shard: Shard) -> Iterator[list[Member]]:
        """The files of a shard; those of one WebDataset sample together."""
        if shard.targets:
            for source, target in zip(shard.sources, shard.targets, strict=True):
                yield [Member(source, target, self._read(source))]
            return
        tar = shard.sources[0]
        seen: set[str] = set()
        for _, group in groupby(self._members(tar), lambda member: key_of(member[0])):
            members = list(group)
            images = [Path(name) for name, data in members if self._converts(name, data)]
            targets = names_for(images, self.conversion.suffix)
            sample = []
            for name, data in members:
                converts = self._converts(name, data)
                target = targets[Path(name)].as_posix() if converts else name
                target = f"{shard.name}/{target}" if self.layout == "files" else target
                full = f"{tar}/{name}" if name else tar
                if target in seen or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    data = failure(full, "the name is there already, or leads out of the folder")
                seen.add(target)
                if converts or isinstance(data, dict):
                    sample.append(Member(full, target, data))
                elif self.layout == "tar":
                    sample.append(Member(full, target, data, converts=False))
            if sample:
                yield sample

    def _converts(self, name: str, data: bytes | Row) -> bool:
        return self.conversion.takes(name) and not isinstance(data, dict)

    def _read(self, name: str) -> bytes | Row:
        try:
            return self.source.read(name)
        except GONE as error:
            return failure(name, error.strerror or str(error))

    def _members(self, tar: str) -> Iterator[tuple[str, bytes | Row]]:
        """(name, bytes) of the files in a tar, one after another; at last ("", failure) where it breaks."""
        try:
            with self.source.fs.open(self.source.path(tar), "rb") as file:
                with tarfile.open(fileobj=file, mode="r|*") as opened:
                    for member in opened:
                        content = opened.extractfile(member) if member.isfile() else None
                        if content is not None:
                            yield member.name, content.read()
        except (tarfile.TarError, EOFError) as error:
            yield "", failure(tar, f"a broken tar: {error}")
        except GONE as error:
            yield "", failure(tar, error.strerror or str(error))


class Attempt:
    """What earlier processes died on, if they did while they had this shard.

    A note says that a shard was begun.  Who finds one notes each image before it is begun, so that one on
    which processes die again and again is left out, and the rest of its shard is done.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.noted: dict[str, int] | None = None
        if store.has(name):
            note = json.loads(store.read(name) or b"{}")
            self.noted = note.get("deaths", {})
            if at := note.get("at"):
                self.noted[at] = self.noted.get(at, 0) + 1
        else:
            store.write(name, b"", overwrite=True)

    def begins(self, image: str) -> bool:
        """Whether an image may be tried."""
        if self.noted is None:
            return True
        if self.noted.get(image, 0) >= DEATHS:
            return False
        note = json.dumps({"at": image, "deaths": self.noted})
        self.store.write(self.name, note.encode(), overwrite=True)
        return True

    def over(self) -> None:
        """The shard is done."""
        self.store.delete(self.name)


def key_of(name: str) -> str:
    """WebDataset's key: the name up to the first dot behind the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def to_tar(members: list[tuple[str, bytes, Row]]) -> bytes:
    """A tar whose bytes follow from names and contents alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, _ in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def to_parquet(members: list[tuple[str, bytes, Row]]) -> bytes:
    """A table with a row a file: path, width, height, bytes."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = {
        "path": pa.array([name for name, _, _ in members], pa.string()),
        "width": pa.array([row["width"] for _, _, row in members], pa.int32()),
        "height": pa.array([row["height"] for _, _, row in members], pa.int32()),
        "bytes": pa.array([data for _, data, _ in members], pa.binary()),
    }
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, compression="none")
    return out.getvalue()
