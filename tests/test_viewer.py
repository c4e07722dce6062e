"""sfumato.viewer: one page that holds all it needs; where there is a Chromium, what it does in a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.viewer import Scene, Version, page

CHELSEA = Path(__file__).parent.parent / "examples" / "chelsea.png"
WIDTH, HEIGHT = 240, 160


def nearest(one: Scene, label: str) -> str:
    """Of the versions of other codecs, the nearest in bytes."""
    sizes = {each.label: each.size_bytes for each in one.versions}
    rivals = [name for name in sizes if name.split()[0] != label.split()[0]]
    return min(rivals, key=lambda name: abs(math.log(sizes[name] / sizes[label])))


def version(image: Image.Image, label: str, format: str, codec: str = "", **options: Any) -> Version:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    data = buffer.getvalue()
    bpp = 8 * len(data) / (image.width * image.height)
    return Version(label, data, f"image/{format.lower()}", len(data), bpp, {"PSNR, dB": 31.25}, codec)


def scene(name: str = "chelsea", left: int = 0) -> Scene:
    with Image.open(CHELSEA) as whole:
        image = whole.convert("RGB").crop((left, 40, left + WIDTH, 40 + HEIGHT))
    versions = [
        *(version(image, f"jpeg {q}", "JPEG", "jpeg", quality=q) for q in (10, 40, 80)),
        *(version(image, f"webp {q}", "WEBP", "webp", quality=q) for q in (5, 50, 90)),
    ]
    return Scene(name, version(image, "original", "PNG"), versions)


def scenes_of(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_the_page_holds_all_that_it_needs() -> None:
    text = page("Chelsea", [scene("one"), scene("two", 100)], "<p>above</p>", "<p>below</p>")
    assert not re.search(r"https?:|//\w+\.\w", re.sub(r">[A-Za-z0-9+/=]{200,}<", "><", text))
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.search(r"<(link|img|iframe|object|embed)\b(?![^>]*href=\"data:,\")", markup)
    assert not re.search(r"\s(style|on\w+)=", markup)
    assert text.index("<p>above</p>") < text.index("<section") < text.index("<p>below</p>")
    assert text == page("Chelsea", [scene("one"), scene("two", 100)], "<p>above</p>", "<p>below</p>")


def test_the_policy_admits_this_script_and_style_alone() -> None:
    text = page("Chelsea", [scene()])
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for kind in ("script", "style"):
        [content] = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_pictures_lie_in_it_as_they_are_and_are_no_images_yet() -> None:
    one = scene()
    text = page("Chelsea", [one])
    blocks = dict(re.findall(r'<script type="text/plain" id="(p[\d-]+)">(.*?)</script>', text))
    files = [each.data for each in (one.original, *one.versions)]
    assert [base64.b64decode(blocks[f"p0-{i}"]) for i in range(len(files))] == files
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    [found] = scenes_of(text)
    assert [v["label"] for v in found["versions"]][:2] == ["original", "jpeg 10"]
    assert [v["codec"] for v in found["versions"]][:2] == ["original", "jpeg"]
    assert found["versions"][1]["bytes"] == len(files[1])


def test_names_cannot_break_out() -> None:
    nasty = "</script><script>alert(1)</script><!--<b>&\"'"
    data = scene().original.data
    first = Version(nasty, data, "image/png", 1, 0.1, {nasty: 1.0}, nasty)
    text = page(nasty, [Scene(nasty, first, [Version("x", data, "image/png", 1, 0.1)])])
    assert "alert(1)</script>" not in text
    [title] = re.findall(r"<title>(.*?)</title>", text)
    assert html.unescape(title) == nasty
    [found] = scenes_of(text)
    assert found["name"] == found["versions"][0]["label"] == nasty
    assert found["versions"][0]["figures"] == [[nasty, "1.000"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(31.25, "31.25"), (0.12345, "0.1235"), (96.1234, "96.12"), (412.39, "412.4"), (-7.5, "-7.500"),
     (0.00012, "0.00012"), (0.0, "0.0000"), (12345.6, "12346"), (math.inf, "∞"), (-math.inf, "-∞")],
)  # fmt: skip
def test_figures_are_readable(value: float, text: str) -> None:
    data = scene().original.data
    many = Version("a", data, "image/png", 1, 0.1, {"it": value, "nothing": math.nan})
    [found] = scenes_of(page("t", [Scene("s", many, [Version("b", data, "image/png", 1, 0.1)])]))
    assert found["versions"][0]["figures"] == [["it", text]]


def test_without_scenes_there_is_no_viewer() -> None:
    text = page("Nothing", [], "<p>above</p>")
    assert "<p>above</p>" in text and "<section" not in text and "<script" not in text


def test_bad_versions_and_scenes_are_named() -> None:
    with pytest.raises(
        ValueError, match="jxl 1: browsers do not show 'image/jxl'; hand it in as one of image/avif"
    ):
        Version("jxl 1", b"x", "image/jxl", 1, 0.1)
    with pytest.raises(ValueError, match="a: there are no bytes"):
        Version("a", b"", "image/png", 1, 0.1)
    with pytest.raises(ValueError, match="a: the size is -1 bytes, 0.1 bpp"):
        Version("a", b"x", "image/png", -1, 0.1)
    with pytest.raises(ValueError, match="nan bpp"):
        Version("a", b"x", "image/png", 1, math.nan)
    one = Version("a", b"x", "image/png", 1, 0.1)
    with pytest.raises(ValueError, match="s: more than one version is called 'a'"):
        Scene("s", one, [one])
    with pytest.raises(ValueError, match="s: there is no version"):
        Scene("s", one, [])
    with pytest.raises(ValueError, match="more than one scene is called 'chelsea'"):
        page("t", [scene(), scene()])


def test_it_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import sfumato.viewer; "
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(names - set(sys.stdlib_module_names) - {'sfumato'}))"
    )
    root = str(CHELSEA.parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


# ---- in a browser ---------------------------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as play:
        options = ["--no-sandbox", "--force-color-profile=srgb"]
        browser = play.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of scenes from disk; fails at the end if it complained or asked for anything."""
    contexts, complaints, requests = [], [], []
    expected: list[str] = []

    def open_page(
        scenes: list[Scene] | None = None,
        above: str = "",
        expect: str = "",
        wait: bool = True,
        text: str = "",
        **context: Any,
    ) -> Any:
        expected.extend([expect] if expect else [])
        file = tmp_path / "page.html"
        text = text or page("Chelsea", scenes or [scene("one"), scene("two", 120)], above)
        file.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(**({"viewport": {"width": 900, "height": 700}} | context)))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(5000)
        tab.on("console", lambda said: complaints.append(said.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request))
        tab.goto(file.as_uri())
        if wait:
            settled(tab)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [said for said in complaints if not any(word in said for word in expected)] == []
    urls = [request.url for request in requests if "csp" not in (request.failure or "").lower()]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in urls) == len(contexts)


