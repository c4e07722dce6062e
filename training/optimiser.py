"""The parameters of a model and a recipe in, optimisers out: SOAP for matrices, AdamW for the rest.

SOAP (Vyas et al. 2024) is Adam in the eigenbasis of Shampoo's statistics: with L = EMA(G G^T) and
R = EMA(G^T G), whose eigenvectors are Q_L and Q_R, Adam's moments are those of Q_L^T G Q_R (algorithm 3).
Kernels have a basis for each of their sides, of which the package merges neighbours up to `LARGEST_SIDE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_optimizer import SOAP
from torch import nn
from torch.optim import AdamW, Optimizer

from training.recipes import Recipe

SMALLEST_SIDE = 16  # matrices with a shorter side, depthwise kernels among them, go to AdamW
LARGEST_SIDE = 512  # longer sides get no basis of their own: its cost grows with the cube
BASIS_EVERY = 10  # steps
SOAP_BETAS = (0.95, 0.95)
ADAMW_BETAS = (0.9, 0.99)
CRITIC_BETAS = (0.5, 0.99)
CRITIC_SHARE = 0.5  # of the learning rate
ADAMW_SHARE = 0.5  # of SOAP's learning rate, for what AdamW trains beside it


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether both sides of [out, in * height * width] are at least 16."""
    shape = parameter.shape
    return len(shape) >= 2 and min(shape[0], math.prod(shape[1:])) >= SMALLEST_SIDE


def make_optimisers(model: nn.Module, recipe: Recipe, critic: Sequence[nn.Parameter] = ()) -> list[Optimizer]:
    """For all parameters of the model that need gradients; learning rates are set by `set_rates`.

    A `critic`, which is trained against the model, gets AdamW with a shorter memory in any case.
    """
    optimisers = _of_model(model, recipe)
    if critic:
        group = {"params": list(critic), "betas": CRITIC_BETAS, "share": CRITIC_SHARE}
        optimisers[-1].add_param_group(group)  # the last one is AdamW in either case
    return optimisers


def _of_model(model: nn.Module, recipe: Recipe) -> list[Optimizer]:
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if recipe.optimiser == "adamw":
        everything = [p for _, p in named]
        return [AdamW(everything, lr=recipe.learning_rate, betas=ADAMW_BETAS, weight_decay=0.0, fused=True)]
    # per-quality embeddings have the shape of a matrix and are rows that follow q: no rotation mixes them
    matrices = [p for n, p in named if is_matrix(p) and not n.endswith(".embedding")]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    soap = SOAP(
        matrices,
        lr=recipe.learning_rate,
        betas=SOAP_BETAS,
        weight_decay=0.0,
        precondition_frequency=BASIS_EVERY,
        max_precondition_dim=LARGEST_SIDE,
        merge_dims=True,
    )
    rate = recipe.learning_rate * ADAMW_SHARE
    adamw = AdamW(rest, lr=rate, betas=ADAMW_BETAS, weight_decay=0.0, fused=True)
    return [soap, adamw]


def set_rates(optimisers: Sequence[Optimizer], rate: float) -> None:
    """Give all optimisers the learning rate of this step; AdamW beside SOAP gets its share."""
    for optimiser in optimisers:
        share = ADAMW_SHARE if len(optimisers) > 1 and isinstance(optimiser, AdamW) else 1.0
        for group in optimiser.param_groups:
            group["lr"] = rate * share * group.get("share", 1.0)


def states(optimisers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    """What a checkpoint holds of them."""
    return [optimiser.state_dict() for optimiser in optimisers]


def load_states(optimisers: Sequence[Optimizer], saved: list[dict[str, Any]]) -> None:
    """Inverse of `states`; ValueError where the checkpoint comes from other optimisers."""
    if len(saved) != len(optimisers):
        raise ValueError(f"the checkpoint holds {len(saved)} optimisers, the recipe has {len(optimisers)}")
    for optimiser, state in zip(optimisers, saved, strict=True):
        optimiser.load_state_dict(state)


def step_all(optimisers: Sequence[Optimizer]) -> None:
    """One step of each."""
    for optimiser in optimisers:
        optimiser.step()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it, else None: emulated it is ten times slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else None
