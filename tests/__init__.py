"""Tests.  `check` runs shape annotations: pytest --jaxtyping-packages=training,metrics,tests.check"""

from __future__ import annotations

from typing import Any


def check(annotated: Any) -> Any:
    """The function or class with its annotations checked at every call; an int will do for a float."""
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))(annotated)
