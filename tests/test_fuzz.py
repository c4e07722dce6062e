"""The fuzz targets in small: bytes that are not ours never do more than raise FormatError."""

from __future__ import annotations

import numpy as np
import pytest

from fuzz import mutate, toy
from sfumato import container

FILES = toy.corpus()
DECODED = [toy.codec().decode(data) for data in FILES]


@pytest.mark.parametrize("number", range(len(FILES)), ids=sorted(toy.CASES))
def test_the_corpus_is_what_the_toy_weights_write(number: int) -> None:
    name = sorted(toy.CASES)[number]
    height, width, channels, q, seed, metadata = toy.CASES[name]
    assert DECODED[number].shape == (height, width, channels)
    file = container.unpack(FILES[number])
    assert file.metadata == metadata and file.header.q == (255 if q is None else round(q * 255))
    if q is None:
        assert np.array_equal(DECODED[number], toy.test_image(height, width, channels))
        return
    assert file.header.noise_seed == (file.header.noise_seed if seed is None else seed)
    # the entropy model is exact; transforms and WebP differ between machines: sizes agree, bytes need not
    again = container.unpack(toy.codec().encode(toy.test_image(height, width, channels), q=q, seed=seed))
    sizes = [len(container.pack(f.header, f.sections)) for f in (again, file)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_random_mutations_are_refused_or_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    mutate.main(n=300, seed=1)
    lines = capsys.readouterr().out.splitlines()
    counts = [int(line.split(",")[2]) for line in lines if ",FormatError," in line or ",image," in line]
    assert sum(counts) == 300


def test_mutations_do_change_files() -> None:
    rng = np.random.default_rng(0)
    changed = [mutate.mutate(FILES[0], FILES, rng) for _ in range(200)]
    assert sum(data != FILES[0] for _, data in changed) > 180
    assert len({kind for kind, _ in changed}) == 9
