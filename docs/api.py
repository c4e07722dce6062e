"""python -m docs.api FOLDER: pages of what `import sfumato` offers, from its docstrings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import pdoc
import tyro

import sfumato


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the pages; a docstring or an annotation that pdoc cannot use is an error.

    Args:
        folder: where to; index.html is the first page.
    """
    for name in sfumato.__all__:  # loaded on first use, which pdoc does not know
        setattr(sfumato, name, getattr(sfumato, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("sfumato", output_directory=folder)


if __name__ == "__main__":
    tyro.cli(main)
