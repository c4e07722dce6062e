"""Shipped weights in; what can be trained on out: the inverse of `training.export`.

Every number comes back as the fp16 number that it was exported from, but weights of the entropy model far
below the largest of their layer, which come back as the multiple of its unit that they were rounded to.
Exported again unchanged, they give the same integers and so the same ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.exact import PARAMETER_UNIT
from sfumato.weights import NETWORKS, Weights
from training.networks.layers import pad_with_zeros
from training.networks.model import DIFFUSION, Model


def restore(weights: Weights) -> tuple[Model, dict[str, Tensor]]:
    """(the model, its integer tables with the fractions of the entropy model's layers)."""
    model = Model(weights.preset)
    model.set_diffusion(**{name: getattr(weights.config, name) for name in DIFFUSION})
    if weights.config.padding == "zeros":
        pad_with_zeros(model)
    model.has_denoiser = weights.has_denoiser
    state = {"gain.log_gain.embedding": torch.tensor(weights.tensors["gain.embedding"]).float()}
    for name in NETWORKS:
        state |= {f"{name}.{k}": torch.tensor(v).float() for k, v in weights.part(name).items()}
    tables = {name: torch.tensor(value) for name, value in weights.part("tables").items()}
    entropy = weights.part("entropy")
    for key, value in entropy.items():
        layer, _, part = key.rpartition(".")
        if part == "fraction":
            tables[f"fractions.{layer}"] = torch.tensor(value)
        elif part in ("weight", "bias", "embedding"):
            matrix = part == "weight" and f"{layer}.exponent" in entropy
            unit = 2.0 ** -int(entropy[f"{layer}.exponent"]) if matrix else PARAMETER_UNIT
            state[f"prior.{key}"] = torch.tensor(value * unit).float()
    for number, values in enumerate(weights.position_bias):
        for part, learnt in zip(("amplitude", "sigma"), values, strict=True):
            key = f"prior.chunks.{number}.global_context.bias.{part}"
            if key in model.state_dict():  # not where a preset goes without a bias
                state[key] = torch.tensor(learnt)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if model.has_denoiser or not name.startswith("denoiser.")]
    if missing or unexpected:
        raise ValueError(f"weights of {weights.preset!r} do not fit it: {(missing + unexpected)[:3]}")
    return model, tables
