"""A model and an image in; weights as a run leaves them out: for tests and fuzzing, where no one trains."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.scales import Tables
from training.calibration import Calibration
from training.networks.model import Model
from training.run_weights import RunWeights, load_weights, save_weights


@torch.no_grad()
def tables_of(model: Model, x: Float[Tensor, "1 3 h w"]) -> dict[str, Tensor]:
    """The integer tables of a model, calibrated on one image at q = 0.5."""
    q = torch.tensor([0.5])
    y, z = model.analyze(x, q)
    with Calibration(model.prior) as calibration:
        model.prior(y, z, q)
    tables = {name: torch.tensor(value) for name, value in Tables.gaussian().arrays().items()}
    return tables | calibration.fractions()


def calibrated(model: Model, x: Float[Tensor, "1 3 h w"]) -> RunWeights:
    """The model as it comes back from a file: parameters of fp16."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(model, path, tables_of(model, x), {"recipe": "none: random"})
        return load_weights(path)
