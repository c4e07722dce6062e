"""What a store holds, in; the shards of a job, those that are left, and the tables of what came of them, out.

A job keeps its books in its destination, under `_sfumato/`:

    manifest.jsonl     the settings, and a line a shard: its name, its files, what they become
    status/SHARD.jsonl a row a file, written when the whole shard is done
    errors.csv, report.parquet   all rows, written at the end

A shard is the unit of work and of resuming: one tar of the source, or a fixed number of its files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sfumato.batch import folded, names_for
from sfumato.conversion import Conversion, Row
from sfumato.files import csv_bytes
from sfumato.jobs import UsageError
from sfumato.storage import Store, expand

Layout = Literal["files", "tar", "parquet"]
FOLDER = "_sfumato"
MANIFEST = f"{FOLDER}/manifest.jsonl"
STATUS = f"{FOLDER}/status"
ERRORS = f"{FOLDER}/errors.csv"
REPORT = f"{FOLDER}/report.parquet"
TAR = ".tar"
READ_AT_ONCE = 1000  # status files


@dataclass(frozen=True)
class Shard:
    """A unit of work: names relative to the source and to the destination."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()  # of each source; of a tar none: its members name theirs

    @property
    def status(self) -> str:
        return f"{STATUS}/{self.name}.jsonl"


@dataclass(frozen=True)
class Manifest:
    """The settings of a job and its shards, in order."""

    settings: dict[str, Any]
    shards: tuple[Shard, ...]

    @classmethod
    def read(cls, dest: Store) -> Manifest | None:
        """That of an earlier run, or None."""
        if not dest.has(MANIFEST):
            return None
        first, *rest = dest.read(MANIFEST).splitlines()
        lines = [json.loads(line) for line in rest]
        shards = (Shard(s["name"], tuple(s["sources"]), tuple(s["targets"])) for s in lines)
        return cls(json.loads(first), tuple(shards))

    def write(self, dest: Store) -> None:
        lines = [json.dumps(self.settings), *(json.dumps(asdict(shard)) for shard in self.shards)]
        dest.write(MANIFEST, "".join(f"{line}\n" for line in lines).encode(), overwrite=True)

    def left(self, dest: Store) -> list[Shard]:
        """The shards that no run has finished."""
        done = set(dest.names(STATUS))
        return [shard for shard in self.shards if f"{shard.name}.jsonl" not in done]


def prepare(
    store: Store,
    names: Sequence[str],
    dest: Store,
    conversion: Conversion,
    layout: Layout | None,
    size: int,
    settings: Row,
) -> Manifest:
    """The manifest of a job, read where it was begun before, with what the source has got since, and written.

    `layout` None is that of the source: tar for tars.  Raises UsageError for a source without files to
    convert, one that holds the destination, and settings other than those that the job was begun with.
    """
    if size < 1:
        raise UsageError(f"--shard-size {size}: need at least 1")
    if dest.url == store.url or dest.url.startswith(f"{store.url}/"):
        raise UsageError(f"{dest.url} lies in {store.url}, which is read; name another destination")
    before = Manifest.read(dest)
    settings = json.loads(json.dumps({"source": store.url, **settings}))
    usual: Layout = "tar" if any(name.endswith(TAR) for name in names) else "files"
    chosen: Layout = layout or (before.settings["layout"] if before else usual)
    settings["layout"] = chosen
    if before is not None and (changed := _changes(before.settings, settings)):
        raise UsageError(f"{dest.url} holds a job with {changed}; name another destination")
    old = before.shards if before else ()
    shards = (*old, *_further(names, old, conversion, chosen, size))
    if not shards:
        kinds = " ".join(sorted(conversion.suffixes))
        raise UsageError(f"{store.url}: no files to read; looked for {TAR} {kinds}")
    manifest = Manifest(settings, shards)
    if before is None or len(shards) > len(old):
        manifest.write(dest)
    return manifest


def find(source: str) -> tuple[Store, list[str]]:
    """A store and the names of its files: of a folder, one tar, or tars numbered {000..099}.

    Raises FileNotFoundError for a folder that is not there.
    """
    if not source.endswith(TAR):
        store = Store.at(source)
        if not (names := store.names()) and not store.fs.exists(store.root):
            raise FileNotFoundError(2, "no such folder", source)
        return store, names
    urls = expand(source)
    folder = urls[0].rpartition("/")[0]
    if any(url.rpartition("/")[0] != folder for url in urls):
        raise UsageError(f"{source}: numbered tars have to lie in one folder")
    return Store.at(folder or "."), [url.rpartition("/")[2] for url in urls]


def _changes(before: Row, now: Row) -> str:
    keys = sorted({*before, *now})
    return ", ".join(
        f"{key} {before.get(key)} in place of {now.get(key)}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def _further(
    names: Sequence[str], old: Sequence[Shard], conversion: Conversion, layout: Layout, size: int
) -> Iterator[Shard]:
    """Shards of the files that no shard has yet; the old ones stay what they are."""
    known = {name for shard in old for name in shard.sources}
    new = [name for name in names if name not in known]
    yield from (Shard(name.removesuffix(TAR), (name,)) for name in new if name.endswith(TAR))
    files = [name for name in new if conversion.takes(name)]
    if not files:
        return
    taken = {folded(Path(target)) for shard in old for target in shard.targets}
    targets = names_for([Path(name) for name in files], conversion.suffix)
    pairs = []
    for name in files:
        target = targets[Path(name)].as_posix()
        if folded(Path(target)) in taken:
            target = f"{name}{conversion.suffix}"
        pairs.append((name, one_key(target) if layout == "tar" else target))
    used = {shard.name for shard in old} | {name.removesuffix(TAR) for name in new if name.endswith(TAR)}
    free = (name for i in count() if (name := f"shard-{i:06d}") not in used)
    for i in range(0, len(pairs), size):
        sources, places = zip(*pairs[i : i + size], strict=True)
        yield Shard(next(free), sources, places)


def one_key(name: str) -> str:
    """A name of which WebDataset takes all but the suffix for the key: it would cut it at the first dot."""
    path = PurePosixPath(name)
    stem = path.stem.replace("%", "%25").replace(".", "%2E")
    return str(path.with_name(stem + path.suffix))


def rows_of(data: bytes) -> list[Row]:
    """The rows of a status file."""
    return [json.loads(line) for line in data.splitlines()]


def to_status(rows: Iterable[Row]) -> bytes:
    """The inverse of `rows_of`."""
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows).encode()


def collect(manifest: Manifest, dest: Store) -> list[Row]:
    """The rows of all shards that are done, in the order of the manifest."""
    done = set(dest.names(STATUS))
    names = [shard.status for shard in manifest.shards if f"{shard.name}.jsonl" in done]
    rows: list[Row] = []
    for i in range(0, len(names), READ_AT_ONCE):
        part = names[i : i + READ_AT_ONCE]
        found = dest.read_all(part)
        rows += [row for name in part for row in rows_of(found[name])]
    return rows


def write_tables(rows: Sequence[Row], dest: Store) -> None:
    """errors.csv (path, error) and report.parquet (all fields)."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    errors = ([row["input"], row["error"]] for row in rows if "error" in row)
    dest.write(ERRORS, csv_bytes([["path", "error"], *errors]), overwrite=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {name: pa.array([_valid(row.get(name)) for row in rows]) for name in names}
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out)
    dest.write(REPORT, out.getvalue(), overwrite=True)


def _valid(value: Any) -> Any:
    """Names that are not Unicode with escapes, as Parquet holds no others."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
