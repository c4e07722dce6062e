"""python -m training.interpolate A B --share S ...: weights between those of a stage's start and of its end.

A stage that moves a balance of losses may move it too far; on the straight line between its two ends the
figures of merit change evenly, or better than that (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models").
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from metrics.lpips import load_lpips
from sfumato import scales
from training.data import Images
from training.grow import grown
from training.loop import Log
from training.networks.model import Model
from training.run_weights import load_weights, save_weights
from training.validation import calibrate, validate


@torch.no_grad()
def between(a: Model, b: Model, share: float) -> Model:
    """The codec (1 - share) a + share b, without a denoiser.

    Where b is of a larger preset, a is grown to it; ValueError where it cannot be.
    """
    if a.preset != b.preset:
        a = grown(a, b.preset, b)
    model = Model(a.preset)
    model.set_diffusion(**b.diffusion)
    mine, theirs = a.state_dict(), b.state_dict()
    model.load_state_dict({name: torch.lerp(value, theirs[name], share) for name, value in mine.items()})
    return model.eval().requires_grad_(False)


def main(
    a: Annotated[Path, tyro.conf.Positional],
    b: Annotated[Path, tyro.conf.Positional],
    share: float,
    data: list[Path],
    out: Path,
    metrics: Path | None = None,
    screens: tuple[Path, ...] = (),
    cache: Path | None = None,
    held_out: int = 24,
    crop: int = 192,
) -> None:
    """Write the weights and a log with their validation, as a run does.

    Args:
        a: weights of a run, or a name or file of those that `sfumato` runs.
        b: the same, of the same preset or one that a can grow to.
        share: 0 gives a, 1 gives b.
        data: photographs, of which some are held out as for `python -m training`.
        out: folder for weights.safetensors and log.jsonl.
        metrics: folder with the metrics' networks; without it the validation has no LPIPS.
        screens: rendered images, for validation.
        cache: folder for the decoded images.
        held_out: photographs for validation, and a third as many screens.
        crop: the smallest side of images that are read, as the recipe of the stage has it.
    """
    if not 0 <= share <= 1:
        raise SystemExit(f"share is {share}; it lies in 0..1")
    first, second = load_weights(a), load_weights(b)
    model = between(first.model, second.model, share)
    cpu = torch.device("cpu")
    held = {"photos": Images.load(data, cpu, crop, cache).split(held_out)[1]}
    if screens:
        held["screens"] = Images.load(list(screens), cpu, crop, cache).split(max(1, held_out // 3))[1]
    tables: dict[str, Tensor] = {k: torch.tensor(v) for k, v in scales.Tables.gaussian().arrays().items()}
    tables |= calibrate(model, held["photos"])
    metric = load_lpips("alex", metrics) if metrics else None
    out.mkdir(parents=True, exist_ok=True)
    made = {"between": f"{first.model_id:08x} and {second.model_id:08x}", "share": str(share)}
    save_weights(model, out / "weights.safetensors", tables, made | {"steps": "0"})
    figures = {name: validate(model, images, metric) for name, images in held.items()}
    log = Log(out / "log.jsonl")
    log.write({"recipe": made | {"part": "codec"}, "images": 0})
    log.write({"step": 0, "minutes": 0.0, "validation": figures.pop("photos"), **figures})


if __name__ == "__main__":
    tyro.cli(main)
