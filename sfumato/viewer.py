"""A self-contained HTML page that compares an image with what codecs make of it.

    renditions of one image -> Comparison -> page(title, comparisons) -> text of a page

The page needs no server and no network: images lie in it as they were given, so a JPEG, WebP or AVIF is the
real file, decoded by the browser.  What browsers cannot show must be given as lossless WebP or PNG.
Only the standard library is used.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

# Media types that today's browsers show, by the suffix of the file.
MIMES = {
    ".avif": "image/avif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$header
$viewer
$footer
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Rendition:
    """One form of an image: the original, or what a codec made of it at one setting."""

    label: str  # "AVIF 35"; unique within its comparison
    data: bytes  # a file that browsers show
    mime: str  # media type of `data`, one of MIMES
    size_bytes: int  # of the coded file, which `data` need not be
    bpp: float  # 8 size_bytes / pixels
    metrics: dict[str, float] = field(default_factory=dict)  # name with unit -> value; NaN: not measured
    codec: str = ""  # renditions of one codec are listed together; without it, the label

    def __post_init__(self) -> None:
        if self.mime not in MIMES.values():
            known = ", ".join(sorted(set(MIMES.values())))
            raise ValueError(f"{self.label}: browsers do not show {self.mime!r}; use one of {known}")
        if not self.data:
            raise ValueError(f"{self.label}: the image has no bytes")
        if not (self.size_bytes >= 0 and self.bpp >= 0):
            raise ValueError(f"{self.label}: the size is {self.size_bytes} bytes, {self.bpp} bpp")


@dataclass(frozen=True)
class Comparison:
    """An image and its renditions, all of the same width and height."""

    name: str
    original: Rendition
    renditions: list[Rendition]

    def __post_init__(self) -> None:
        if twice := _twice(one.label for one in self.all):
            raise ValueError(f"{self.name}: more than one rendition is called {twice!r}")
        if not self.renditions:
            raise ValueError(f"{self.name}: there is no rendition to compare the original with")

    @property
    def all(self) -> list[Rendition]:
        """The original, and then the others."""
        return [self.original, *self.renditions]


def page(title: str, comparisons: Sequence[Comparison], header: str = "", footer: str = "") -> str:
    """An HTML page with the viewer; `title` is text, `header` and `footer` are HTML around the viewer.

    A Content-Security-Policy in the page admits its own script and style alone, by their hashes, and images
    from data URIs: `header` and `footer` may hold neither scripts nor style attributes.  Without comparisons
    the viewer is left out.  Raises ValueError when two comparisons have the same name.
    """
    if twice := _twice(one.name for one in comparisons):
        raise ValueError(f"more than one comparison is called {twice!r}")
    style, script = _asset("viewer.css"), _asset("viewer.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # Text that the browser neither runs nor decodes until it is asked to.
    images = [
        f'<script type="text/plain" id="image-{i}-{j}">{base64.b64encode(one.data).decode()}</script>'
        for i, comparison in enumerate(comparisons)
        for j, one in enumerate(comparison.all)
    ]
    viewer = Template(_asset("viewer.html")).substitute(
        names="".join(_option(i, one.name) for i, one in enumerate(comparisons)),
        comparisons=_json([_for_script(i, one) for i, one in enumerate(comparisons)]),
        images="\n".join(images),
        script=script,
    )
    return Template(PAGE).substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        header=header,
        viewer=viewer if comparisons else "",
        footer=footer,
    )


def _twice(names: Any) -> str | None:
    """The first name that comes twice."""
    names = sorted(names)
    return next((name for name, after in zip(names, names[1:], strict=False) if name == after), None)


def _for_script(number: int, comparison: Comparison) -> dict[str, Any]:
    """What the script needs beside the images.  `options`, `rows` and `values` are HTML."""
    renditions = comparison.all
    names = list(dict.fromkeys(name for one in renditions for name in one.metrics))
    options = ""
    for codec, group in groupby(enumerate(renditions), lambda pair: _codec(pair[1])):
        own = "".join(_option(index, _label(one)) for index, one in group)
        single = own.count("<option") == 1
        options += own if single else f'<optgroup label="{html.escape(codec)}">{own}</optgroup>'
    return {
        "name": comparison.name,
        "options": options,
        "rows": ["", "bytes", "bits per pixel", *map(html.escape, names)],
        "renditions": [
            {
                "setting": one.label,
                "place": [_codec(before) for before in renditions[: index + 1]].count(_codec(one)),
                "codec": _codec(one),
                "label": _label(one),
                "mime": one.mime,
                "data": f"image-{number}-{index}",
                "nearest": _nearest(one, renditions),
                "values": [
                    html.escape(one.label),
                    f"{one.size_bytes:,}",
                    f"{one.bpp:.4f}",
                    *(formatted(one.metrics.get(name, math.nan)) for name in names),
                ],
            }
            for index, one in enumerate(renditions)
        ],
    }


def _nearest(rendition: Rendition, renditions: list[Rendition]) -> dict[str, int]:
    """Codec -> which of its renditions is nearest in bytes; "": of all codecs but this one's."""

    def distance(index: int) -> float:
        return abs(math.log((renditions[index].size_bytes + 1) / (rendition.size_bytes + 1)))

    groups: dict[str, list[int]] = {}
    for index, other in enumerate(renditions[1:], 1):
        if _codec(other) != _codec(rendition):
            groups.setdefault("", []).append(index)
            groups.setdefault(_codec(other), []).append(index)
    return {codec: min(group, key=distance) for codec, group in groups.items()}


def _codec(rendition: Rendition) -> str:
    return rendition.codec or rendition.label


def _option(value: int, text: str) -> str:
    return f'<option value="{value}">{html.escape(text)}</option>'


def _label(rendition: Rendition) -> str:
    return f"{rendition.label}, {rendition.size_bytes:,} bytes"


def formatted(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"
    whole = len(str(abs(int(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, 4 - whole)}f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"


def _json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("sfumato").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """CSP's name of an inline script or style: SHA-256 of what stands between the tags, base64."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
