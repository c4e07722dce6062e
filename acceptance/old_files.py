"""python -m acceptance.old_files IMAGE ... -o CSV --before FOLDER --before-python PATH --weights FILE

Files of version 0.1 and their converted form: the same symbols, and nearly the same pixels.  FOLDER is a
checkout of 0.1.0, whose interpreter has torch; FILE are its weights in the form of format 3 (model 2b24eab8).
The history has these weights: `git show 90b5284:sfumato/weights/small.safetensors`.
The old code writes and decodes each file.  Here its payloads get a header of version 3 and the checks that
follow from it; the new code decodes that.  Latents have to be equal, and pixels within one grey level.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from sfumato import container
from sfumato.autoregressive import autoregressive_pass
from sfumato.checks import Checksum
from sfumato.codec import Codec, load
from sfumato.coder import Decoder
from sfumato.container import Header, Section
from sfumato.files import write_csv
from sfumato.latents import make_symbol_coder, quality
from sfumato.tiles import grid

QUALITIES = (0.0, 0.4, 1.0)
STEPS = (0, 1)  # of the diffusion
SEED = 7  # without one it would follow from the header, which differs
OLD = """
import json, sys, zlib
from pathlib import Path
import numpy, torch
import sfumato.codec
from sfumato import container
folder, paths, qualities, steps, seed = Path(sys.argv[1]), *json.loads(sys.argv[2])
codec = sfumato.codec.load()
for number, path in enumerate(paths):
    for q in qualities:
        data = codec.encode(path, q=q, seed=seed)
        file = container.unpack(data)
        with torch.inference_mode():
            y_hat = codec._latent_coder.read(file.header, file.sections).numpy()
        name = f"{number}-{q}"
        header = {k: getattr(file.header, k) for k in ("width", "height", "q", "grey")}
        header["payloads"] = [section.payload.hex() for section in file.sections]
        header["latent"] = zlib.crc32(y_hat.tobytes())
        (folder / f"{name}.json").write_text(json.dumps(header))
        for n in steps:
            numpy.save(folder / f"{name}-{n}.npy", codec.decode(data, steps=n))
"""
COLUMNS = ("image", "q", "bytes", "symbols", "steps", "largest_difference", "pixels_that_differ_percent")


def converted(codec: Codec, fields: dict[str, Any]) -> bytes:
    """An old file's payloads as a file of today; it has one tile.

    ValueError for an image in tiles, whose table of checks would have to be written anew.
    """
    header = Header(
        fields["width"], fields["height"], fields["q"], codec.model_id, SEED, fields["grey"],
        len(fields["payloads"]) - 1,
    )  # fmt: skip
    (tile, *others) = grid(header.height, header.width)
    if others:
        raise ValueError(f"{header.width}x{header.height} pixels are {len(others) + 1} tiles; 1 is converted")
    latents, payloads = codec._latent_coder, [bytes.fromhex(payload) for payload in fields["payloads"]]
    checksum, checks = Checksum(header), dict.fromkeys(range(len(payloads)), 0)

    def note(section: int) -> None:
        checks[section] = checksum.check(section)

    code = make_symbol_coder([Decoder(latents.tables, payload) for payload in payloads], checksum, note)
    autoregressive_pass(latents.prior, code, quality(header), (tile.height, tile.width))
    return container.pack(header, [Section(p, checks[k]) for k, p in enumerate(payloads)])


def main(
    images: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    before: Path,
    before_python: str,
    weights: Path,
) -> None:
    """Write with the old code, decode with both; exit code 1 unless they agree.

    Args:
        images: of one tile each, so at most about 4 megapixels.
        output: CSV file, a row for each image, quality and number of steps.
        before: a checkout of 0.1.0.
        before_python: its interpreter.
        weights: those of 0.1.0 in the form of format 3.
    """
    codec = load(weights)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        settings = json.dumps([[str(path.resolve()) for path in images], QUALITIES, STEPS, SEED])
        subprocess.run([before_python, "-c", OLD, name, settings], cwd=before, check=True)
        for number, path in enumerate(images):
            for q in QUALITIES:
                fields = json.loads(Path(name, f"{number}-{q}.json").read_text())
                data = converted(codec, fields)
                file = container.unpack(data)
                y_hat = codec._latent_coder.read(file.header, file.sections)
                same = "same" if zlib.crc32(y_hat.tobytes()) == fields["latent"] else "different"
                for steps in STEPS:
                    old = np.load(Path(name, f"{number}-{q}-{steps}.npy")).astype(int)
                    apart = np.abs(codec.decode(data, steps=steps) - old)
                    share = f"{100 * (apart > 0).mean():.4f}"
                    rows.append((path.stem, q, len(data), same, steps, int(apart.max()), share))
                    print(*rows[-1], sep="  ", flush=True)
    write_csv(output, COLUMNS, rows)
    if any(row[3] != "same" or row[5] > 1 for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
