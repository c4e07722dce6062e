"""A recipe and pictures in; a checkpoint that can be resumed, a JSON-lines log and weights out.

The same code runs on the CPU, on one GPU (bf16) and data-parallel under torchrun.  Time, not steps, ends
a run: `minutes` counts what this leg has trained in all, restarts included.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from metrics.dists import DISTS
from metrics.lpips import load_lpips
from metrics.perceptual import LPIPS
from sfumato import scales
from training.calibration import Calibration
from training.data import Pictures
from training.denoising import Denoising, Unrolled
from training.initialise import karhunen_loeve
from training.networks import quantise
from training.networks.model import Model, channels_last
from training.networks.prior import Code, sigma_of
from training.objective import Objective, mse, restored
from training.recipes import Recipe
from training.run_weights import load_weights, save_weights

VALIDATION_CROP = 256
Tensors = tuple[Tensor, ...] | list[Tensor]

KLT_CROPS = 256  # from which the linear transforms that training starts with are taken
VALIDATION_Q = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Run:
    """Where one leg reads and writes, and how long it lasts."""

    data: list[Path]
    metrics: Path | None
    out: Path
    minutes: float
    init: Path | None = None  # weights to start from
    seed: int = 0
    log_every: int = 100  # steps
    save_every: float = 5.0  # minutes; a checkpoint, weights and a validation
    held_out: int = 24  # pictures for validation
    threads: int = 0  # 0: as torch chooses


@dataclass
class Progress:
    """What a resumed run needs to know."""

    step: int = 0
    seconds: float = 0.0


def device_of_process() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def train(recipe: Recipe, run: Run) -> Path:
    """Train; returns the path of the weights.  Resumes from `out/checkpoint.pt` when it is there."""
    parallel = "RANK" in os.environ
    if parallel:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank() if parallel else 0
    if run.threads:
        torch.set_num_threads(run.threads)
    device = device_of_process()
    torch.manual_seed(run.seed + rank)
    run.out.mkdir(parents=True, exist_ok=True)
    checkpoint = run.out / "checkpoint.pt"

    pictures, held = Pictures.load(run.data, device, recipe.crop).split(run.held_out)
    if run.init is None and not checkpoint.exists() and recipe.part == "denoiser":
        raise ValueError("a denoiser is trained on a trained codec: give its weights with --init")
    tables: dict[str, Tensor] = {}
    if run.init is not None and not checkpoint.exists():
        weights = load_weights(run.init)
        model = weights.model.requires_grad_(True)
        if recipe.part == "denoiser":  # the frozen codec stays the same to the last table, and keeps its id
            tables = weights.tables
        if model.preset != recipe.preset:
            raise ValueError(f"{run.init} holds preset {model.preset!r}, the recipe trains {recipe.preset!r}")
    else:
        model = Model(recipe.preset)
        if model.config.family == "light":
            sample = pictures.batch(KLT_CROPS, recipe.crop, np.random.default_rng(run.seed))
            karhunen_loeve(model, sample.cpu())
    model.diffuse_by(**recipe.diffusion)
    if run.metrics is None:
        recipe = recipe.without_perception()  # or the records tell of losses that never ran
    losses = (recipe.certain, recipe.restored)
    perceive = run.metrics is not None and any(loss.lpips for loss in losses)
    perception = load_lpips(recipe.perceptual_net, run.metrics) if run.metrics and perceive else None
    dists = DISTS(run.metrics) if run.metrics and any(loss.dists for loss in losses) else None
    judge = load_lpips("alex", run.metrics).to(device) if run.metrics else None
    trained = choose_parameters(model, recipe.part)
    channels_last(model.to(device)).train()
    kind = Objective if recipe.part != "denoiser" else Unrolled if recipe.unroll else Denoising
    objective: nn.Module = kind(model, recipe, perception, dists).to(device)
    progress = Progress()
    average = AveragedModel(model, multi_avg_fn=ema(recipe.ema, progress), use_buffers=True)
    optimiser = torch.optim.AdamW(trained, betas=recipe.betas, weight_decay=0.0, fused=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["leg"] != [recipe.preset, recipe.part]:
            wanted = f"the recipe trains {recipe.part} of {recipe.preset}; name another --out"
            raise ValueError(f"{checkpoint} is a leg of {state['leg']}, {wanted}")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        progress.step, progress.seconds = state["progress"]["step"], state["progress"]["seconds"]
        tables = state["tables"]
        torch.manual_seed(run.seed + rank + 1_000_003 * progress.step)  # not the same noise once more
    if recipe.compile:
        objective.compile()
    if parallel:
        objective = DistributedDataParallel(objective)

    rng = np.random.default_rng((run.seed, rank, progress.step))
    log = Log(run.out / "log.jsonl") if rank == 0 else None
    if log is not None:
        log.write({"recipe": asdict(recipe), "pictures": len(pictures), "device": str(device)})
        log.write({"parameters": sum(p.numel() for p in trained), "threads": torch.get_num_threads()})
    seconds_before, begun = progress.seconds, time.monotonic()
    sums: defaultdict[str, Tensor | float] = defaultdict(float)
    last_save, counted, since = progress.seconds, 0, time.monotonic()

    while True:
        progress.seconds = seconds_before + time.monotonic() - begun
        clock = torch.tensor(progress.seconds / (60 * run.minutes), dtype=torch.float64, device=device)
        if parallel:  # one clock for all: they share learning rates, and leave at the same step
            dist.broadcast(clock, 0)
        fraction = clock.item()
        if fraction >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"], group["betas"] = learning_rate(recipe, progress.step, fraction), recipe.betas
        x = pictures.batch(recipe.batch, recipe.crop, rng).contiguous(memory_format=torch.channels_last)
        q = torch.from_numpy(rng.random(recipe.batch, dtype=np.float32)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            out = objective(x, q, fraction >= recipe.perceptual_from)
        optimiser.zero_grad(set_to_none=True)
        out["loss"].mean().backward()
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip)
        progress.step += 1
        if torch.isfinite(norm):  # one bad batch must not cost the run
            optimiser.step()
            average.update_parameters(model)
        for key, value in out.items():
            sums[key] = sums[key] + value.detach().mean()
        counted += 1
        if log is not None and progress.step % run.log_every == 0:
            now = time.monotonic()
            means = {key: round(float(value) / counted, 5) for key, value in sums.items()}
            rate = {"steps_per_s": round(counted / (now - since), 2), "norm": round(float(norm), 3)}
            log.write({"step": progress.step, "minutes": round(progress.seconds / 60, 2), **means, **rate})
            sums, counted, since = defaultdict(float), 0, now
        if rank == 0 and progress.seconds - last_save > 60 * run.save_every:
            last_save = progress.seconds
            _save(run, recipe, model, average, optimiser, progress, tables, log, held, judge)
            since, counted, sums = time.monotonic(), 0, defaultdict(float)
    if rank == 0:
        _save(run, recipe, model, average, optimiser, progress, tables, log, held, judge)
    if parallel:
        dist.barrier()  # none may close its connections while another still saves
        dist.destroy_process_group()
    return run.out / "weights.safetensors"


def ema(decay: float, progress: Progress) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Moving average of the weights that forgets its start: (n + 1) / (n + 10) until that is `decay`."""

    def update(averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        weight = 1 - min(decay, (progress.step + 1) / (progress.step + 10))
        torch._foreach_lerp_(averaged, current, weight)

    return update


def choose_parameters(model: Model, part: str) -> list[nn.Parameter]:
    """Freeze what this leg does not train; returns the rest."""
    if part not in ("codec", "denoiser", "all"):
        raise ValueError(f"part is {part!r}; it is 'codec', 'denoiser' or 'all'")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part == "all" or name.startswith("denoiser.") == (part == "denoiser"))
    model.has_denoiser = part != "codec"  # a codec that moves alone leaves its old denoiser behind
    return [p for p in model.parameters() if p.requires_grad]


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Linear warm-up in steps, constant, then linear down to 1 % over the tail of the time."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    tail = max(0.0, (fraction - recipe.tail) / (1 - recipe.tail))
    return recipe.learning_rate * warm * max(0.01, 1 - 0.99 * tail)


