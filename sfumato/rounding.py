"""Whether this thread rounds floating-point numbers as IEEE 754 does by default."""

from __future__ import annotations

import numpy as np

from sfumato.errors import HostError

# each sum lies half way, or nearer to one: upwards, downwards and towards zero each miss one of them
_HALF_UNIT = np.array([2.0**-53, -(2.0**-53), 2.0**-54])
_ONE = np.array([1.0, -1.0, -1.0])


def check() -> None:
    """HostError unless sums are rounded to the nearest, halves to even: fesetround, or a library, changed
    that.

    Under any other direction the entropy model's tables, and so the meaning of every file, would differ.
    """
    if (_ONE + _HALF_UNIT != _ONE).any():
        raise HostError(
            "the rounding direction of this thread is not to the nearest (fesetround); "
            "set it back to FE_TONEAREST before encoding or decoding"
        )
