"""python -m training RECIPE --data DIR_OR_TAR ... --metrics DIR --minutes N --out DIR [--init WEIGHTS]"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from training.loop import Run, train
from training.recipes import RECIPES


def main(
    recipe: Annotated[str, tyro.conf.Positional],
    data: list[Path],
    out: Path,
    minutes: float,
    metrics: Path | None = None,
    init: Path | None = None,
    seed: int = 0,
    log_every: int = 100,
    save_every: float = 5.0,
    held_out: int = 24,
    threads: int = 0,
) -> None:
    """Train one leg by a recipe; run again with the same --out to resume.

    Args:
        recipe: name of a function in training/recipes.py.
        data: tar shards, or folders of pictures or of tar shards.
        out: folder for the checkpoint, log.jsonl and weights.safetensors.
        minutes: length of the leg, time of earlier starts included.
        metrics: folder with the LPIPS networks; without it there is no perceptual term.
        init: weights to start from.
        seed: of crops, noise and initial weights.
        log_every: steps between lines of the log.
        save_every: minutes between checkpoints.
        held_out: pictures kept for validation.
        threads: of torch; 0 leaves torch's choice.
    """
    if recipe not in RECIPES:
        raise SystemExit(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    run = Run(data, metrics, out, minutes, init, seed, log_every, save_every, held_out, threads)
    train(RECIPES[recipe](), run)


if __name__ == "__main__":
    tyro.cli(main)