class Log:
    """JSON lines on disk and on the terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: dict[str, object]) -> None:
        line = json.dumps(record)
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def _save(
    run: Run,
    recipe: Recipe,
    model: Model,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    tables: dict[str, Tensor],
    log: Log | None,
    held: Pictures,
    judge: LPIPS | None,
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
        "leg": [recipe.preset, recipe.part],
        "tables": tables,
    }
    temporary = run.out / "checkpoint.pt.part"
    torch.save(state, temporary)
    temporary.replace(run.out / "checkpoint.pt")
    smooth = average.module
    assert isinstance(smooth, Model)
    smooth.has_denoiser = model.has_denoiser
    if recipe.part == "denoiser":  # averaging what stands still makes 0.0 of -0.0, another id
        frozen = {k: v for k, v in model.state_dict().items() if not k.startswith("denoiser.")}
        smooth.load_state_dict(frozen, strict=False)
    if not tables:
        tables = {k: torch.tensor(v) for k, v in scales.Tables.gaussian().arrays().items()}
        tables |= calibrate(smooth, held)
    notes = {"recipe": json.dumps(asdict(recipe)), "steps": str(progress.step)}
    save_weights(smooth, run.out / "weights.safetensors", tables, notes)
    if log is not None and recipe.part != "denoiser":
        log.write({"step": progress.step, "validation": validate(smooth, held, judge)})


@torch.no_grad()
def calibrate(model: Model, held: Pictures) -> dict[str, Tensor]:
    """Fixed-point fractions of the entropy model, from held-out pictures at `VALIDATION_Q`."""
    crops = held.centres(validation_crop(held))
    with Calibration(model.prior) as calibration:
        for value in VALIDATION_Q:
            for x in crops.split(4):
                q = x.new_full((len(x),), value)
                y, z = model.analyse(x, q)
                model.prior(y, z, q)
    return calibration.fractions()


def validation_crop(held: Pictures) -> int:
    """Side of the crops that all held-out pictures have, a multiple of 64, at most `VALIDATION_CROP`."""
    return min(VALIDATION_CROP, min(min(s) for s in held.shapes) // 64 * 64)


def _rounding(bits: list[Tensor]) -> Code:
    """A step of the walk that rounds like the coder and notes the bits; noise would overstate low rates."""

    def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        mu = quantise.snap(mu)
        symbols = quantise.hard(value - mu)
        bits.append(quantise.gaussian_bits(symbols, sigma_of(quantise.hard(level))).flatten(1).sum(1))
        return mu + symbols

    return code


@torch.no_grad()
def validate(model: Model, held: Pictures, judge: LPIPS | None) -> list[dict[str, float]]:
    """Rate (estimated, rounded), PSNR and LPIPS-Alex of x_base on held-out pictures, for VALIDATION_Q.

    With a denoiser, PSNR and LPIPS after one step as well.
    """
    was_training = model.training
    model.eval()
    crops = held.centres(validation_crop(held))
    rows = []
    for value in VALIDATION_Q:
        figures = []
        for x in crops.split(4):
            q = x.new_full((len(x),), value)
            y, z = model.analyse(x, q)
            bits: list[Tensor] = []
            code = _rounding(bits)
            y_hat, _ = model.prior.walk(code, q, (z.shape[2], z.shape[3]), z, y)
            base = model.synthesise(y_hat, q)
            found = {"bpp": torch.stack(bits).sum(0) / x[0, 0].numel()}
            pictures = {"": base.x_base.float()}
            if model.has_denoiser:
                pictures["_restored"] = restored(model, base, q, (1,))
            for name, x_hat in pictures.items():
                x_hat = x_hat.clamp(-1, 1)
                found[f"psnr{name}"] = 10 * (255**2 / mse(x, x_hat).clamp_min(1e-3)).log10()
                if judge is not None:
                    found[f"lpips{name}"] = judge(x, x_hat)
            figures.append(found)
        means = {name: torch.cat([found[name] for found in figures]).mean().item() for name in figures[0]}
        rows.append({"q": value} | {name: round(mean, 4) for name, mean in means.items()})
    model.train(was_training)
    return rows
