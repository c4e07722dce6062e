"""python -m studies.rate_overhead DIR -o CSV: bytes of real files against the ideal bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from evaluation.measure import images_in
from sfumato import container, image
from sfumato.codec import load
from sfumato.files import write_csv

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
) -> None:
    """Encode every image at five qualities and compare the file with its ideal bits.

    Args:
        images: folder of images.
        output: the CSV file.
        model: name of weights.
    """
    codec = load(model)
    sections = [f"{name.replace(' ', '_')}_bytes" for name in codec.sections]
    columns = ["image", "q", "file_bytes", "overhead_bytes", "ideal_bits", "over_percent", *sections]
    rows: list[list[object]] = []
    for q in QUALITIES:
        worst = 0.0
        for path in images_in(images):
            analyzed = codec.analyze(image.read(path))  # coded with the very q, never as a palette
            data = codec.encode(analyzed, q=q)
            bits = sum(codec.estimate_bits(analyzed, q=q))
            overhead = container.overhead_bytes(data)
            over = 100 * (8 * (len(data) - overhead) / bits - 1)
            worst = max(worst, over)
            sizes = [len(section.payload) for section in container.unpack(data).sections]
            rows.append([path.name, q, len(data), overhead, f"{bits:.1f}", f"{over:.3f}", *sizes])
        print(f"q {q:4}: files without headers and checks exceed the ideal bits by at most {worst:.3f} %")
    write_csv(output, columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
