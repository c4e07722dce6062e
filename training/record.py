"""python -m training.record RUN ...: a finished stage in; lines in results/training.csv and record.csv out.

`training.csv` has a line for every stage, shipped or not.  `record.csv` has the time that a stage took to
reach a fixed score, LPIPS-Alex .25 and MS-SSIM .90 at 0.1 bits per pixel on the held-out photographs, against
which changes of the trainer are measured.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from sfumato.weights import Weights
from training.export import export
from training.run_weights import load_weights
from training.validation import QUALITIES

RESULTS = Path("results")
FIGURES = ("bpp", "psnr", "ms_ssim", "lpips")
SCORES = tuple(f"{name}_at_q{q:g}" for q in QUALITIES for name in FIGURES)
STAGE = ("model_id", "preset", "part", "recipe", "commit", "data", "images", "steps", "minutes", "device")
RECORD = ("model_id", "preset", "recipe", "commit", "start", "device", "minutes_to_score", "minutes", "steps")
RATE, LPIPS, MS_SSIM = 0.1, 0.25, 0.90  # the score


def main(
    run: Annotated[Path, tyro.conf.Positional],
    recipe: str,
    data: str,
    device: str,
    start: str = "nothing",
    commit: str = "",
    notes: str = "",
) -> None:
    """Log a stage.

    Args:
        run: folder that `python -m training --out` wrote.
        recipe: name of the recipe.
        data: what it was trained on.
        device: the machine, in words.
        start: id of the weights that it began with.
        commit: of the code that trained; without it, HEAD.
        notes: whatever differs from the recipe.
    """
    weights = load_weights(run / "weights.safetensors")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    name = name_of(export(weights))
    commit = commit or _head()
    first = next(record for record in log if "recipe" in record)
    minutes = [record["minutes"] for record in log if "minutes" in record][-1]
    shared = {"model_id": name, "preset": weights.model.preset, "recipe": recipe, "commit": commit}
    shared |= {"device": device, "steps": weights.notes["steps"], "minutes": str(round(minutes))}
    validations = [record for record in log if "validation" in record]
    images = str(first.get("images", "streamed"))
    stage = shared | {"part": first["recipe"]["part"], "data": data, "images": images}
    for figures in validations[-1]["validation"] if validations else ():
        scores = {f"{key}_at_q{figures['q']:g}": str(value) for key, value in figures.items()}
        stage |= {key: scores[key] for key in SCORES if key in scores}
    append(RESULTS / "training.csv", (*STAGE, *SCORES, "notes"), stage | {"notes": notes})
    reached = minutes_to_score(validations)
    line = {"start": start, "minutes_to_score": "" if math.isnan(reached) else f"{reached:.1f}"}
    append(RESULTS / "record.csv", RECORD, shared | line)
    shutil.copyfile(run / "log.jsonl", RESULTS / f"training-{weights.model.preset}-{name}.jsonl")
    print(f"{weights.model.preset} {name} logged; score reached: {line['minutes_to_score'] or 'no'} minutes")


def name_of(weights: Weights) -> str:
    """Id of the codec, and of the denoiser where there is one."""
    return f"{weights.model_id:08x}" + (f"-{weights.denoiser_id}" if weights.denoiser_id else "")


def minutes_to_score(validations: Sequence[dict]) -> float:
    """Minutes of the first validation that has both figures at `RATE`; NaN if none has."""
    for record in validations:
        points = [p for p in record["validation"] if "lpips" in p and "ms_ssim" in p]
        rates = [math.log(p["bpp"]) for p in points]
        if len(points) > 1 and rates[0] <= math.log(RATE) <= rates[-1]:
            lpips, ms_ssim = (
                float(np.interp(math.log(RATE), rates, [p[key] for p in points]))
                for key in ("lpips", "ms_ssim")
            )
            if lpips <= LPIPS and ms_ssim >= MS_SSIM:
                return float(record["minutes"])
    return math.nan


def append(path: Path, columns: Sequence[str], line: dict[str, str]) -> None:
    """Add a line to a table; columns that the table lacks are added to it, empty for the lines before."""
    lines = []
    if path.exists():
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*lines, line])
    temporary.replace(path)


def _head() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    tyro.cli(main)
