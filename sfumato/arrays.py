"""numpy arrays and torch tensors alike: the little that differs between them, without an import of torch."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""


def namespace(x: Array) -> Any:
    """The module whose functions work on x: numpy, or torch where that made x."""
    return np if isinstance(x, np.ndarray) else sys.modules[type(x).__module__.partition(".")[0]]


def like(values: Array, x: Array) -> Array:
    """The values in the library of x, of its type and on its device."""
    if isinstance(x, np.ndarray):
        return values.astype(x.dtype, copy=False)
    return namespace(x).as_tensor(values, dtype=x.dtype, device=x.device)


def double(x: Array) -> Array:
    """x in float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.double()


def at_least_single(x: Array) -> Array:
    """x in float64 if it is, and in float32 otherwise."""
    xp = namespace(x)
    if x.dtype == xp.float64:
        return x
    return x.astype(np.float32) if xp is np else x.float()


def full_precision(x: Array) -> AbstractContextManager[object]:
    """What is done inside keeps its precision, whatever torch's autocast says."""
    xp = namespace(x)
    if xp is np or not xp.amp.is_autocast_available(x.device.type):
        return nullcontext()
    context: AbstractContextManager[object] = xp.autocast(x.device.type, enabled=False)
    return context
