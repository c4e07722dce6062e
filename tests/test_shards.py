"""Large sets: names, shards, resuming, tables and errors, as one actor does them, without Ray."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato import batch, conversion, manifest, shards
from sfumato.conversion import Conversion, Converted, Decode, Encode, Evaluate, Transcode
from sfumato.jobs import DecodeJob, EncodeJob, UsageError
from sfumato.manifest import Manifest, Shard
from sfumato.shards import Work
from sfumato.storage import StorageError, Store, expand
from tests.conftest import Call
from tests.test_batch import paint

pytest.importorskip("fsspec")


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 12345
            opened.addfile(member, io.BytesIO(data))
    return path


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened}  # type: ignore[union-attr]


def png(seed: int = 0, side: int = 40, suffix: str = ".png") -> bytes:
    out = io.BytesIO()
    coarse = Image.effect_noise((8, 8), 60 + seed).convert("RGB").resize((side, side))
    coarse.save(out, {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[suffix])
    return out.getvalue()


def prepared(
    source: Path | str,
    dest: Path | str,
    convert: Conversion | None = None,
    layout: manifest.Layout | None = None,
    size: int = 2,
    **settings: Any,
) -> tuple[Work, Manifest]:
    convert = convert or Encode(EncodeJob(quality=0.3))
    store, names = manifest.find(str(source))
    out = Store.at(str(dest))
    made = manifest.prepare(store, names, out, convert, layout, size, settings)
    return Work(store, out, convert, made.settings["layout"]), made


def done(work: Work, made: Manifest) -> list[dict[str, Any]]:
    return [row for shard in made.left(work.dest) for row in work.do(shard)]


def test_the_files_are_those_of_the_folder_command(tmp_path: Path, call: Callable[..., Call]) -> None:
    for name, seed in (("a.png", 0), ("a.jpg", 1), ("sub/b.webp", 2), ("sub/c.d.png", 3)):
        paint(tmp_path / "in" / name, seed=seed)
    (tmp_path / "in" / "broken.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    rows = done(*prepared(tmp_path / "in", tmp_path / "out"))
    command = call("encode", tmp_path / "in", "-o", tmp_path / "ref", "-q", 0.3, "--jobs", 1, "--json")
    ours = {p.relative_to(tmp_path / "out"): p.read_bytes() for p in (tmp_path / "out").rglob("*.sfu")}
    theirs = {p.relative_to(tmp_path / "ref"): p.read_bytes() for p in (tmp_path / "ref").rglob("*.sfu")}
    assert ours == theirs and len(ours) == 4
    printed = {Path(o["input"]).relative_to(tmp_path / "in").as_posix(): o for o in command.objects}
    assert {row["input"]: row.get("error") for row in rows} == {k: v.get("error") for k, v in printed.items()}
    keys = {"bytes", "width", "height", "bpp", "quality", "model", "image_bytes"}
    for row in rows:
        if "error" not in row:
            assert {k: row[k] for k in keys} == {k: printed[row["input"]][k] for k in keys}


def test_a_run_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    for i in range(6):
        paint(tmp_path / "in" / f"{i}.png", seed=i)
    work, made = prepared(tmp_path / "in", tmp_path / "out")
    assert [shard.sources for shard in made.shards] == [
        ("0.png", "1.png"),
        ("2.png", "3.png"),
        ("4.png", "5.png"),
    ]
    work.do(made.shards[1])
    first = (tmp_path / "out" / "2.sfu").stat().st_mtime_ns
    (tmp_path / "out" / "0.sfu").write_bytes(sfumato.encode(tmp_path / "in" / "0.png", q=0.3))  # half a shard
    paint(tmp_path / "in" / "7.png", seed=7)  # and one more image
    work, made = prepared(tmp_path / "in", tmp_path / "out")
    assert [shard.name for shard in made.left(work.dest)] == ["shard-000000", "shard-000002", "shard-000003"]
    rows = done(work, made)
    assert sorted(row["input"] for row in rows) == ["0.png", "1.png", "4.png", "5.png", "7.png"]
    assert not any("error" in row for row in rows)
    assert (tmp_path / "out" / "2.sfu").stat().st_mtime_ns == first, "what is done is left alone"
    collected = manifest.collect(made, work.dest)
    assert [row["input"] for row in collected] == [f"{i}.png" for i in (0, 1, 2, 3, 4, 5, 7)]
    assert work.do(made.shards[0]) == collected[:2], "a shard that is done is only read"
    assert not made.left(work.dest)


def test_what_others_wrote_is_kept(tmp_path: Path) -> None:
    for i in range(2):
        paint(tmp_path / "in" / f"{i}.png", seed=i)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.sfu").write_bytes(b"of another")
    work, made = prepared(tmp_path / "in", tmp_path / "out", size=1)
    rows = done(work, made)
    assert (tmp_path / "out" / "1.sfu").read_bytes() == b"of another"
    assert [row.get("error", "")[:32] for row in rows] == ["", "1.sfu is there with other conten"]
    for status in (tmp_path / "out" / manifest.STATUS).iterdir():
        status.unlink()
    assert not any("error" in row for row in done(replace(work, overwrite=True), made))
    assert sfumato.decode((tmp_path / "out" / "1.sfu").read_bytes()).shape[:2] == (40, 40)


def test_shards_keep_their_samples(tmp_path: Path) -> None:
    """An image becomes a .sfu file; what lies beside it goes along, but not beside a broken one."""
    whole = png()
    content = {
        "dir/000.jpg": png(1, suffix=".jpg"), "dir/000.json": b"{}", "dir/000.cls": b"3",
        "dir/001.png": whole[:300], "dir/001.json": b"{}",
        "dir/002.left.png": whole, "dir/002.right.png": whole[:300], "dir/002.txt": b"two views",
        "003.png": whole, "003.jpg": png(2, suffix=".jpg"),
        "004.txt": b"no image",
    }  # fmt: skip
    tar(tmp_path / "in" / "a-0.tar", content)
    tar(tmp_path / "in" / "a-1.tar", {"005.png": whole})
    broken = tar(tmp_path / "in" / "sub" / "cut.tar", {"006.png": whole, "007.png": whole})
    broken.write_bytes(broken.read_bytes()[: 512 * (3 + -(-len(whole) // 512))])  # in the second
    work, made = prepared(tmp_path / "in", tmp_path / "out")
    assert made.settings["layout"] == "tar"
    rows = {row["input"]: row for row in done(work, made)}
    data = (tmp_path / "out" / "a-0.tar").read_bytes()
    found = members(data)
    assert list(found) == [
        "dir/000.sfu", "dir/000.json", "dir/000.cls",
        "dir/002.left.sfu", "dir/002.txt", "003.png.sfu", "003.jpg.sfu", "004.txt",
    ]  # fmt: skip
    assert found["dir/000.sfu"] == sfumato.encode(io.BytesIO(content["dir/000.jpg"]), q=0.3)
    assert found["dir/000.cls"] == b"3"
    assert list(members((tmp_path / "out" / "a-1.tar").read_bytes())) == ["005.sfu"]
    errors = {name for name, row in rows.items() if "error" in row}
    assert errors == {"a-0.tar/dir/001.png", "a-0.tar/dir/002.right.png", "sub/cut.tar"}
    assert "a broken tar" in rows["sub/cut.tar"]["error"] and "sub/cut.tar/006.png" in rows
    again, remade = prepared(tmp_path / "in", tmp_path / "again")
    done(again, remade)
    assert (tmp_path / "again" / "a-0.tar").read_bytes() == data, "the same bytes, whenever they are made"

    back, plan = prepared(tmp_path / "out", tmp_path / "back", Decode(DecodeJob(steps=0)), layout="files")
    rows = {row["input"]: row for row in done(back, plan)}
    assert (tmp_path / "back" / "a-0" / "dir" / "002.left.png").is_file()
    assert rows["a-1.tar/005.sfu"]["width"] == 40 and not any("error" in row for row in rows.values())


def test_names_out_of_a_tar_stay_in_their_folder(tmp_path: Path) -> None:
    image = png()
    tar(tmp_path / "in" / "a.tar", {"../x.png": image, "/y.png": image, "z.png": image, "sub/z.png": image})
    work, made = prepared(tmp_path / "in", tmp_path / "out", layout="files")
    rows = done(work, made)
    assert [row["input"] for row in rows if "error" in row] == ["a.tar/../x.png", "a.tar//y.png"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.sfu")) == [
        "out/a/sub/z.sfu",
        "out/a/z.sfu",
    ]


def test_files_become_shards_of_tar_or_parquet(tmp_path: Path) -> None:
    for name in ("a.b.png", "c.png", "c%2E.png", "sub.d/e.png"):
        paint(tmp_path / "in" / name)
    work, made = prepared(tmp_path / "in", tmp_path / "tar", layout="tar", size=4)
    done(work, made)
    names = list(members((tmp_path / "tar" / "shard-000000.tar").read_bytes()))
    assert names == ["a%2Eb.sfu", "c%252E.sfu", "c.sfu", "sub.d/e.sfu"]
    assert len({shards.key_of(name) for name in names}) == 4
    parquet = pytest.importorskip("pyarrow.parquet")
    work, made = prepared(tmp_path / "in", tmp_path / "parquet", layout="parquet", size=3)
    done(work, made)
    table = parquet.read_table(tmp_path / "parquet" / "shard-000000.parquet").to_pylist()
    assert [row["path"] for row in table] == ["a.b.sfu", "c%2E.sfu", "c.sfu"]
    assert table[0]["bytes"] == sfumato.encode(tmp_path / "in" / "a.b.png", q=0.3)
    assert (table[0]["width"], table[0]["height"]) == (40, 40)


def test_transcoding_takes_lossy_files_and_keeps_what_would_grow(tmp_path: Path) -> None:
    paint(tmp_path / "in" / "lossless.png", side=200)
    with Image.open(tmp_path / "in" / "lossless.png") as image:
        image.save(tmp_path / "in" / "large.webp", quality=95)
        image.save(tmp_path / "in" / "tiny.webp", quality=0)
    work, made = prepared(tmp_path / "in", tmp_path / "out", Transcode(EncodeJob(quality=0.6)))
    rows = {row["input"]: row for row in done(work, made)}
    assert set(rows) == {"large.webp", "tiny.webp"}
    assert rows["large.webp"]["output"] == "large.sfu" and (tmp_path / "out" / "large.sfu").is_file()
    assert (
        rows["tiny.webp"]["output"] == "tiny.webp" and "kept: would have" in rows["tiny.webp"]["warnings"][-1]
    )
    assert (tmp_path / "out" / "tiny.webp").read_bytes() == (tmp_path / "in" / "tiny.webp").read_bytes()


def test_evaluation_writes_rows_and_no_files(tmp_path: Path) -> None:
    paint(tmp_path / "in" / "a.png", side=80)
    work, made = prepared(tmp_path / "in", tmp_path / "out", Evaluate(EncodeJob(quality=0.8)))
    (row,) = done(work, made)
    data = sfumato.encode(tmp_path / "in" / "a.png", q=0.8)
    assert row["bytes"] == len(data) and 20 < row["psnr_db"] < 60 and row["decode_seconds"] > 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["_sfumato"]


def test_targets_are_met_as_by_the_folder_command(tmp_path: Path) -> None:
    paint(tmp_path / "in" / "a.png", side=100)
    work, made = prepared(tmp_path / "in", tmp_path / "out", Encode(EncodeJob(target_bytes=300)))
    (row,) = done(work, made)
    assert row["bytes"] == (tmp_path / "out" / "a.sfu").stat().st_size <= 300


def test_tables_hold_every_row(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paint(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b,c.png").write_bytes(b"broken")
    work, made = prepared(tmp_path / "in", tmp_path / "out")
    done(work, made)
    rows = manifest.collect(made, work.dest)
    manifest.write_tables(rows, work.dest)
    lines = list(csv.reader((tmp_path / "out" / manifest.ERRORS).read_text().splitlines()))
    assert lines[0] == ["path", "error"] and lines[1][0] == "b,c.png" and len(lines) == 2
    table = parquet.read_table(tmp_path / "out" / manifest.REPORT).to_pylist()
    assert [row["input"] for row in table] == ["a.png", "b,c.png"]
    assert table[0]["error"] is None and table[1]["bytes"] is None


def test_what_cannot_be_meant_is_one_error(tmp_path: Path) -> None:
    paint(tmp_path / "in" / "a.png")
    prepared(tmp_path / "in", tmp_path / "out", quality=0.3)
    with pytest.raises(UsageError, match="holds a job with quality 0.3 in place of 0.4; name another"):
        prepared(tmp_path / "in", tmp_path / "out", quality=0.4)
    with pytest.raises(UsageError, match="layout files in place of tar"):
        prepared(tmp_path / "in", tmp_path / "out", quality=0.3, layout="tar")
    with pytest.raises(UsageError, match="lies in"):
        prepared(tmp_path / "in", tmp_path / "in" / "out")
    with pytest.raises(UsageError, match="no files to read; looked for .tar .sfu"):
        prepared(tmp_path / "in", tmp_path / "new", Decode(DecodeJob()))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        prepared(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(UsageError, match="--shard-size 0"):
        prepared(tmp_path / "in", tmp_path / "new", size=0)
    with pytest.raises(StorageError, match="xx://a: Protocol not known: xx"):
        Store.at("xx://a")
    assert not (tmp_path / "new").exists()


def test_numbered_shards_are_expanded(tmp_path: Path) -> None:
    assert expand("s3://b/a-{08..11}.tar") == [f"s3://b/a-{i}.tar" for i in ("08", "09", "10", "11")]
    assert expand("a.tar") == ["a.tar"]
    for i in range(3):
        tar(tmp_path / "in" / f"a-{i}.tar", {"0.png": png(i)})
    _, made = prepared(tmp_path / "in" / "a-{0..1}.tar", tmp_path / "out")
    assert [shard.name for shard in made.shards] == ["a-0", "a-1"]


def test_writing_is_whole_or_not_at_all_on_any_store(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a"), "memory://test_shards"):
        store = Store.at(url)
        store.write("sub/x", b"one")
        store.write("sub/x", b"one")
        with pytest.raises(FileExistsError, match="other contents"):
            store.write("sub/x", b"two")
        store.write("sub/x", b"two", overwrite=True)
        store.write("y", b"three")
        assert store.names() == ["sub/x", "y"] and store.names("sub") == ["x"] and store.names("absent") == []
        assert store.read_all(["sub/x", "y"]) == {"sub/x": b"two", "y": b"three"} and store.read_all([]) == {}
        store.delete("y")
        store.delete("y")
        assert not store.has("y") and store.has("sub/x")


FATAL = """
import os, sys
from pathlib import Path
from tests.test_shards import Fatal, prepared
from sfumato.jobs import EncodeJob
work, made = prepared(sys.argv[1], sys.argv[2], Fatal(EncodeJob()), size=3)
for shard in made.left(work.dest):
    work.do(shard)
