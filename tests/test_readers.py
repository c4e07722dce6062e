"""Others' readers on .sfu files: torch, Hugging Face datasets, WebDataset, Zarr and numcodecs, S3."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato import manifest
from sfumato.storage import Store
from tests.test_batch import paint
from tests.test_shards import done, prepared


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images in a folder."""
    for i in range(4):
        paint(tmp_path / "in" / f"{i}.png", side=64, seed=i)
    return tmp_path / "in"


@pytest.fixture
def encoded(images: Path, tmp_path: Path) -> Path:
    """The same as .sfu files."""
    pytest.importorskip("fsspec")
    done(*prepared(images, tmp_path / "small"))
    return tmp_path / "small"


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether decoded pixels are those of a file, up to rounding."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def decoded(folder: Path, i: int) -> np.ndarray:
    pixels = sfumato.decode((folder / f"{i}.sfu").read_bytes())
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


def test_torch_reads_a_folder_by_the_class_of_the_docs(
    encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    monkeypatch.chdir(encoded.parent)
    names: dict = {}
    exec(compile(block, "datasets.md", "exec"), names)
    dataset = names["Files"]("small")
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 3, 64, 64)] * 2 and batches[0].dtype == torch.uint8
    assert close(batches[1][1].permute(1, 2, 0).numpy(), decoded(encoded, 3))


@pytest.mark.filterwarnings("ignore")  # of its own
def test_hugging_face_datasets_read_by_the_plugin(encoded: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    import sfumato.pillow  # noqa: F401

    paths = [str(encoded / f"{i}.sfu") for i in range(4)]
    made = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    assert close(np.asarray(made[2]["image"].convert("RGB")), decoded(encoded, 2))
    made.to_parquet(str(tmp_path / "a.parquet"))  # the bytes of the files in a column
    back = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert back.features["image"] == datasets.Image()
    assert close(np.asarray(back[1]["image"].convert("RGB")), decoded(encoded, 1))


@pytest.mark.filterwarnings("ignore")  # it leaves its file to the garbage collector
def test_webdataset_reads_shards(images: Path, encoded: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    import sfumato.pillow  # noqa: F401

    done(*prepared(images, tmp_path / "shards", layout="tar", size=4))
    reader = webdataset.imagehandler("pil", extensions=["sfu"])
    dataset = webdataset.WebDataset(str(tmp_path / "shards" / "shard-000000.tar"), shardshuffle=False)
    found = {key: image for key, image in dataset.decode(reader).to_tuple("__key__", "sfu")}
    assert sorted(found) == ["0", "1", "2", "3"]
    assert close(np.asarray(found["3"].convert("RGB")), decoded(encoded, 3))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_keeps_an_image_a_chunk(zarr_format: int, tmp_path: Path) -> None:
    """Written with a codec that is named, read by a process that knows the array's path only."""
    zarr = pytest.importorskip("zarr")
    from sfumato import numcodecs as format_2
    from sfumato import zarr as format_3

    images = [np.asarray(Image.open(paint(tmp_path / f"{i}.png", seed=i))) for i in range(2)]
    grey = np.repeat(images[0].mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    stack = np.stack([*images, grey])
    settings: dict = {"compressors": [format_2.Sfumato(0.6)]}
    if zarr_format == 3:
        settings = {"serializer": format_3.Sfumato(0.6), "compressors": None}
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=stack.shape,
        chunks=(1, *stack.shape[1:]),
        dtype="uint8",
        zarr_format=zarr_format,
        **settings,
    )
    array[:] = stack
    script = "import sys, numpy, zarr; numpy.save(sys.argv[2], zarr.open_array(sys.argv[1], mode='r')[:])"
    command = [sys.executable, "-c", script, tmp_path / "a.zarr", tmp_path / "a.npy"]
    subprocess.run(command, check=True)
    found = np.load(tmp_path / "a.npy")
    for i in range(2):
        assert close(found[i], sfumato.decode(sfumato.encode(stack[i], q=0.6)))
    assert np.abs(found[2].astype(int) - grey).mean() < 8 and (found[2] == found[2][..., :1]).all()
    with pytest.raises(ValueError, match="a chunk is one uint8 image"):
        wrong = zarr.create_array(
            tmp_path / "b.zarr", shape=(2, 40, 40, 3), dtype="uint8", zarr_format=zarr_format, **settings
        )
        wrong[:] = stack[:2]


def test_numcodecs_finds_the_codec_by_name() -> None:
    numcodecs = pytest.importorskip("numcodecs")
    from sfumato.numcodecs import Sfumato

    numcodecs.register_codec(Sfumato)
    codec = numcodecs.get_codec({"id": "sfumato", "quality": 0.5, "channels": 1})
    grey = np.asarray(Image.effect_noise((48, 40), 40))
    data = codec.encode(grey[None])
    assert data == sfumato.encode(grey, q=0.5) and codec.decode(data).shape == (40, 48)
    assert codec.get_config() == {"id": "sfumato", "quality": 0.5, "channels": 1, "model": "small"}
    with pytest.raises(ValueError, match="channels is 2"):
        Sfumato(channels=2)
    with pytest.raises(ValueError, match="quality is 7"):
        Sfumato(quality=7)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on the loopback."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket"
    running.stop()


@pytest.mark.filterwarnings("ignore")  # of botocore and of moto's threads
def test_a_bucket_is_read_written_and_resumed(images: Path, encoded: Path, bucket: str) -> None:
    source = Store.at(f"{bucket}/images")
    for path in images.iterdir():
        source.write(path.name, path.read_bytes())
    work, made = prepared(source.url, f"{bucket}/out")
    work.do(made.shards[0])
    again, made = prepared(source.url, f"{bucket}/out")
    assert [shard.name for shard in made.left(again.dest)] == ["shard-000001"]
    done(again, made)
    assert len(manifest.collect(made, again.dest)) == 4
    for i in range(4):
        assert again.dest.read(f"{i}.sfu") == (encoded / f"{i}.sfu").read_bytes()
    with pytest.raises(FileExistsError, match="other contents"):
        again.dest.write("0.sfu", b"other")
