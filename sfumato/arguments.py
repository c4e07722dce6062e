"""What a caller gives in; ValueError that names argument and value out, where it cannot be meant."""

from __future__ import annotations

import numbers
from typing import TypeGuard

import numpy as np


def number(name: str, value: object, low: float, high: float) -> None:
    """ValueError unless it is a real number in low .. high."""
    real = isinstance(value, numbers.Real | np.floating) and not isinstance(value, bool | np.bool_)
    if not real:
        raise ValueError(
            f"{name} is {value!r}, {type(value).__name__}; it must be a number in {low:g}..{high:g}"
        )
    if not low <= float(value) <= high:  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value}, not in {low:g}..{high:g}")


def integer(name: str, value: object, low: int | None, high: int | None = None) -> None:
    """ValueError unless it is None or an integer in low .. high, each None for no limit."""
    if value is None:
        return
    limits = f"{'' if low is None else low}..{'' if high is None else high}"
    if not is_integer(value):
        raise ValueError(f"{name} is {value!r}, {type(value).__name__}; it must be an integer in {limits}")
    if (low is not None and int(value) < low) or (high is not None and int(value) > high):
        raise ValueError(f"{name} is {value}, not in {limits}")


def is_integer(value: object) -> TypeGuard[int]:
    """Whether it is an integer, of Python or numpy, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