"""


class Fatal(Conversion):
    """Copies a file, and dies where the file says so."""

    suffixes = frozenset({".png"})  # type: ignore[assignment]

    def apply(self, data: bytes, source: str, target: str) -> Converted:
        if data == b"die":
            os._exit(9)
        return Converted(data, {"input": source, "output": target})


def test_an_image_on_which_processes_die_is_left_out_at_last(tmp_path: Path) -> None:
    texts = ["a", "die", "b", "c"]
    (tmp_path / "in").mkdir()
    for i, text in enumerate(texts):
        (tmp_path / "in" / f"{i}.png").write_text(text)
    command = [sys.executable, "-c", FATAL, str(tmp_path / "in"), str(tmp_path / "out")]
    ends = [subprocess.run(command, check=False).returncode for _ in range(shards.DEATHS + 2)]
    assert ends == [9] * (shards.DEATHS + 1) + [0]
    out = Store.at(str(tmp_path / "out"))
    found = Manifest.read(out)
    assert found is not None
    rows = manifest.collect(found, out)
    assert [row["input"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert [("killed 3 times" in row.get("error", "")) for row in rows] == [False, True, False, False]
    assert (tmp_path / "out" / "2.sfu").read_bytes() == b"b"
    assert not out.names(shards.ATTEMPTS)


def test_a_store_that_fails_leaves_the_shard_for_the_next_run(tmp_path: Path) -> None:
    for i in range(2):
        paint(tmp_path / "in" / f"{i}.png", seed=i)
    work, made = prepared(tmp_path / "in", tmp_path / "out", size=2)

    class Failing(type(work.source.fs)):  # type: ignore[misc]
        def cat_file(self, path: str, **settings: Any) -> bytes:
            if path.endswith("1.png"):
                raise OSError("connection reset")
            return bytes(super().cat_file(path, **settings))

    broken = replace(work, source=Store(Failing(), work.source.root))
    with pytest.raises(OSError, match="connection reset"):
        broken.do(made.shards[0])
    assert made.left(work.dest) == list(made.shards)
    (tmp_path / "in" / "1.png").unlink()  # a file that is gone is a row
    rows = work.do(made.shards[0])
    assert rows[1]["error"] == "No such file or directory" and not made.left(work.dest)


def test_the_manifest_keeps_names_that_are_taken(tmp_path: Path) -> None:
    paint(tmp_path / "in" / "a.png")
    _, made = prepared(tmp_path / "in", tmp_path / "out")
    paint(tmp_path / "in" / "a.jpg")
    tar(tmp_path / "in" / "shard-000001.tar", {"b.png": png()})
    _, made = prepared(tmp_path / "in", tmp_path / "out")
    assert [(s.name, s.targets) for s in made.shards] == [
        ("shard-000000", ("a.sfu",)),
        ("shard-000001", ()),
        ("shard-000002", ("a.jpg.sfu",)),
    ]
    assert batch.names_for([Path("a.png"), Path("a.jpg")], ".sfu")[Path("a.png")] == Path("a.png.sfu")


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "in" / "a.png")
    monkeypatch.setattr("sfumato.ray.find_spec", lambda name: None)
    for arguments, message in (
        ((), "needs Ray: pip install 'sfumato[ray]'"),
        (("--task", "decode", "-q", 0.4), "--task decode takes no quality and no target"),
        (("--steps", 1), "--steps and --realism are of --task decode, not encode"),
        (("-q", 0.4, "--target-bpp", 0.3), "give one of"),
    ):
        ended = call("batch", tmp_path / "in", tmp_path / "out", *arguments)
        assert ended.returncode == 2 and message in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_shards_go_to_other_processes_as_text() -> None:
    shard = Shard("a", ("b.png",), ("b.sfu",))
    given = json.loads(json.dumps(shard.__dict__))
    assert Shard(given["name"], tuple(given["sources"]), tuple(given["targets"])) == shard
    assert conversion.failure("a.png", "a.png: broken") == {"input": "a.png", "error": "broken"}
