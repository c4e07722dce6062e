"""python -m training.ship RUN: the weights of a finished run, exported, become those of its preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from sfumato import weights
from sfumato.image import write_bytes
from training.export import export, verify
from training.record import name_of
from training.run_weights import load_weights


def main(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Put the weights of a run into the package, after `python -m training.record` has logged it.

    Args:
        run: folder that `python -m training --out` wrote.
    """
    trained = load_weights(run / "weights.safetensors")
    shipped = export(trained)
    verify(trained.model, shipped)
    write_bytes(weights.FOLDER / f"{shipped.preset}{weights.SUFFIX}", weights.to_bytes(shipped))
    print(f"{shipped.preset} {name_of(shipped)} shipped; commit it together with results/")


if __name__ == "__main__":
    tyro.cli(main)
