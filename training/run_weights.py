"""What a training run leaves: parameters in fp16 and the coder's tables in one safetensors file; and back.

Such a file continues a run; `training.export` makes of it the file that `sfumato` reads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.image import write_bytes
from sfumato.weights import SUFFIX, read_weights
from training.calibration import layers_with_sums
from training.networks.layers import pad_with_zeros, padding_of
from training.networks.model import Model
from training.restore import restore

TABLES = {"counts", "widths"}
"""Those of `scales.Tables`; beside them `fractions.LAYER` of every layer (`Calibration.fractions`)."""


@dataclass(frozen=True)
class RunWeights:
    """A file of a run, read and checked.  `tables` are those of `TABLES`, and the fractions by layer."""

    model: Model
    model_id: int  # u32, of all tensors but the denoiser's
    denoiser_id: str  # hex; empty where there is none
    tables: dict[str, Tensor]
    notes: dict[str, str]

    @property
    def fractions(self) -> dict[str, int]:
        """Bits after the point of the input of each layer of the entropy model with a sum, by name."""
        prefix = "fractions."
        return {k.removeprefix(prefix): int(v) for k, v in self.tables.items() if k.startswith(prefix)}


def save_weights(model: Model, path: Path, extra: dict[str, Tensor], notes: dict[str, str]) -> str:
    """Write the parameters in fp16 with the tables `extra`; returns an id in hex."""
    skip = () if model.has_denoiser else ("denoiser.",)
    state = {k: v.detach() for k, v in model.state_dict().items() if not k.startswith(skip)}
    tensors = {k: v.half().contiguous().cpu() for k, v in state.items()}
    tensors |= {f"tables.{k}": v.contiguous() for k, v in extra.items()}
    model_id, denoiser_id = _ids(tensors)
    metadata = {"preset": model.preset, "model_id": model_id, "denoiser_id": denoiser_id}
    metadata["notes"] = json.dumps(notes, sort_keys=True)
    metadata["padding"] = padding_of(model.g_s)
    metadata["diffusion"] = json.dumps(model.diffusion)
    write_bytes(path, save(tensors, metadata))
    return model_id


def load_weights(path: str | Path) -> RunWeights:
    """The file of a run, or weights as they are shipped, by path or name; WeightsError if they are neither.

    Runs of version 0.1 hold their fractions as one array, in the order in which the layers are registered.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        return _shipped(path)
    if not path.is_file():
        raise WeightsError(f"no weights of a run at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a file of weights: {error}") from error
    if "format" in metadata:
        return _shipped(path)
    named = metadata.get("model_id"), metadata.get("denoiser_id", "")
    if named != _ids(tensors):
        raise WeightsError(f"{path} is damaged: its tensors do not match its ids {named}")
    model = Model(metadata.get("preset", ""))
    model.set_diffusion(**json.loads(metadata.get("diffusion", "{}")))
    if metadata.get("padding") == "zeros":
        pad_with_zeros(model)
    state = {k: v.float() for k, v in tensors.items() if not k.startswith("tables.")}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit preset {model.preset!r}: {error}") from error
    model.has_denoiser = any(k.startswith("denoiser.") for k in state)
    missing = [k for k in missing if model.has_denoiser or not k.startswith("denoiser.")]
    if missing or unexpected:
        raise WeightsError(f"{path} does not fit preset {model.preset!r}: {(missing + unexpected)[:3]}")
    tables = {k.removeprefix("tables."): v for k, v in tensors.items() if k.startswith("tables.")}
    layers = [name for name, _ in layers_with_sums(model.prior)]
    if (ordered := tables.pop("fractions", None)) is not None and len(ordered) == len(layers):
        tables |= {f"fractions.{name}": value for name, value in zip(layers, ordered, strict=True)}
    if set(tables) != TABLES | {f"fractions.{name}" for name in layers}:
        names = ", ".join(sorted(tables))
        raise WeightsError(f"{path} holds other tables than preset {model.preset!r} asks for: {names}")
    model.eval().requires_grad_(False)
    notes = json.loads(metadata.get("notes", "{}"))
    return RunWeights(model, int(metadata["model_id"], 16), metadata.get("denoiser_id", ""), tables, notes)


def _shipped(name: Path) -> RunWeights:
    weights = read_weights(name)
    try:
        model, tables = restore(weights)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{name} cannot be trained on: {error}") from error
    model.eval().requires_grad_(False)
    return RunWeights(model, weights.model_id, weights.denoiser_id, tables, dict(weights.notes))


def _ids(tensors: dict[str, Tensor]) -> tuple[str, str]:
    """(of the codec, of the denoiser or "")."""
    denoiser = {k: v for k, v in tensors.items() if k.startswith("denoiser.")}
    codec = {k: v for k, v in tensors.items() if k not in denoiser}
    return _fingerprint(codec), _fingerprint(denoiser) if denoiser else ""


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.digest()[:4].hex()
