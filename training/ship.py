"""python -m training.ship RUN: the weights of a finished run become those of its preset in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from sfumato.image import write_bytes
from sfumato.model import WEIGHTS, load_weights
from training.record import name_of


def main(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Put the weights of a run into the package, after `python -m training.record` has logged it.

    Args:
        run: folder that `python -m training --out` wrote.
    """
    path = run / "weights.safetensors"
    weights = load_weights(path)
    write_bytes(WEIGHTS / f"{weights.model.preset}.safetensors", path.read_bytes())
    print(f"{weights.model.preset} {name_of(weights)} shipped; commit it together with results/")


if __name__ == "__main__":
    tyro.cli(main)