def settled(tab: Any) -> None:
    """Waits until both sides show what is chosen."""
    tab.wait_for_function(
        """() => ["left", "right"].every((side) => {
          const image = document.querySelector(`#layer-${side} img`);
          const select = document.getElementById(side);
          const label = select.selectedOptions[0].textContent.split(",")[0];
          return image && image.complete && image.alt.endsWith(label) && image.style.transform;
        })"""
    )


def value(tab: Any) -> int:
    return int(tab.get_attribute("#divider", "aria-valuenow"))


def chosen(tab: Any, side: str) -> str:
    return str(tab.eval_on_selector(f"#{side}", "it => it.selectedOptions[0].textContent")).split(",")[0]


def box(tab: Any, selector: str = "#layer-right img") -> dict[str, float]:
    return tab.eval_on_selector(  # type: ignore[no-any-return]
        selector,
        "it => { const b = it.getBoundingClientRect(); return {x: b.x, y: b.y, w: b.width, h: b.height} }",
    )


def pixels(tab: Any) -> np.ndarray:
    with Image.open(io.BytesIO(tab.screenshot())) as shot:
        return np.asarray(shot.convert("RGB"))


def test_only_what_is_shown_is_decoded(opened: Open) -> None:
    tab = opened()
    assert tab.locator("img").count() == 2
    assert (chosen(tab, "left"), chosen(tab, "right")) == (nearest(scene(), "jpeg 10"), "jpeg 10")
    tab.focus("#divider")
    tab.keyboard.down("o")
    tab.wait_for_selector("#layer-original img")
    assert tab.is_visible("#layer-original") and "original" in tab.inner_text("#status")
    tab.keyboard.up("o")
    assert not tab.is_visible("#layer-original")
    tab.keyboard.press("n")
    settled(tab)
    assert tab.locator("img").count() == 2 and tab.input_value("#scene") == "1"


