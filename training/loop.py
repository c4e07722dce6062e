"""A recipe and images in; a checkpoint that can be resumed, a JSON-lines log and weights out.

The same code runs on the CPU, on one GPU (bf16) and data-parallel under torchrun.  Time, not steps, ends
a run: `minutes` counts what this stage has trained in all, restarts included.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from metrics.lpips import load_lpips
from sfumato import scales
from training.data import Images, Mixture, Source
from training.denoising import DenoisingLoss, JointLoss, SamplerLoss
from training.grow import grow_denoiser, grown
from training.initialise import karhunen_loeve
from training.losses import Distortion
from training.networks.denoiser import LightDenoiser
from training.networks.layers import pad_with_zeros, padding_of
from training.networks.model import Model, channels_last, rebuild
from training.objective import ImageLoss, Objective
from training.optimiser import autocast_dtype, load_states, make_optimisers, set_rates, states, step_all
from training.recipes import ONE_PART, WHOLE, Recipe
from training.run_weights import load_weights, save_weights
from training.streaming import Stream
from training.validation import calibrate, validate

Tensors = tuple[Tensor, ...] | list[Tensor]

KLT_CROPS = 256  # from which the linear transforms that training starts with are taken


@dataclass(frozen=True)
class Run:
    """Where one stage reads and writes, and how long it lasts."""

    data: list[Path]
    metrics: Path | None
    out: Path
    minutes: float
    init: Path | None = None  # weights to start from
    denoiser: Path | None = None  # weights whose denoiser is taken, where those of `init` have none
    shards: tuple[str, ...] = ()  # streamed photographs to train on; then `data` are for validation
    screens: tuple[Path, ...] = ()  # rendered images, for recipes that take a share of them
    cache: Path | None = None  # folder for decoded images, which runs share
    seed: int = 0
    log_every: int = 100  # steps
    save_every: float = 5.0  # minutes; a checkpoint, weights and a validation
    held_out: int = 24  # photographs for validation, and a third as many screens
    threads: int = 0  # 0: as torch chooses
    cpu_time: bool = False  # count seconds of this process's CPU: fair comparisons on a busy machine


@dataclass
class Progress:
    """What a resumed run needs to know."""

    step: int = 0
    seconds: float = 0.0


class Log:
    """JSON lines on disk and on the terminal; without a path nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, record: Mapping[str, object]) -> None:
        if self.path is None:
            return
        line = json.dumps(record)
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


class Averages:
    """Means of what is logged, since the last line of the log."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, Tensor | float] = defaultdict(float)
        self.count, self.since = 0, time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value.detach().mean()
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means and the steps a second; starts anew."""
        means = {key: round(float(value) / self.count, 5) for key, value in self.sums.items()}
        means["steps_per_s"] = round(self.count / (time.monotonic() - self.since), 2)
        self.__init__()  # type: ignore[misc]
        return means


def train(recipe: Recipe, run: Run) -> Path:
    """Train; returns the path of the weights.  Resumes from `out/checkpoint.pt` when it is there.

    Raises ValueError for data, weights or a checkpoint that do not fit the recipe, FileNotFoundError for
    missing ones.
    """
    return Trainer(recipe, run).run_to_the_end()


