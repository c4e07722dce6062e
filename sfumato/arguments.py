"""What a caller gives in; ValueError that names argument and value out, where it cannot be meant."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

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
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, {type(value).__name__}; it must be an integer in {limits}")
    if (low is not None and int(value) < low) or (high is not None and int(value) > high):
        raise ValueError(f"{name} is {value}, not in {limits}")


def check_choices(choices: Mapping[str, Any]) -> None:
    """ValueError for a choice of `codec.Choices` that has another type or range."""
    integer("steps", choices.get("steps"), 0)
    integer("chunks", choices.get("chunks"), None)  # how many there are the file says
    integer("max_pixels", choices.get("max_pixels"), 1)
    for name in ("realism", "eta"):
        if name in choices:
            number(name, choices[name], 0, 1)
    crop = choices.get("crop")
    if crop is None:
        return
    sides = (
        crop
        if isinstance(crop, tuple)
        else tuple(getattr(crop, n, None) for n in ("x", "y", "width", "height"))
    )
    whole = all(isinstance(side, numbers.Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) != 4 or not whole:
        raise ValueError(f"crop is {crop!r}; it must be a Crop, or four integers: x, y, width, height")
