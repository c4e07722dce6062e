"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from metrics import features


def random_metric(folder: Path, net: features.Net) -> Path:
    """Random weights of LPIPS in a folder, of the right shapes: for what does not depend on their values."""
    build, name = features.TRUNKS[net]
    trunk = build()
    save_file(trunk.state_dict(), folder / name)
    channels = [f.shape[1] for f in trunk(torch.zeros(1, 3, 31, 31))]
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    save_file(heads, folder / f"lpips_{net}_v0.1_heads.safetensors")
    return folder
