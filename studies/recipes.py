"""python -m studies.recipes optimisers|losses ...: recipes at equal CPU time, on held-out images.

Every variant and seed is a run of its own, single-threaded and timed by its own CPU seconds, so that a busy
machine costs all of them alike.  A variant is compared with the first of its study, seed by seed, by
Bjontegaard delta rate over the five qualities of the validation (estimated rates of rounded symbols).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from evaluation.curves import Curve, bd_rate
from sfumato.files import write_csv
from training.loop import Run, train
from training.recipes import FIDELITY, Recipe, small_more

METRICS = {"psnr": "psnr_db", "ms_ssim": "ms_ssim", "lpips": "lpips_alex"}  # of a log -> of evaluation
SETS = ("photos", "screens")


@dataclass(frozen=True)
class Study:
    """Variants by name, the reference first; `from_weights` or from the Karhunen-Loeve transform."""

    variants: dict[str, Recipe]
    from_weights: bool


def optimisers() -> Study:
    """Rate, MSE and chroma from nothing."""
    recipe = Recipe("small", base_loss={"mse": 1.0, "chroma": 0.5})
    return Study(
        {
            "adamw-1.2e-3": recipe,
            "adamw-2.4e-3": replace(recipe, learning_rate=2.4e-3),
            "soap-2.4e-3": replace(recipe, optimiser="soap", learning_rate=2.4e-3),
        },
        from_weights=False,
    )


def losses() -> Study:
    """What each term of the loss gives and costs, from the shipped weights."""
    recipe = replace(small_more(), text=1.0, screens=0.0, flat=0.0)
    mse = {"mse": 0.8, "chroma": 0.5, "grid": 20.0, "lpips": 250.0}
    ms_ssim = {**mse, "mse": 0.25, "ms_ssim": 1200.0}
    variants = {
        "mse": mse,
        "ms_ssim": ms_ssim,
        "ms_ssim+low_frequency": {**ms_ssim, "low_frequency": 1.0},
        "mse+wasserstein": {**mse, "wasserstein": 150.0},
        "ms_ssim+wasserstein": {**ms_ssim, "wasserstein": 150.0},
    }
    found = {name: replace(recipe, base_loss=weights) for name, weights in variants.items()}
    final = replace(small_more(), base_loss={**FIDELITY, "lpips": 300.0})
    return Study(found | {"all, with screens and text": final}, from_weights=True)


STUDIES = {"optimisers": optimisers, "losses": losses}


def main(
    study: Annotated[str, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    screens: tuple[Path, ...],
    metrics: Path,
    runs: Path,
    init: Path = Path("sfumato/weights/small.safetensors"),
    minutes: float = 10.0,
    seeds: tuple[int, ...] = (0, 1),
    cache: Path | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Run a study, or what is missing of it, and write its table; variants that are done are not run again.

    Args:
        study: its name.
        output: the CSV file.
        data: photographs, as for `python -m training`.
        screens: rendered images.
        metrics: folder with the metrics' networks.
        runs: folder for the runs.
        init: weights that studies of fine-tuning start from.
        minutes: CPU minutes for each run.
        seeds: of crops, noise and initial weights.
        cache: folder for decoded images.
        only: names of the variants to run now; all of them if empty.
    """
    if study not in STUDIES:
        raise SystemExit(f"no study {study!r}; there are {', '.join(STUDIES)}")
    chosen = STUDIES[study]()
    rows = []
    for seed in seeds:
        curves: dict[str, list[dict[str, dict[str, float]]]] = {}
        for name, recipe in chosen.variants.items():
            out = runs / f"{study}-{name.replace(' ', '-')}-{seed}"
            if not (out / "done").exists() and (not only or name in only):
                start = init if chosen.from_weights else None
                run = Run(data, metrics, out, minutes, start, screens=screens, cache=cache, seed=seed)
                # both kinds of image are validated, whatever the recipe trains on
                train(recipe, replace(run, threads=1, cpu_time=True, log_every=50, save_every=1e9))
                (out / "done").touch()
            if (out / "done").exists():
                curves[name], steps = read_curves(out)
                rows += [row(study, name, seed, steps, minutes, point) for point in curves[name]]
        write(output, rows)
        report(seed, curves)


def read_curves(out: Path) -> tuple[list[dict[str, dict[str, float]]], int]:
    """(set -> figures) for each quality of the last validation, and the number of steps."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = [record for record in records if "validation" in record][-1]
    sets = {"photos": last["validation"], "screens": last.get("screens", [])}
    points = range(len(last["validation"]))
    return [{k: v[i] for k, v in sets.items() if v} for i in points], last["step"]


def row(
    study: str, name: str, seed: int, steps: int, minutes: float, point: dict[str, dict[str, float]]
) -> dict[str, object]:
    """A line of the table: one quality of one run."""
    head = {"study": study, "variant": name, "seed": seed, "cpu_minutes": minutes, "steps": steps}
    figures = {
        f"{which}_{key}": point.get(which, {}).get(key, "") for which in SETS for key in ("bpp", *METRICS)
    }
    return head | {"q": point["photos"]["q"]} | figures


def report(seed: int, curves: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print the rate of each variant at equal quality, against the first one that was run."""
    reference = next(iter(curves), None)
    for name in curves:
        if name == reference or reference is None:
            continue
        parts = []
        for which in SETS:
            for metric in METRICS.values():
                a, b = (as_curve(points, which) for points in (curves[reference], curves[name]))
                delta = bd_rate(a, b, metric)
                if delta.refused != "not measured":
                    parts.append(f"{which} {metric} {delta.refused or f'{delta.percent:+.1f} %'}")
        print(f"seed {seed}: {name} against {reference}: {', '.join(parts)}", flush=True)


def as_curve(points: list[dict[str, dict[str, float]]], which: str) -> Curve:
    """The values of one set of images over its rate; NaN where a run did not measure them."""
    known = [point[which] for point in points if which in point]
    values = {to: np.array([p.get(name, math.nan) for p in known]) for name, to in METRICS.items()}
    return Curve(which, tuple(str(p["q"]) for p in known), np.array([p["bpp"] for p in known]), values)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """The table as CSV."""
    if not rows:
        return
    write_csv(path, list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    tyro.cli(main)
