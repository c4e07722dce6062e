"""python -m training.export RUN_WEIGHTS: what a run has trained in; the file that `sfumato` reads out.

The entropy model becomes named integers (`integers`), every other network an ONNX graph, whose parameters
stay beside it by name (`graph_of`): one file, `sfumato.weights`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato import weights
from sfumato.diffusion import Blurring
from sfumato.exact import BITS, DECIMAL, PARAMETER_UNIT, TABLE_UNIT
from sfumato.image import write_bytes
from sfumato.transforms import STRIDE, Transforms
from training.networks.attention import GlobalContext
from training.networks.costs import costs
from training.networks.layers import QualityEmbedding, pad_with_zeros, padding_of
from training.networks.model import Config, Model
from training.networks.positions import DotProduct, GaussianBias, LaplacianBias, NoBias, PositionBias
from training.run_weights import RunWeights, load_weights

STRUCTURE = (nn.ModuleList, nn.Sequential, nn.LeakyReLU)
"""Modules without parameters of their own whose work `autoregressive` does."""


def main(
    run_weights: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    zero_padding: bool = False,
) -> None:
    """Make trained weights the file that `sfumato` reads.

    Args:
        run_weights: weights.safetensors of a run of `python -m training`.
        out: the file to write; without it that of the preset in the package.
        zero_padding: for weights of version 0.1, whose transforms took zeros for what lies beyond the border.
    """
    trained = load_weights(run_weights)
    if zero_padding:
        pad_with_zeros(trained.model)
    shipped = export(trained)
    verify(trained.model, shipped)
    path = out or weights.FOLDER / f"{shipped.preset}{weights.SUFFIX}"
    write_bytes(path, weights.to_bytes(shipped))
    print(f"{path}: model {shipped.model_id:08x}, denoiser {shipped.denoiser_id or 'none'}")


def export(trained: RunWeights) -> weights.Weights:
    """The shipped form of what a run has trained.  ValueError where a network has none."""
    model = trained.model
    c, schedule, prior = model.config, model.schedule, model.prior
    if prior.passes != 2:
        raise ValueError(f"files are coded in 2 passes over a chunk; this entropy model has {prior.passes}")
    if model.has_denoiser and (c.blurred_base or c.without_base):
        given = "nothing of x_base" if c.without_base else "a blurred x_base"
        raise ValueError(f"this denoiser gets {given}; sfumato's decoder gives it the whole")
    if model.has_denoiser and schedule.blur_power != Blurring.blur_power:
        raise ValueError(f"sfumato's blur grows as the sine squared; blur_power is {schedule.blur_power}")
    names = weights.NETWORKS if model.has_denoiser else weights.NETWORKS[:3]
    config = weights.Config(
        chunks=c.chunks,
        z_channels=c.z_channels,
        padding=padding_of(model.g_s),
        halos={name: getattr(model, name).halo for name in names if name != "h_a"},
        predicts=str(model.denoiser.predicts),
        sigma_b_max=schedule.sigma_b_max,
        d_min=schedule.d_min,
        logsnr_min=schedule.logsnr_min,
        logsnr_max=schedule.logsnr_max,
        t0=c.t0,
        times_power=c.times_power,
    )
    gain = _half(model.gain.log_gain.embedding).astype(np.float16)
    tensors: dict[str, NDArray[Any]] = {"gain.embedding": gain}
    tensors |= {f"entropy.{k}": v for k, v in integers(prior, trained.fractions).items()}
    tensors |= {f"tables.{k}": trained.tables[k].numpy() for k in ("counts", "widths")}
    for name in names:
        state = getattr(model, name).state_dict()
        tensors |= {f"{name}.{k}": _half(v).astype(np.float16) for k, v in state.items()}
        tensors[f"graph.{name}"] = np.frombuffer(graph_of(model.preset, c, name, config.padding), np.uint8)
    biases = tuple(_amplitude_and_sigma(bias) for bias in prior.biases())
    known = tuple(asdict(cost) for cost in costs(model.preset))
    return weights.Weights(model.preset, config, tensors, known, biases, trained.notes)


@torch.inference_mode()
def verify(model: Model, shipped: weights.Weights, tolerance: float = 1e-3) -> None:
    """ValueError unless the graphs compute what the torch networks do."""
    transforms = Transforms(shipped)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 192, 64, generator=generator) * 2 - 1
    q, t = torch.tensor([0.7]), torch.tensor([0.2])
    y, z = model.analyze(x, q)
    base = model.synthesize(y, q)
    ours = transforms.synthesize(y.numpy(), q.item())
    gain = transforms.gain(q.item())
    pairs = {
        "g_a": (y, transforms.analyze(x.numpy()) * gain),
        "h_a": (z, transforms.hyper_analyze(y.numpy())),
        "g_s": (base.x_base, ours.x_base),
    }
    if model.has_denoiser:
        noisy = torch.randn(x.shape, generator=generator)
        expected = model.denoiser(noisy, t, q, base.x_base, base.features)
        pairs["denoiser"] = expected, transforms.denoise(noisy.numpy(), t.numpy(), q.item(), ours)
    for name, (expected, found) in pairs.items():
        difference = float(np.abs(expected.numpy() - found).max())
        if not difference <= tolerance * (1 + float(expected.abs().max())):
            raise ValueError(f"{name}: the graph is {difference:.3g} away from the network")


@cache
def graph_of(preset: str, config: Config, name: str, padding: str) -> bytes:
    """The ONNX graph of one network of a preset, for any height and width, batch 1, without its parameters.

    Their names are those of the state dict; onnxruntime gets the values as external initializers.  `config`
    is only there to be a part of the cache's key.
    """
    model = Model(preset).eval().requires_grad_(False)
    if padding == "zeros":
        pad_with_zeros(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # no two alike: equal ones would be merged into one
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    network: nn.Module = getattr(model, name)
    inputs, shapes = _example(model, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    names = dict(network.named_parameters())
    found = set()
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            found.add(tensor.name)
            _without_values(tensor, names[tensor.name])
        elif math.prod(tensor.dims) > 16:
            raise ValueError(f"{name}: the graph holds values of its own, {tensor.name} {list(tensor.dims)}")
    if missing := sorted(set(names) - found):
        raise ValueError(f"{name}: the graph does not use {', '.join(missing[:3])}")
    del proto.graph.value_info[:]
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _without_values(tensor: onnx.TensorProto, parameter: Tensor) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(4 * parameter.numel()))):
        tensor.external_data.add(key=key, value=value)


def _example(model: Model, name: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs of a network, and which of their sides vary, by multiples of what."""
    side = 128
    height, width = (torch.export.Dim(axis, min=1, max=1 << 15) for axis in ("rows", "columns"))
    x, q = torch.randn(1, 3, side, 2 * side), torch.full((1,), 0.4)
    y = torch.randn(1, model.config.latent, side // STRIDE, 2 * side // STRIDE)

    def varying(map_: Tensor, multiple: int) -> dict[int, Any]:
        share = side // map_.shape[2]  # the map's stride
        return {2: multiple // share * height, 3: multiple // share * width}

    if name == "g_a":
        return (x,), (varying(x, 64),)
    if name == "h_a":
        return (y,), (varying(y, 64),)
    if name == "g_s":
        return (y, q), (varying(y, 64), None)
    base = model.g_s(y, q)
    multiple = max(16, int(model.denoiser.multiple))  # type: ignore[arg-type]
    features = tuple(base.features)
    shapes = tuple(varying(feature, multiple) for feature in features)
    full = varying(x, multiple)
    # no input twice: the exporter would take one for the other
    return (torch.randn_like(x), q / 2, q, x, features), (full, None, None, full, shapes)


def integers(prior: nn.Module, fractions: Mapping[str, int]) -> dict[str, NDArray[np.integer]]:
    """The entropy model as named integers, as `exact.from_arrays` reads them.

    `fractions` are the bits after the point of the input of each layer with a sum, by the layer's name.
    Parameters are rounded to fp16 first.  ValueError, naming it, for a layer without an exact form, and for
    fractions that are not those of the layers.
    """
    out: dict[str, NDArray[np.integer]] = {}
    used = set()

    def fraction(name: str) -> NDArray[np.integer]:
        if name not in fractions:
            raise ValueError(f"no fraction for layer {name}")
        used.add(name)
        return np.array(fractions[name], np.int8)

    for name, module in prior.named_modules(remove_duplicate=False):  # a bias may be that of several chunks
        if isinstance(module, GlobalContext) and not len(module.blocks):
            raise ValueError(f"layer {name} has no exact form: a global context without blocks")
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if isinstance(module, nn.Conv2d | nn.Linear):
            out |= {f"{name}.{part}": value for part, value in _matrix(name, module).items()}
            out[f"{name}.fraction"] = fraction(name)
        elif isinstance(module, nn.LayerNorm):
            n, precision = module.weight.numel(), fraction(name)
            out[f"{name}.weight"], out[f"{name}.bias"] = _parameter(module.weight), _parameter(module.bias)
            eps = max(1, round(module.eps * n * n * 4.0 ** int(precision)))
            out[f"{name}.eps"], out[f"{name}.fraction"] = np.array(eps, np.int64), precision
        elif isinstance(module, DotProduct):
            out[f"{name}.fraction"], out[f"{name}.heads"] = fraction(name), np.array(module.heads, np.int8)
        elif isinstance(module, PositionBias):
            out[f"{name}.table"] = _table(name, module)
        elif isinstance(module, QualityEmbedding):
            out[f"{name}.embedding"] = _parameter(module.embedding)
        elif own or not (isinstance(module, STRUCTURE) or list(module.children())):
            raise ValueError(f"layer {name} has no exact form: {type(module).__name__}")
    if unknown := sorted(set(fractions) - used):
        raise ValueError(f"fractions for layers that are not there: {', '.join(unknown)}")
    return dict(sorted(out.items()))


def _matrix(name: str, layer: nn.Conv2d | nn.Linear) -> dict[str, NDArray[np.integer]]:
    """Weights in units of 2^-exponent, so that the largest magnitude comes to 2^14 .. 2^15."""
    if isinstance(layer, nn.Conv2d):
        same = tuple(side // 2 for side in layer.kernel_size)
        plain = layer.stride == (1, 1) and layer.groups == 1 and layer.dilation == (1, 1)
        if not plain or layer.padding != same or layer.padding_mode != "zeros":
            need = "stride 1, one group, equal sizes by zero padding"
            raise ValueError(f"layer {name} has no exact form: {layer}; need {need}")
    weight = _half(layer.weight)
    exponent = BITS - math.frexp(float(np.abs(weight).max()))[1]
    whole = np.rint(weight * 2.0**exponent).astype(np.int16)
    out: dict[str, NDArray[np.integer]] = {"weight": whole, "exponent": np.array(exponent, np.int8)}
    return out if layer.bias is None else out | {"bias": _parameter(layer.bias)}


def _table(name: str, bias: PositionBias) -> NDArray[np.int32]:
    """A position bias by distance, for those that are a function of it alone."""
    if isinstance(bias, NoBias):
        return np.zeros(2 * math.isqrt(2 * len(bias.zeros)) - 1, np.int32)
    if isinstance(bias, LaplacianBias | GaussianBias) and not bias.amplitude.dim():
        amplitude, sigma = (float(p.detach().half()) for p in (bias.amplitude, bias.sigma))
        shape = laplacian if isinstance(bias, LaplacianBias) else gaussian
        return np.array(shape(amplitude, sigma, int(bias.distance.max())), np.int32)
    raise ValueError(f"layer {name} has no exact form: {type(bias).__name__} is no table by distance alone")


def _amplitude_and_sigma(bias: PositionBias) -> tuple[float, float]:
    """What `sfumato info` shows of a bias that has an exact form."""
    if isinstance(bias, LaplacianBias | GaussianBias):
        return abs(float(bias.amplitude)), abs(float(bias.sigma))
    return 0.0, 0.0


def _parameter(value: Tensor) -> NDArray[np.int64]:
    return (_half(value) / PARAMETER_UNIT).astype(np.int64)  # exact: fp16 numbers are such multiples


def _half(value: Tensor) -> NDArray[np.float64]:
    half: NDArray[np.float64] = value.detach().cpu().half().double().numpy()
    if not np.isfinite(half).all():
        raise ValueError("a parameter is not finite in fp16")
    return half


def laplacian(amplitude: float, sigma: float, furthest: int) -> list[int]:
    """round(2^12 A^2 exp(-d / (2 sigma^2 + 10^-6))) for d = 0 .. furthest, correctly rounded by decimals."""
    with localcontext(DECIMAL):
        height = Decimal(amplitude) ** 2 / Decimal(TABLE_UNIT)
        reach = 2 * Decimal(sigma) ** 2 + Decimal("1e-6")
        return [int((height * (-d / reach).exp()).to_integral_value()) for d in range(furthest + 1)]


def gaussian(amplitude: float, sigma: float, furthest: int) -> list[int]:
    """round(2^12 A^2 exp(-d^2 / (2 sigma^2 + 10^-6))) for d = 0 .. furthest, as `laplacian` has it."""
    with localcontext(DECIMAL):
        height = Decimal(amplitude) ** 2 / Decimal(TABLE_UNIT)
        reach = 2 * Decimal(sigma) ** 2 + Decimal("1e-6")
        return [int((height * (-d * d / reach).exp()).to_integral_value()) for d in range(furthest + 1)]


if __name__ == "__main__":
    tyro.cli(main)
