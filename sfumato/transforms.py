"""x <-> y <-> z, and the denoiser, as ONNX graphs run by onnxruntime; float32, batch 1.

g_a [1, 3, H, W] -> y [1, M, H/16, W/16]; h_a y -> z [1, N, H/64, W/64]; g_s y_hat, q -> x_base, features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.arrays import Array
from sfumato.errors import WeightsError
from sfumato.weights import Weights

if TYPE_CHECKING:
    from jaxtyping import Float

STRIDE = 16  # pixels to y
HYPER_STRIDE = 64  # pixels to z

_abandoned: list[Any] = []
"""Sessions of a parent process: their threads are not here, and ending them would wait for those for ever."""


class BaseReconstruction(NamedTuple):
    """What the main decoder makes of y_hat."""

    x_base: Float[Array, "b 3 h w"]  # the base reconstruction, in [-1, 1] (not clamped)
    features: tuple[Array, ...]  # for the denoiser, coarse to fine, from 1/8 on

    def part(self, rows: slice, columns: slice | None = None) -> BaseReconstruction:
        """Those rows and columns (all of them if None) of the image and of the features.

        Both slices run from multiples of 8 to multiples of 8.
        """
        height = self.x_base.shape[2]

        def cut(map_: Array) -> Array:
            share = height // map_.shape[2]
            map_ = map_[:, :, rows.start // share : rows.stop // share]
            return map_ if columns is None else map_[..., columns.start // share : columns.stop // share]

        return BaseReconstruction(cut(self.x_base), tuple(cut(feature) for feature in self.features))


class Transforms:
    """The networks of one model outside its entropy model.

    providers  onnxruntime's, by preference; without them those of SFUMATO_PROVIDERS (separated by commas),
               or the CPU's
    threads    of each network on the CPU; None or 0: OMP_NUM_THREADS, or what the machine has; never more
               than that

    Thread-safe.  ValueError for a provider that is not there.
    """

    def __init__(
        self, weights: Weights, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        options = _providers(providers), _threads(threads)
        names = [key.removeprefix("graph.") for key in weights.tensors if key.startswith("graph.")]
        self._networks = {
            name: Network(name, weights.tensors[f"graph.{name}"], weights.part(name), *options)
            for name in names
        }
        self._log_gain = weights.tensors["gain.embedding"].astype(np.float64)

    def gain(self, q: float) -> Float[np.ndarray, "1 m 1 1"]:
        """By which y is multiplied before it is rounded (gain units, Cui et al. 2021); float32."""
        last = len(self._log_gain) - 1
        below = min(int(q * last), last - 1)
        part = q * last - below
        log_gain = self._log_gain[below] * (1 - part) + self._log_gain[below + 1] * part
        gain: NDArray[np.float32] = np.exp(log_gain).astype(np.float32)[None, :, None, None]
        return gain

    def analyze(self, x: Float[np.ndarray, "1 3 h w"]) -> Float[np.ndarray, "1 m h/16 w/16"]:
        """x in [-1, 1], sides multiples of 64 -> y, before any gain."""
        return self._networks["g_a"](x)[0]

    def hyper_analyze(self, y: Float[np.ndarray, "1 m h w"]) -> Float[np.ndarray, "1 n h/4 w/4"]:
        """y in the domain of the gains -> z."""
        return self._networks["h_a"](y)[0]

    def synthesize(self, y_hat: Float[np.ndarray, "1 m h w"], q: float) -> BaseReconstruction:
        """y_hat in the domain of the gains -> x_base in [-1, 1] and the features of the denoiser."""
        x_base, *features = self._networks["g_s"](y_hat / self.gain(q), np.array([q], np.float32))
        return BaseReconstruction(x_base, tuple(features))

    def denoise(
        self,
        z_t: Float[np.ndarray, "1 3 h w"],
        t: Float[np.ndarray, " 1"],
        q: float,
        base: BaseReconstruction,
    ) -> Float[np.ndarray, "1 3 h w"]:
        """What the denoiser predicts of the noisy z_t at time t in [0, 1]: x or epsilon (`Config`)."""
        q_ = np.array([q], np.float32)
        return self._networks["denoiser"](z_t, t, q_, base.x_base, *base.features)[0]


class Network:
    """One graph with its parameters; a session is made when first needed, and anew after a fork."""

    def __init__(
        self,
        name: str,
        graph: NDArray[np.uint8],
        parameters: Mapping[str, NDArray],
        providers: list[str],
        threads: int,
    ) -> None:
        self._name, self._graph, self._parameters = name, graph.tobytes(), parameters
        self._providers, self._threads = providers, threads
        self._session: tuple[int, Any, list[str]] | None = None  # process, session, names of inputs

    def __call__(self, *inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Outputs for inputs, both in the order of the graph; MemoryError where there is too little of it."""
        if self._session is None or self._session[0] != os.getpid():
            if self._session is not None:
                _abandoned.append(self._session)
            self._session = os.getpid(), *self._open()
        _, session, names = self._session
        feed = {name: np.ascontiguousarray(x, np.float32) for name, x in zip(names, inputs, strict=True)}
        try:
            outputs: list[NDArray[np.float32]] = session.run(None, feed)
        except Exception as error:
            if "allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return outputs

    def _open(self) -> tuple[Any, list[str]]:
        import onnxruntime as ort  # a fifth of a second that headers and messages do without

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # threads that wait by spinning take the cores from numpy's, between one graph and the next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors: a missing provider is ours to name
        options.enable_mem_pattern = False  # strips differ in size
        options.enable_cpu_mem_arena = False  # it keeps what it had: a fifth more memory, and no faster
        values = [
            ort.OrtValue.ortvalue_from_numpy(value.astype(np.float32)) for value in self._parameters.values()
        ]
        options.add_external_initializers(list(self._parameters), values)
        try:
            session = ort.InferenceSession(self._graph, options, providers=self._providers)
        except Exception as error:  # onnxruntime has a family of its own without a common name
            raise WeightsError(f"graph of {self._name} cannot be loaded: {error}") from error
        return session, [given.name for given in session.get_inputs()]


def _providers(asked: Sequence[str] | None) -> list[str]:
    names = list(asked or filter(None, os.environ.get("SFUMATO_PROVIDERS", "").split(",")))
    if names in ([], ["CPUExecutionProvider"]):
        return ["CPUExecutionProvider"]
    import onnxruntime as ort

    have = ort.get_available_providers()
    for name in names:
        if name not in have:
            raise ValueError(f"no provider {name!r} in this onnxruntime; it has {', '.join(have)}")
    return names


def _threads(asked: int | None) -> int:
    have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked:
        first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is one number a level
        asked = int(first) if first.isdecimal() else 0
    if asked < 0:
        raise ValueError(f"threads is {asked}, not at least 0")
    return min(asked or have, have)
