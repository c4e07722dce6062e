"""sfumato.viewer: one self-contained page.  What it does in a browser: test_viewer_browser."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.viewer import Comparison, Rendition, page

CHELSEA = Path(__file__).parent.parent / "examples" / "chelsea.png"
WIDTH, HEIGHT = 240, 160
Open = Callable[..., Any]


def rendition(image: Image.Image, label: str, format: str, codec: str = "", **options: Any) -> Rendition:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    data = buffer.getvalue()
    bpp = 8 * len(data) / (image.width * image.height)
    return Rendition(label, data, f"image/{format.lower()}", len(data), bpp, {"PSNR, dB": 31.25}, codec)


def comparison(name: str = "chelsea", left: int = 0) -> Comparison:
    with Image.open(CHELSEA) as whole:
        image = whole.convert("RGB").crop((left, 40, left + WIDTH, 40 + HEIGHT))
    renditions = [
        *(rendition(image, f"jpeg {q}", "JPEG", "jpeg", quality=q) for q in (10, 40, 80)),
        *(rendition(image, f"webp {q}", "WEBP", "webp", quality=q) for q in (5, 50, 90)),
    ]
    return Comparison(name, rendition(image, "original", "PNG"), renditions)


def nearest(one: Comparison, label: str) -> str:
    """Of the renditions of other codecs, the nearest in bytes."""
    sizes = {each.label: each.size_bytes for each in one.renditions}
    others = [name for name in sizes if name.split()[0] != label.split()[0]]
    return min(others, key=lambda name: abs(math.log(sizes[name] / sizes[label])))


def comparisons_in(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="comparisons">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_the_page_is_self_contained_and_reproducible() -> None:
    both = [comparison("one"), comparison("two", 100)]
    text = page("Chelsea", both, "<p>above</p>", "<p>below</p>")
    assert not re.search(r"https?:|//\w+\.\w", re.sub(r">[A-Za-z0-9+/=]{200,}<", "><", text))
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.search(r"<(link|img|iframe|object|embed)\b(?![^>]*href=\"data:,\")", markup)
    assert not re.search(r"\s(style|on\w+)=", markup)
    assert text.index("<p>above</p>") < text.index("<section") < text.index("<p>below</p>")
    assert text == page("Chelsea", both, "<p>above</p>", "<p>below</p>")
    empty = page("Nothing", [], "<p>above</p>")
    assert "<p>above</p>" in empty and "<section" not in empty and "<script" not in empty


def test_the_policy_admits_this_script_and_style_alone() -> None:
    text = page("Chelsea", [comparison()])
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for kind, tag in (("script", '<script type="module">'), ("style", "<style>")):
        [content] = re.findall(rf"{tag}(.*?)</{kind}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_files_are_embedded_unchanged_and_not_as_images() -> None:
    one = comparison()
    text = page("Chelsea", [one])
    blocks = dict(re.findall(r'<script type="text/plain" id="(image-[\d-]+)">(.*?)</script>', text))
    [found] = comparisons_in(text)
    embedded = [base64.b64decode(blocks[each["data"]]) for each in found["renditions"]]
    assert embedded == [each.data for each in one.all]
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert [each["codec"] for each in found["renditions"]][:2] == ["original", "jpeg"]
    assert found["renditions"][1]["values"][1] == f"{len(embedded[1]):,}"


def test_names_are_escaped() -> None:
    nasty = "</script><script>alert(1)</script><!--<b>&\"'"
    data = comparison().original.data
    first = Rendition(nasty, data, "image/png", 1, 0.1, {nasty: 1.0}, nasty)
    text = page(nasty, [Comparison(nasty, first, [Rendition("x", data, "image/png", 1, 0.1)])])
    assert "<script>alert(1)" not in text
    [title] = re.findall(r"<title>(.*?)</title>", text)
    assert html.unescape(title) == nasty
    [found] = comparisons_in(text)
    assert found["name"] == nasty and html.unescape(found["rows"][-1]) == nasty != found["rows"][-1]
    assert "<b>" not in found["options"] + "".join(found["renditions"][0]["values"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(31.25, "31.25"), (0.12345, "0.1235"), (412.39, "412.4"), (-7.5, "-7.500"), (0.00012, "0.00012"),
     (0.0, "0.0000"), (12345.6, "12346"), (math.inf, "∞"), (-math.inf, "-∞"), (math.nan, "–")],
)  # fmt: skip
def test_metric_values_have_four_digits(value: float, text: str) -> None:
    data = comparison().original.data
    first = Rendition("a", data, "image/png", 1, 0.1, {"it": value})
    [found] = comparisons_in(page("t", [Comparison("s", first, [Rendition("b", data, "image/png", 1, 0.1)])]))
    assert [each["values"][-1] for each in found["renditions"]] == [text, "–"]


def test_bad_renditions_and_comparisons_are_named() -> None:
    with pytest.raises(ValueError, match="jxl 1: browsers do not show 'image/jxl'; use one of image/avif"):
        Rendition("jxl 1", b"x", "image/jxl", 1, 0.1)
    with pytest.raises(ValueError, match="a: the image has no bytes"):
        Rendition("a", b"", "image/png", 1, 0.1)
    for size, bpp in ((-1, 0.1), (1, math.nan)):
        with pytest.raises(ValueError, match=f"a: the size is {size} bytes, {bpp} bpp"):
            Rendition("a", b"x", "image/png", size, bpp)
    one = Rendition("a", b"x", "image/png", 1, 0.1)
    with pytest.raises(ValueError, match="s: more than one rendition is called 'a'"):
        Comparison("s", one, [one])
    with pytest.raises(ValueError, match="s: there is no rendition"):
        Comparison("s", one, [])
    with pytest.raises(ValueError, match="more than one comparison is called 'chelsea'"):
        page("t", [comparison(), comparison()])
