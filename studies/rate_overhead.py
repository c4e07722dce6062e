"""python -m studies.rate_overhead DIR -o results/X/meter.csv: bytes of real files against the ideal bits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import tyro

from sfumato import container, image
from sfumato.codec import load

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
) -> None:
    """Encode every image at five qualities and compare the file with the meter.

    Args:
        images: folder of PNG files.
        output: the CSV file.
        model: name of weights.
    """
    codec = load(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        sections = [f"{name.replace(' ', '_')}_bytes" for name in codec.sections]
        totals = ["file_bytes", "fixed_bytes", "meter_bits", "over_percent"]
        writer.writerow(["picture", "q", *totals, *sections])
        for q in QUALITIES:
            worst = 0.0
            for path in sorted(images.glob("*.png")):
                pixels = image.read(path)
                data = codec.encode(pixels, q=q)
                bits = sum(codec.estimate_bits(pixels, q=q))
                fixed = container.overhead_bytes(data)
                over = 100 * (8 * (len(data) - fixed) / bits - 1)
                worst = max(worst, over)
                sizes = [len(section.payload) for section in container.unpack(data).sections]
                writer.writerow([path.name, q, len(data), fixed, f"{bits:.1f}", f"{over:.3f}", *sizes])
            print(f"q {q:4}: files without their fixed bytes exceed the meter by at most {worst:.3f} %")


if __name__ == "__main__":
    tyro.cli(main)
