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
    denoiser: Path | None = None,
    shards: tuple[str, ...] = (),
    screens: tuple[Path, ...] = (),
    cache: Path | None = None,
    seed: int = 0,
    log_every: int = 100,
    save_every: float = 5.0,
    held_out: int = 24,
    threads: int = 0,
    cpu_time: bool = False,
) -> None:
    """Train one stage by a recipe; run again with the same --out to resume.

    Args:
        recipe: name of a function in training/recipes.py.
        data: photographs: tar shards, or folders of images or of tar shards.
        out: folder for the checkpoint, log.jsonl and weights.safetensors.
        minutes: length of the stage, time of earlier starts included.
        metrics: folder with the metrics' networks; without it there is no perceptual term.
        init: weights to start from: those of a run, or a name or file of those that `sfumato` runs.
        denoiser: weights whose denoiser a denoiser's stage starts from, where --init has none.
        shards: tar shards of photographs, paths or URLs, that are streamed and not kept in memory; those of
            --data are then for validation.
        screens: screenshots and rendered pages, as `data`; a recipe says which share of the crops they are.
        cache: folder for the decoded images (three bytes a pixel), which runs share.
        seed: of crops, noise and initial weights.
        log_every: steps between lines of the log.
        save_every: minutes between checkpoints.
        held_out: photographs kept for validation, and a third as many screens.
        threads: of torch; 0 leaves torch's choice.
        cpu_time: count the CPU time of this process instead of wall time.
    """
    if recipe not in RECIPES:
        raise SystemExit(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    run = Run(
        data, metrics, out, minutes, init, denoiser, shards, screens, cache, seed, log_every, save_every,
        held_out, threads, cpu_time,
    )  # fmt: skip
    train(RECIPES[recipe](), run)


if __name__ == "__main__":
    tyro.cli(main)
