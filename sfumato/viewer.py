"""Scenes, a picture and its coded versions, in; one self-contained HTML page that compares them out.

    versions of one picture -> Scene -> page(title, scenes) -> text of a page

The page needs no server and no network: pictures lie in it as they were handed in, so a JPEG, WebP or AVIF is
the real file, decoded by the browser.  What browsers cannot show must be handed in as lossless WebP or PNG.
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
from string import Template
from typing import Any

# What today's browsers show themselves: suffix of a file -> its media type.
MIMES = {
    ".avif": "image/avif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}

SCRIPTS = ("viewer.js", "viewer_place.js", "viewer_input.js")  # one script, in this order

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
$above
$viewer
$below
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Version:
    """One form of a picture: the original, or what a codec made of it at one setting."""

    label: str  # "AVIF 35"; unique within its scene
    data: bytes  # a file that browsers show
    mime: str  # media type of `data`, one of MIMES
    size_bytes: int  # of the coded file, which `data` need not be
    bpp: float  # 8 size_bytes / pixels
    figures: dict[str, float] = field(default_factory=dict)  # name with unit -> value; NaN is left out
    codec: str = ""  # versions of one codec are offered together; without it, the label

    def __post_init__(self) -> None:
        if self.mime not in MIMES.values():
            known = ", ".join(sorted(set(MIMES.values())))
            raise ValueError(
                f"{self.label}: browsers do not show {self.mime!r}; hand it in as one of {known}"
            )
        if not self.data:
            raise ValueError(f"{self.label}: there are no bytes of a picture")
        if not (self.size_bytes >= 0 and self.bpp >= 0):
            raise ValueError(f"{self.label}: the size is {self.size_bytes} bytes, {self.bpp} bpp")


@dataclass(frozen=True)
class Scene:
    """A picture and its versions, all of the same width and height."""

    name: str
    original: Version
    versions: list[Version]

    def __post_init__(self) -> None:
        labels = [self.original.label, *(version.label for version in self.versions)]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{self.name}: more than one version is called {twice[0]!r}")
        if not self.versions:
            raise ValueError(f"{self.name}: there is no version to compare the original with")


def page(title: str, scenes: Sequence[Scene], above: str = "", below: str = "") -> str:
    """An HTML page with the viewer; `title` is text, `above` and `below` are HTML that goes around it.

    A Content-Security-Policy in the page admits its own script and style alone, by their hashes, and pictures
    from data URIs: `above` and `below` may hold neither scripts nor style attributes.  Without scenes the
    viewer is left out.  Raises ValueError when two scenes have the same name.
    """
    names = [scene.name for scene in scenes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"more than one scene is called {twice[0]!r}")
    style = _asset("viewer.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    blocks = [_block(i, j, v) for i, scene in enumerate(scenes) for j, v in enumerate(_all(scene))]
    viewer = Template(_asset("viewer.html")).substitute(
        scenes=_json([_scene(scene) for scene in scenes]), blocks="\n".join(blocks), script=script
    )
    return Template(PAGE).substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        above=above,
        viewer=viewer if scenes else "",
        below=below,
    )


def _all(scene: Scene) -> list[Version]:
    return [scene.original, *scene.versions]


def _scene(scene: Scene) -> dict[str, Any]:
    """What the script knows of a scene; the pictures stay where they are until they are shown."""
    return {
        "name": scene.name,
        "versions": [
            {
                "label": version.label,
                "codec": version.codec or version.label,
                "mime": version.mime,
                "bytes": version.size_bytes,
                "bpp": f"{version.bpp:.4f}",
                "figures": [[n, _number(v)] for n, v in version.figures.items() if not math.isnan(v)],
            }
            for version in _all(scene)
        ],
    }


def _number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    whole = len(str(abs(int(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, 4 - whole)}f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"


def _block(scene: int, version: int, it: Version) -> str:
    """The bytes of a picture as text that the browser neither runs nor decodes until asked to."""
    return f'<script type="text/plain" id="p{scene}-{version}">{base64.b64encode(it.data).decode()}</script>'


def _json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )


def _asset(name: str) -> str:
    return files("sfumato").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """CSP's name of an inline script or style: SHA-256 of what stands between the tags, base64."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
