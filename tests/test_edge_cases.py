"""Images of every kind, and files that are none, through the command (`python -m acceptance.edge_cases`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance import edge_cases


@pytest.mark.parametrize("case", edge_cases.cases(), ids=lambda case: case.name.replace("/", "-"))
def test_edge_case(case: edge_cases.Case, tmp_path: Path) -> None:
    """`outcome` asserts the exit code, the message, and that no file is left but whole ones."""
    found = edge_cases.outcome(case, tmp_path)
    if not case.code:
        grey = case.name.startswith(("grey", "bilevel", "16-bit-grey", "32-bit", "16-bit.jp2", "invisible"))
        seen_through = "alpha" in case.name and "opaque" not in case.name
        seen_through |= case.name.endswith(("-key.png", ".gif", ".tga")) or case.name == "invisible.png"
        assert found.channels == (1 if grey else 3) + seen_through