class Trainer:
    """One stage: model, average, optimisers and data, put together by the recipe."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        self.parallel = "RANK" in os.environ
        if self.parallel:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.rank = dist.get_rank() if self.parallel else 0
        if run.threads:
            torch.set_num_threads(run.threads)
        if run.metrics is None:
            recipe = recipe.without_perception()  # or the records name losses that never ran
        if not run.screens:
            recipe = replace(recipe, screens=0.0)
        self.recipe, self.run, self.device = recipe, run, device_of_process()
        torch.manual_seed(run.seed + self.rank)
        run.out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = run.out / "checkpoint.pt"
        self.mixture, self.held = self._load_data()
        self.tables: dict[str, Tensor] = {}
        self.model = self._start_model()
        self.model.set_diffusion(**recipe.diffusion)
        self.trained = choose_parameters(self.model, recipe.part)
        channels_last(self.model.to(self.device)).train()
        terms = {*recipe.base_loss, *recipe.late_loss, *recipe.refined_loss}
        distortion = Distortion(terms, run.metrics, recipe.perceptual_crop, recipe.vgg_crops)
        if recipe.part == "denoiser" and recipe.unroll:
            objective: ImageLoss = SamplerLoss(self.model, recipe, distortion, run.metrics)
        else:
            kinds = {"denoiser": DenoisingLoss, "joint": JointLoss}
            objective = kinds.get(recipe.part, Objective)(self.model, recipe, distortion)
        self.loss = objective.to(self.device)
        self.objective: nn.Module = self.loss  # or what wraps it
        self.critic = objective.critic_parameters()
        self.metric = load_lpips("alex", run.metrics).to(self.device) if run.metrics else None
        self.progress = Progress()
        self.average = AveragedModel(
            self.model, multi_avg_fn=ema(recipe.ema, self.progress), use_buffers=True
        )
        self.optimisers = make_optimisers(self.model, recipe, self.critic)
        if self.checkpoint.exists():
            self._resume()
        if recipe.compile:
            self.objective.compile()
        if self.parallel:
            self.objective = DistributedDataParallel(self.objective)
        self.log = Log(run.out / "log.jsonl" if self.rank == 0 else None)

    def _load_data(self) -> tuple[Mixture, dict[str, Images]]:
        recipe, run = self.recipe, self.run
        loaded, held_photos = Images.load(run.data, self.device, recipe.crop, run.cache).split(run.held_out)
        photos: Source = loaded
        if run.shards:
            place = self.rank, dist.get_world_size() if self.parallel else 1
            photos = Stream(run.shards, recipe.crop, self.device, run.seed, *place)
        held = {"photos": held_photos}
        screens = None
        if run.screens:
            every_screen = Images.load(list(run.screens), self.device, recipe.crop, run.cache)
            screens, held["screens"] = every_screen.split(max(1, run.held_out // 3))
        return Mixture(photos, screens, recipe.screens, recipe.flat), held

    def _start_model(self) -> Model:
        recipe, run = self.recipe, self.run
        if self.checkpoint.exists():
            return Model(recipe.preset)
        if run.init is None:
            if recipe.part == "denoiser":
                raise ValueError("a denoiser is trained on a trained codec: give its weights with --init")
            model = Model(recipe.preset)
            if model.config.family == "light":
                sample, _ = Mixture(self.mixture.photos).batch(
                    KLT_CROPS, recipe.crop, np.random.default_rng(run.seed)
                )
                karhunen_loeve(model, sample.cpu())
            return model
        weights = load_weights(run.init)
        model = weights.model.requires_grad_(True)
        if model.preset != recipe.preset:
            if recipe.part == "denoiser":
                holds = f"{run.init} holds preset {model.preset!r}"
                raise ValueError(f"{holds}, the recipe trains a denoiser of {recipe.preset!r}")
            model = grown(model, recipe.preset).requires_grad_(True)
        if recipe.part == "denoiser":  # the frozen codec stays the same to the last table, and keeps its id
            self.tables = weights.tables
        else:  # a codec that goes on takes the padding of the networks as they are now
            model = rebuild(model)
        without = recipe.diffusion.get("without_base", model.config.without_base)
        if without != model.config.without_base:  # one that saw x_base is no start for one that does not
            model.denoiser = Model(recipe.preset).denoiser
        if run.denoiser is not None:
            other = load_weights(run.denoiser)
            pair = other.model.denoiser, model.denoiser
            if other.model.has_denoiser and other.model.preset == recipe.preset:
                pair[1].load_state_dict(pair[0].state_dict())
            elif other.model.has_denoiser and all(isinstance(one, LightDenoiser) for one in pair):
                grow_denoiser(*pair)  # type: ignore[arg-type]
            else:
                raise ValueError(f"{run.denoiser} holds no denoiser for preset {recipe.preset!r}")
        return model

    def _resume(self) -> None:
        recipe, progress = self.recipe, self.progress
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["stage"] != [recipe.preset, recipe.part, recipe.optimiser]:
            wanted = f"the recipe trains {recipe.part} of {recipe.preset} by {recipe.optimiser}"
            found = f"{self.checkpoint} is a stage of {state['stage']}"
            raise ValueError(f"{found}, {wanted}; name another --out")
        if state.get("padding") == "zeros":
            pad_with_zeros(self.model)
            pad_with_zeros(self.average.module)
        for model in (self.model, self.average.module):
            assert isinstance(model, Model)
            model.set_diffusion(**state.get("diffusion", {}))
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        load_states(self.optimisers, state["optimisers"])
        for parameter, value in zip(self.critic, state.get("critic", ()), strict=False):
            parameter.data.copy_(value)
        progress.step, progress.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.tables = state["tables"]
        torch.manual_seed(self.run.seed + self.rank + 1_000_003 * progress.step)  # not the same noise again
        if isinstance(self.mixture.photos, Stream):
            self.mixture.photos.first_pass = progress.step

    def run_to_the_end(self) -> Path:
        """Train until the time is over; returns the path of the weights."""
        recipe, run, progress = self.recipe, self.run, self.progress
        counts = self.mixture.photos.facts()
        if "images" in counts and self.mixture.screens:
            counts["images"] += len(self.mixture.screens)
        self.log.write({"recipe": asdict(recipe), **counts, "device": str(self.device)})
        dtype = autocast_dtype(self.device)
        facts = {"threads": torch.get_num_threads(), "autocast": str(dtype)}
        self.log.write({"parameters": sum(p.numel() for p in self.trained)} | facts)
        now = time.process_time if run.cpu_time else time.monotonic
        seconds_before, begun = progress.seconds, now()
        rng = np.random.default_rng((run.seed, self.rank, progress.step))
        averages, last_save = Averages(), progress.seconds
        while True:
            progress.seconds = seconds_before + now() - begun
            fraction = self._shared(progress.seconds / (60 * run.minutes))
            if fraction >= 1:
                break
            self.loss.recipe = recipe.at(fraction)
            set_rates(self.optimisers, learning_rate(recipe, progress.step, fraction))
            norm = self._step(rng, fraction >= recipe.perceptual_from, dtype, averages)
            if progress.step % run.log_every == 0:
                head = {"step": progress.step, "minutes": round(progress.seconds / 60, 2)}
                self.log.write(head | averages.take() | {"norm": round(norm, 3)})
            if self.rank == 0 and progress.seconds - last_save > 60 * run.save_every:
                last_save = progress.seconds
                self._save()
                averages = Averages()
        if self.rank == 0:
            self._save()
        if self.parallel:
            dist.barrier()  # none may close its connections while another still saves
            dist.destroy_process_group()
        return run.out / "weights.safetensors"

    def _shared(self, fraction: float) -> float:
        """One clock for all processes: they share learning rates, and leave at the same step."""
        if not self.parallel:
            return fraction
        clock = torch.tensor(fraction, dtype=torch.float64, device=self.device)
        dist.broadcast(clock, 0)
        return clock.item()

    def _step(
        self, rng: np.random.Generator, use_perceptual: bool, dtype: torch.dtype | None, averages: Averages
    ) -> float:
        """One step of the optimisers; returns the norm of the gradient."""
        recipe = self.recipe
        x, kinds = self.mixture.batch(recipe.batch, recipe.crop, rng)
        x = x.contiguous(memory_format=torch.channels_last)
        q = torch.from_numpy(rng.random(recipe.batch, dtype=np.float32)).to(self.device)
        context = torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext()
        with context:
            out = self.objective(x, q, use_perceptual, kinds)
        for parameter in (*self.trained, *self.critic):
            parameter.grad = None
        out["loss"].mean().backward()
        nn.utils.clip_grad_norm_(self.critic, recipe.clip)
        norm = float(nn.utils.clip_grad_norm_(self.trained, recipe.clip))
        self.progress.step += 1
        if np.isfinite(norm):  # one bad batch must not cost the run
            step_all(self.optimisers)
            self.average.update_parameters(self.model)
        averages.add(out)
        return norm

    def _save(self) -> None:
        recipe, run, model = self.recipe, self.run, self.model
        state = {
            "model": model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": states(self.optimisers),
            "critic": [p.detach() for p in self.critic],
            "progress": asdict(self.progress),
            "stage": [recipe.preset, recipe.part, recipe.optimiser],
            "tables": self.tables,
            "padding": padding_of(model.g_s),
            "diffusion": model.diffusion,
        }
        temporary = run.out / "checkpoint.pt.part"
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)
        smooth = self.average.module
        assert isinstance(smooth, Model)
        smooth.has_denoiser = model.has_denoiser
        if recipe.part == "denoiser":  # averaging what stands still makes 0.0 of -0.0, another id
            frozen = {k: v for k, v in model.state_dict().items() if not k.startswith("denoiser.")}
            smooth.load_state_dict(frozen, strict=False)
        tables = self.tables
        if not tables:
            tables = {k: torch.tensor(v) for k, v in scales.Tables.gaussian().arrays().items()}
            tables |= calibrate(smooth, self.held["photos"])
        notes = {"recipe": json.dumps(asdict(recipe)), "steps": str(self.progress.step)}
        save_weights(smooth, run.out / "weights.safetensors", tables, notes)
        figures = {name: validate(smooth, held, self.metric) for name, held in self.held.items()}
        at = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 2)}
        self.log.write({**at, "validation": figures.pop("photos"), **figures})


def device_of_process() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def ema(decay: float, progress: Progress) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Moving average of the weights that forgets its start: (n + 1) / (n + 10) until that is `decay`."""

    def update(averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        weight = 1 - min(decay, (progress.step + 1) / (progress.step + 10))
        torch._foreach_lerp_(averaged, current, weight)

    return update


def choose_parameters(model: Model, part: str) -> list[nn.Parameter]:
    """Freeze what this stage does not train; returns the rest."""
    if part not in (*ONE_PART, *WHOLE):
        raise ValueError(f"part is {part!r}; it is one of {', '.join((*ONE_PART, *WHOLE))}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part in WHOLE or name.startswith("denoiser.") == (part == "denoiser"))
    model.has_denoiser = part != "codec"  # a codec that moves alone leaves its old denoiser behind
    return [p for p in model.parameters() if p.requires_grad]


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Linear warm-up in steps, constant, then linear down to 1 % over the last part of the time."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    decay = max(0.0, (fraction - recipe.decay_start) / (1 - recipe.decay_start))
    return recipe.learning_rate * warm * max(0.01, 1 - 0.99 * decay)
