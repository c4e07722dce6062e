"""Flat colours come back flat: no rim at the border, and little tint (`studies.flat_colours`)."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.codec import load
from sfumato.decode_options import DecodeOptions
from studies.flat_colours import COLOURS, errors


@pytest.mark.parametrize("name", COLOURS)
def test_flat_colours_have_no_rim(name: str) -> None:
    """With zeros around the feature maps the outermost pixels were up to 70 levels off."""
    codec, colour = load("small"), COLOURS[name]
    image = np.full((128, 128, 3), colour, np.uint8)
    data = codec.encode(codec.analyze(image), q=1.0)  # with the very q, not the best of several
    shown = codec.decode_image(data, DecodeOptions(steps=0))
    inside, border = errors(shown.rgb, colour)
    assert inside <= 6 and border <= inside + 2


def test_the_measure_sees_a_rim_and_a_tint() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    image[0, 3, 1] = 130
    assert errors(image, (100, 100, 100)) == (0, 30)
    image[5, 5, 2] = 96
    assert errors(image, (100, 100, 100)) == (4, 30)