def test_keys_move_the_divider(opened: Open) -> None:
    tab = opened()
    tab.focus("#divider")
    clip = "getComputedStyle(document.getElementById('layer-left')).clipPath"
    before = tab.evaluate(clip)
    for key, expected in (("ArrowRight", 52), ("ArrowLeft", 50), ("PageUp", 60), ("End", 100), ("Home", 0)):
        tab.keyboard.press(key)
        assert value(tab) == expected
    assert tab.evaluate(clip) != before
    text = f"0 % {nearest(scene(), 'jpeg 10')}, the rest jpeg 10"
    assert tab.get_attribute("#divider", "aria-valuetext") == text


def test_the_divider_shows_the_left_version_on_the_left(opened: Open) -> None:
    with Image.open(CHELSEA) as whole:
        size = whole.crop((0, 0, WIDTH, HEIGHT)).size
    flat = [version(Image.new("RGB", size, colour), colour, "PNG") for colour in ("white", "red", "blue")]
    tab = opened([Scene("flat", flat[0], flat[1:])])
    assert (chosen(tab, "left"), chosen(tab, "right")) == ("blue", "red")
    place, shot = box(tab), pixels(tab)
    middle = int(place["y"] + place["h"] * 0.8)
    assert shot[middle, int(place["x"] + 0.25 * place["w"])].tolist() == [0, 0, 255]
    assert shot[middle, int(place["x"] + 0.75 * place["w"])].tolist() == [255, 0, 0]
    tab.focus("#divider")
    tab.keyboard.press("s")
    settled(tab)
    assert pixels(tab)[middle, int(place["x"] + 0.25 * place["w"])].tolist() == [255, 0, 0]


