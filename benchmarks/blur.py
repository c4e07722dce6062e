"""python -m benchmarks.blur ...: experiment 1 of Khoshkhahtinat et al. 2024, does blurring help?

One denoiser for each sigma_B,max, from the same codec at equal cost; then equal files decoded by each.  The
bits are those of the codec, whatever the denoiser, so only the decoded pictures differ.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

from benchmarks import steps
from evaluation.judge import Judge
from evaluation.plots import OTHERS
from evaluation.rows import read_table
from sfumato.codec import Codec
from sfumato.lpips import weights_folder
from sfumato.model import WEIGHTS, load_weights
from sfumato.restoration import Restoration
from training.loop import Run, train
from training.recipes import RECIPES

FIGURES = {
    "lpips_alex": "LPIPS (AlexNet)",
    "dists": "DISTS",
    "fd_efflite0": "FD-EffLite0",
    "psnr_db": "PSNR, dB",
    "energy_4th": "energy, 1/4 to 1/2",
    "energy_half": "energy, 1/2 to 1",
}


@dataclass(frozen=True)
class Row(steps.Row):
    """A row of `benchmarks.steps` and the denoiser that it is of; `trained` in steps."""

    sigma_b_max: float
    t0: float
    trained: int


def main(
    pictures: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    runs: Path,
    init: str = "small",
    recipe: str = "small_sampler",
    sigmas: tuple[float, ...] = (0.0, 1.0, 5.0, 10.0, 20.0),
    t0: float = 0.3,
    minutes: float = 20.0,
    qualities: tuple[float, ...] = (0.28, 0.45, 0.7),
    numbers: tuple[int, ...] = (1, 4, 8),
    threads: int = 0,
    weights: Path | None = None,
) -> None:
    """Train and compare; run again with the same --runs and output to go on where it stopped.

    Args:
        pictures: folder of pictures to judge by.
        output: folder for blur.csv and blur.svg.
        data: training pictures, as for `python -m training`.
        runs: folder for the runs, one a sigma.
        init: weights of the codec: a name or a path.
        recipe: of the denoiser.
        sigmas: sigma_B,max of each denoiser, pixels.
        t0: where sampling starts.
        minutes: of training for each.
        qualities: q of the files.
        numbers: of steps to decode with; 0 is always there.
        threads: of torch, in training.
        weights: folder with the weights of the metrics; without it as for the evaluation.
    """
    folder = weights or weights_folder()
    judge = Judge((*steps.METRICS, "fd_efflite0"), folder)
    print(*judge.problems, sep="\n")
    table = output / "blur.csv"
    known = read_table(table, Row) if table.exists() else []
    whole = len(qualities) * len(numbers)
    done = [s for s in sigmas if sum(row.steps > 0 and row.sigma_b_max == s for row in known) == whole]
    rows: list[Row] = [row for row in known if row.sigma_b_max in done]
    for sigma in (sigma for sigma in sigmas if sigma not in done):
        out = runs / f"sigma-{sigma:g}-t0-{t0:g}"
        run = Run(data, folder, out, minutes, load_path(init), threads=threads)
        trained = load_weights(train(replace(RECIPES[recipe](), diffusion=(sigma, t0)), run))
        trained.model.diffuse_by(sigma, t0)
        ways = [Restoration(n) for n in (0, *numbers)[len(rows) > 0 :]]  # steps 0 is the same for all
        for row, _, _ in steps.measure(Codec(trained), pictures, qualities, ways, judge):
            steps.show(row)
            rows.append(Row(**vars(row), sigma_b_max=sigma, t0=t0, trained=int(trained.notes["steps"])))
            steps.write(table, rows)
    draw(output / "blur.svg", rows)


def load_path(name: str) -> Path:
    """The file of weights of this name."""
    return Path(name) if name.endswith(".safetensors") else WEIGHTS / f"{name}.safetensors"


def draw(path: Path, rows: list[Row]) -> None:
    """A panel a figure of merit over sigma_B,max, a line a number of steps; means over the qualities."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    for panel, (name, title) in enumerate(FIGURES.items()):
        axes = figure.add_subplot(2, 3, panel + 1, title=title, xlabel="sigma_B,max, pixels")
        lines: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            lines[row.steps][row.sigma_b_max].append(getattr(row, name))
        for number, (count, values) in enumerate(lines.items()):
            means = {sigma: sum(values[sigma]) / len(values[sigma]) for sigma in sorted(values)}
            if count == 0:
                axes.axhline(next(iter(means.values())), color="grey", label="0 steps")
            else:
                axes.plot(*zip(*means.items(), strict=True), "o-", color=OTHERS[number % 4], label=f"{count}")
    figure.axes[0].legend(frameon=False)
    steps.save(figure, path)


if __name__ == "__main__":
    tyro.cli(main)
