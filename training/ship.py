"""python -m training.ship RUN ...: a finished run in; weights in the package and a line of record out."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import tyro

from sfumato import weights as shipped_form
from sfumato.image import write_bytes
from training.export import export
from training.loop import VALIDATION_Q
from training.run_weights import load_weights

RECORDS = Path("results/training.csv")
SCORES = tuple(f"{name}_at_q{q:g}" for q in VALIDATION_Q for name in ("bpp", "psnr", "lpips"))
LEG = ("model_id", "preset", "part", "recipe", "commit", "data", "pictures", "steps", "minutes", "device")
COLUMNS = (*LEG, *SCORES, "notes")


def main(
    run: Annotated[Path, tyro.conf.Positional],
    recipe: str,
    data: str,
    device: str,
    commit: str = "",
    notes: str = "",
) -> None:
    """Ship the weights of a run as those of its preset, with its log and a line in results/training.csv.

    Args:
        run: folder that `python -m training --out` wrote.
        recipe: name of the recipe.
        data: what it was trained on.
        device: the machine, in words.
        commit: of the code that trained; without it, HEAD.
        notes: whatever differs from the recipe.
    """
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    weights = load_weights(run / "weights.safetensors")
    shipped = export(weights)
    preset = weights.model.preset
    name = f"{shipped.model_id:08x}" + (f"-{shipped.denoiser_id}" if shipped.denoiser_id else "")
    validation = [record["validation"] for record in log if "validation" in record][-1:]
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    first = next(record for record in log if "recipe" in record)
    last = [record for record in log if "minutes" in record][-1]
    row: dict[str, object] = {
        "model_id": name,
        "preset": preset,
        "part": first["recipe"]["part"],
        "recipe": recipe,
        "commit": commit or head.stdout.strip(),
        "data": data,
        "pictures": first["pictures"],
        "steps": weights.notes["steps"],
        "minutes": round(last["minutes"]),
        "device": device,
    }
    # estimated rate, PSNR and LPIPS-Alex on the held-out pictures
    for figures in validation[0] if validation else ():
        scores = {f"{name}_at_q{figures['q']:g}": value for name, value in figures.items()}
        row |= {name: scores[name] for name in SCORES if name in scores}
    row["notes"] = notes
    write_bytes(shipped_form.FOLDER / f"{preset}.safetensors", shipped_form.to_bytes(shipped))
    RECORDS.parent.mkdir(exist_ok=True)
    shutil.copyfile(run / "log.jsonl", RECORDS.with_name(f"training-{preset}-{name}.jsonl"))
    new = not RECORDS.exists()
    with RECORDS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(f"{preset} {name} shipped; commit it together with {RECORDS}")


if __name__ == "__main__":
    tyro.cli(main)