def test_the_mouse_drags_the_divider_and_pans_what_is_larger(opened: Open) -> None:
    tab = opened()
    grip = box(tab, "#divider")
    tab.mouse.move(grip["x"] + 1, grip["y"] + grip["h"] / 2)
    tab.mouse.down()
    tab.mouse.move(grip["x"] + 1 + 0.25 * box(tab)["w"], grip["y"] + grip["h"] / 2, steps=3)
    tab.mouse.up()
    assert abs(value(tab) - 75) <= 1
    tab.keyboard.press("4")
    tab.keyboard.press("+")
    before = box(tab)
    tab.mouse.move(300, before["y"] + 900)
    stage = box(tab, "#stage")
    tab.mouse.move(stage["x"] + 100, stage["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(stage["x"] + 160, stage["y"] + 80, steps=3)
    tab.mouse.up()
    after = box(tab)
    assert (round(after["x"] - before["x"]), round(after["y"] - before["y"])) == (60, 20)
    assert box(tab, "#layer-left img") == after
    tab.keyboard.press("Shift+ArrowRight")
    assert box(tab)["x"] == after["x"] - 48


@pytest.mark.parametrize("ratio", [1, 1.25, 2])
def test_one_to_one_is_one_picture_pixel_to_one_device_pixel(opened: Open, ratio: float) -> None:
    original = scene()
    tab = opened([original], device_scale_factor=ratio)
    tab.focus("#divider")
    tab.select_option("#left", "0")
    tab.select_option("#right", "0")
    settled(tab)
    with Image.open(io.BytesIO(original.original.data)) as image:
        expected = np.asarray(image.convert("RGB"))
    tab.focus("#divider")
    tab.keyboard.press("End")
    for scale in (1, 2):
        tab.keyboard.press(str(scale))
        assert tab.inner_text("#zoom") == f"{scale}:1"
        place = box(tab)
        assert place["w"] * ratio == pytest.approx(scale * WIDTH, abs=0.01)
        x, y = round(place["x"] * ratio), round(place["y"] * ratio)
        assert (x, y) == pytest.approx((place["x"] * ratio, place["y"] * ratio), abs=0.01)
        # below the labels and left of the divider, which lie over the picture
        part = expected[60:150, 10 : WIDTH - 70].repeat(scale, 0).repeat(scale, 1)
        shot = pixels(tab)[y + 60 * scale :, x + 10 * scale :][: part.shape[0], : part.shape[1]]
        assert np.array_equal(shot, part)


def test_buttons_keys_and_the_wheel_zoom_about_the_pointer(opened: Open) -> None:
    tab = opened()
    assert tab.get_attribute("#fit", "aria-pressed") == "true" and tab.inner_text("#zoom") == "3:1"
    stage = box(tab, "#stage")
    tab.mouse.move(stage["x"] + 300, stage["y"] + 200)
    tab.mouse.wheel(0, -100)
    assert tab.inner_text("#zoom") == "3:1"  # the wheel is the page's until the viewer has the focus
    tab.focus("#divider")
    before = box(tab)
    under = (stage["x"] + 300 - before["x"]) / before["w"]
    tab.mouse.wheel(0, -100)
    tab.wait_for_function("document.getElementById('zoom').textContent === '4:1'")
    after = box(tab)
    assert (stage["x"] + 300 - after["x"]) / after["w"] == pytest.approx(under, abs=2e-3)
    tab.click("#in")
    assert tab.inner_text("#zoom") == "6:1"
    tab.click("[data-scale='2']")
    assert (
        tab.inner_text("#zoom") == "2:1" and tab.get_attribute("[data-scale='2']", "aria-pressed") == "true"
    )
    tab.click("#out")
    tab.click("#fit")
    assert tab.inner_text("#zoom") == "3:1"
    for _ in range(20):
        tab.keyboard.press("+")
    assert tab.inner_text("#zoom") == "16:1"
    for _ in range(20):
        tab.keyboard.press("-")
    assert tab.inner_text("#zoom") == "1:1"
    assert tab.eval_on_selector("#layer-left img", "it => getComputedStyle(it).imageRendering") == "pixelated"


def test_two_fingers_zoom_and_pan(opened: Open) -> None:
    tab = opened(has_touch=True)
    stage = box(tab, "#stage")
    x, y = stage["x"] + stage["w"] / 2, stage["y"] + stage["h"] / 2
    touch = tab.context.new_cdp_session(tab)

    def fingers(kind: str, spread: float) -> None:
        points = [{"x": x - spread, "y": y, "id": 0}, {"x": x + spread, "y": y, "id": 1}]
        both = points if kind != "touchEnd" else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": both})

    before = box(tab)["w"]
    fingers("touchStart", 100)
    for spread in (110, 120, 135, 150):
        fingers("touchMove", spread)
    fingers("touchEnd", 150)
    assert box(tab)["w"] / before == pytest.approx(1.5, rel=0.07)
    assert value(tab) == 50


def test_the_right_side_follows_at_about_equal_size(opened: Open) -> None:
    one = scene()
    sizes = {each.label: each.size_bytes for each in one.versions}
    tab = opened([one])
    for label, index in (("jpeg 80", "3"), ("jpeg 10", "1"), ("webp 50", "5")):
        tab.select_option("#left", index)
        settled(tab)
        assert chosen(tab, "left") == label
        assert chosen(tab, "right") == nearest(one, label)
    tab.uncheck("#equal")
    before = chosen(tab, "right")
    tab.select_option("#left", "1")
    settled(tab)
    assert chosen(tab, "right") == before
    tab.focus("#divider")
    tab.keyboard.press("r")
    tab.keyboard.press("Shift+L")
    settled(tab)
    assert chosen(tab, "right") != before and chosen(tab, "left") == "original"
    cells = tab.locator("#captions tr").first.inner_text()
    assert "Left: original" in cells and f"Right: {chosen(tab, 'right')}" in cells
    size = f"{sizes[chosen(tab, 'right')]:,}"
    assert size in tab.inner_text("#captions") and size in tab.inner_text("#tag-right")
    assert "31.25" in tab.inner_text("#captions") and size in tab.inner_text("#status")


def test_the_difference_of_equals_is_black_and_keys_go_on(opened: Open) -> None:
    tab = opened()
    tab.select_option("#left", "2")
    tab.uncheck("#equal")
    tab.select_option("#right", "2")
    tab.focus("#divider")
    for _ in range(3):
        tab.keyboard.press("d")
    settled(tab)
    assert tab.input_value("#difference") == "16"
    place, shot = box(tab), pixels(tab)
    inside = shot[int(place["y"]) + 50 : int(place["y"] + place["h"]) - 5, int(place["x"]) + 5 :][:, :400]
    assert inside.max() == 0
    tab.keyboard.press("r")
    settled(tab)
    assert (
        pixels(tab)[int(place["y"]) + 50 : int(place["y"] + place["h"]) - 5, int(place["x"]) + 5 :].max()
        == 255
    )
    tab.keyboard.press("d")
    assert tab.input_value("#difference") == "0"
    assert tab.evaluate("document.activeElement.id") == "divider"


def test_holding_the_button_shows_the_original(opened: Open) -> None:
    tab = opened()
    place = box(tab, "#original")
    tab.mouse.move(place["x"] + 5, place["y"] + 5)
    tab.mouse.down()
    tab.wait_for_selector("#layer-original img")
    assert tab.get_attribute("#original", "aria-pressed") == "true"
    tab.mouse.up()
    assert not tab.is_visible("#layer-original")
    tab.focus("#original")
    tab.keyboard.down("Space")
    assert tab.is_visible("#layer-original")
    tab.keyboard.up("Space")
    assert not tab.is_visible("#layer-original")
    tab.evaluate("document.getElementById('original').click()")  # as an aid does that cannot hold
    assert tab.is_visible("#layer-original")


def test_what_the_browser_cannot_show_is_told(opened: Open) -> None:
    one = scene()
    broken = Version("broken 1", b"no picture", "image/avif", 10, 0.1, {}, "broken")
    tab = opened([Scene("one", one.original, [*one.versions, broken])])
    tab.uncheck("#equal")
    tab.select_option("#right", "7")
    tab.wait_for_selector("#fault:not([hidden])")
    assert tab.inner_text("#fault") == "This browser cannot show broken 1 (image/avif)."
    tab.select_option("#right", "1")
    settled(tab)
    assert not tab.is_visible("#fault")


def test_foreign_scripts_and_styles_do_not_run(opened: Open) -> None:
    above = "<script>window.ran = 1</script><p id='it' style='color: rgb(1, 2, 3)'>x</p>"
    above += "<img src='https://a.invalid/'>"
    tab = opened(above=above, expect="Content Security Policy")
    assert tab.evaluate("window.ran") is None
    assert tab.eval_on_selector("#it", "it => getComputedStyle(it).color") != "rgb(1, 2, 3)"


# What a checker of accessibility looks for first: names, references that lead somewhere, values, contrast.
AUDIT = """() => {
  const found = [];
  const say = (what, it) => found.push(`${what}: ${it.outerHTML.slice(0, 200)}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (it) => it.getAttribute("aria-label") || it.labels?.[0]?.textContent || it.textContent;
  for (const it of all("button, input, select, output, summary, [role=slider], [role=group]"))
    if (!name(it).trim()) say("no name", it);
  for (const it of all("img")) if (!it.alt) say("no alt", it);
  const ids = all("[id]").map((it) => it.id);
  if (new Set(ids).size !== ids.length) found.push("an id comes twice");
  for (const key of ["for", "aria-labelledby", "aria-describedby"])
    for (const it of all(`[${key}]`))
      for (const id of it.getAttribute(key).split(" "))
        if (!document.getElementById(id)) say(`${key} leads nowhere`, it);
  for (const it of all("[role=slider]"))
    for (const key of ["valuemin", "valuemax", "valuenow", "valuetext"])
      if (!it.getAttribute(`aria-${key}`)) say(`no ${key}`, it);
  if (document.documentElement.lang !== "en") found.push("no language");
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (it) => {
    const colour = getComputedStyle(it).backgroundColor;
    return colour.endsWith(", 0)") ? ground(it.parentElement) : colour;
  };
  for (const it of all("h1, label, button, select, output, th, td, p, dd, dt, summary, kbd")) {
    if (!it.textContent.trim() || it.closest(".unseen, .stage, [hidden]")) continue;
    const [low, high] = [light(getComputedStyle(it).color), light(ground(it))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) say(`contrast ${contrast}`, it);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_contrast(opened: Open, scheme: str) -> None:
    tab = opened(color_scheme=scheme)
    tab.click("summary")
    assert tab.evaluate(AUDIT) == []


def test_it_fits_a_narrow_screen_and_targets_are_large(opened: Open) -> None:
    tab = opened(viewport={"width": 360, "height": 640}, device_scale_factor=3, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = tab.evaluate(
        """() => [...document.querySelectorAll("button, select")].filter((it) => it.offsetParent)
          .map((it) => Math.min(it.offsetWidth, it.offsetHeight))"""
    )
    assert min(sizes) >= 32
    assert box(tab, "#stage")["y"] < 320


def test_the_focus_is_seen_and_tab_reaches_everything(opened: Open) -> None:
    tab = opened()
    reached = []
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = [
        "previous",
        "scene",
        "next",
        "left",
        "right",
        "divider",
        "out",
        "in",
        "fit",
        "1:1",
        "2:1",
        "4:1",
    ]
    wanted += ["original", "difference", "full", "equal"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted
    for selector in ("#next", "#left", "#equal"):
        tab.focus(selector)
        assert tab.eval_on_selector(selector, "it => getComputedStyle(it).outlineStyle") == "solid"
    tab.focus("#divider")
    assert tab.eval_on_selector(".grip", "it => getComputedStyle(it).outlineStyle") == "solid"


def test_nothing_moves_for_those_who_do_not_want_it(opened: Open) -> None:
    duration = (
        "it => getComputedStyle(it).transitionDuration.split(',').every((each) => each.trim() === '0s')"
    )
    assert opened(reduced_motion="reduce").eval_on_selector("#next", duration)
    assert not opened(reduced_motion="no-preference").eval_on_selector("#next", duration)
