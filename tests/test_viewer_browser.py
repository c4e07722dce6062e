"""sfumato.viewer where there is a Chromium: how the page behaves in a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.viewer import Comparison, Rendition, page
from tests.test_viewer import WIDTH, Open, comparison, nearest, rendition


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
    """Opens a page of comparisons; fails at the end if the page logged anything or made any request."""
    contexts, messages, requests = [], [], []
    expected: list[str] = []

    def open_page(
        comparisons: list[Comparison] | None = None,
        header: str = "",
        expect: str = "",
        text: str = "",
        **context: Any,
    ) -> Any:
        expected.extend([expect] if expect else [])
        file = tmp_path / "page.html"
        both = comparisons or [comparison("one"), comparison("two", 120)]
        text = text or page("Chelsea", both, header)
        file.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(**({"viewport": {"width": 900, "height": 700}} | context)))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)  # milliseconds; machines may be busy
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request))
        tab.goto(file.as_uri())
        if 'id="viewer"' in text:
            settled(tab)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in messages if not any(word in each for word in expected)] == []
    urls = [request.url for request in requests if "csp" not in (request.failure or "").lower()]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in urls) == len(contexts)


def settled(tab: Any) -> None:
    """Waits until both sides show what is chosen."""
    tab.wait_for_function(
        """() => ["left", "right"].every((side) => {
          const image = document.querySelector(`.layer.${side} img`);
          const label = document.getElementById(side).selectedOptions[0].textContent;
          return image && image.complete && image.alt.endsWith(", " + label);
        })"""
    )


def choose(tab: Any, side: str, index: int) -> None:
    tab.select_option(f"#{side}", str(index))
    settled(tab)


def press(tab: Any, *keys: str) -> None:
    tab.focus(".divider")
    for key in keys:
        tab.keyboard.press(key)


def value_of(tab: Any) -> int:
    return int(tab.get_attribute(".divider", "aria-valuenow"))


def chosen(tab: Any, side: str) -> str:
    return str(tab.eval_on_selector(f"#{side}", "it => it.selectedOptions[0].textContent")).split(",")[0]


def box(tab: Any, selector: str = ".layer.right img") -> dict[str, float]:
    return tab.eval_on_selector(  # type: ignore[no-any-return]
        selector,
        "it => { const b = it.getBoundingClientRect(); return {x: b.x, y: b.y, w: b.width, h: b.height} }",
    )


def pixels(tab: Any) -> np.ndarray:
    with Image.open(io.BytesIO(tab.screenshot())) as shot:
        return np.asarray(shot.convert("RGB"))


def test_only_visible_images_are_decoded(opened: Open) -> None:
    tab = opened()
    assert tab.locator("img").count() == 2
    assert (chosen(tab, "left"), chosen(tab, "right")) == (nearest(comparison(), "jpeg 10"), "jpeg 10")
    press(tab, "n")
    settled(tab)
    assert tab.locator("img").count() == 2 and tab.input_value("#comparison") == "1"
    assert chosen(tab, "right").startswith("jpeg")  # the same codec
    assert tab.get_attribute(".layer.right img", "alt").startswith("two, jpeg")
    tab.click("#previous")
    settled(tab)
    assert tab.input_value("#comparison") == "0"


def test_keys_move_the_divider(opened: Open) -> None:
    tab = opened()
    for key, expected in (("ArrowRight", 52), ("ArrowLeft", 50), ("PageUp", 60), ("End", 100), ("Home", 0)):
        press(tab, key)
        assert value_of(tab) == expected
    text = tab.get_attribute(".divider", "aria-valuetext")
    assert re.fullmatch(r"0 % webp \d+, [\d,]+ bytes, the rest jpeg 10, [\d,]+ bytes", text)


def test_each_side_shows_its_rendition(opened: Open) -> None:
    flat = [rendition(Image.new("RGB", (60, 40), name), name, "PNG") for name in ("white", "red", "blue")]
    tab = opened([Comparison("flat", flat[0], flat[1:])])
    assert (chosen(tab, "left"), chosen(tab, "right")) == ("blue", "red")
    place, shot = box(tab), pixels(tab)
    middle = int(place["y"] + place["h"] * 0.8)
    assert shot[middle, int(place["x"] + 0.25 * place["w"])].tolist() == [0, 0, 255]
    assert shot[middle, int(place["x"] + 0.75 * place["w"])].tolist() == [255, 0, 0]
    press(tab, "s")
    settled(tab)
    assert pixels(tab)[middle, int(place["x"] + 0.25 * place["w"])].tolist() == [255, 0, 0]


def test_the_mouse_drags_the_divider_and_pans_what_is_larger(opened: Open) -> None:
    tab = opened()
    grip = box(tab, ".divider")
    tab.mouse.move(grip["x"] + 1, grip["y"] + 99)
    tab.mouse.down()
    tab.mouse.move(grip["x"] + 1 + 0.25 * box(tab)["w"], grip["y"] + 99, steps=3)
    tab.mouse.up()
    assert abs(value_of(tab) - 75) <= 1
    press(tab, "4", "+")
    before, viewport = box(tab), box(tab, ".viewport")
    tab.mouse.move(viewport["x"] + 100, viewport["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(viewport["x"] + 160, viewport["y"] + 80, steps=3)
    tab.mouse.up()
    after = box(tab)
    assert (round(after["x"] - before["x"]), round(after["y"] - before["y"])) == (60, 20)
    assert box(tab, ".layer.left img") == after
    press(tab, "Shift+ArrowRight")
    assert box(tab)["x"] == after["x"] - 48


@pytest.mark.parametrize("ratio", [1, 1.25, 2])
def test_one_to_one_is_one_image_pixel_to_one_device_pixel(opened: Open, ratio: float) -> None:
    one = comparison()
    tab = opened([one], device_scale_factor=ratio)
    choose(tab, "left", 0)
    choose(tab, "right", 0)
    with Image.open(io.BytesIO(one.original.data)) as image:
        expected = np.asarray(image.convert("RGB"))
    press(tab, "End")
    for scale in (1, 2):
        press(tab, str(scale))
        assert tab.inner_text("#zoom") == f"{scale}:1"
        place = box(tab)
        assert place["w"] * ratio == pytest.approx(scale * WIDTH, abs=0.01)
        x, y = round(place["x"] * ratio), round(place["y"] * ratio)
        # Below the labels and left of the divider, which lie over the image.
        part = expected[60:150, 10 : WIDTH - 70].repeat(scale, 0).repeat(scale, 1)
        shot = pixels(tab)[y + 60 * scale :, x + 10 * scale :][: part.shape[0], : part.shape[1]]
        assert np.array_equal(shot, part)


def test_buttons_keys_and_the_wheel_zoom_about_the_pointer(opened: Open) -> None:
    tab = opened()
    assert tab.get_attribute("[data-scale=fit]", "aria-pressed") == "true"
    viewport = box(tab, ".viewport")
    tab.mouse.move(viewport["x"] + 300, viewport["y"] + 200)
    tab.mouse.wheel(0, -100)
    assert tab.inner_text("#zoom") == "3:1"  # the wheel is the page's until the viewer has the focus
    tab.focus(".divider")
    before = box(tab)
    under = (viewport["x"] + 300 - before["x"]) / before["w"]
    tab.mouse.wheel(0, -100)
    tab.wait_for_function("document.getElementById('zoom').textContent === '4:1'")
    after = box(tab)
    assert (viewport["x"] + 300 - after["x"]) / after["w"] == pytest.approx(under, abs=2e-3)
    for button, zoom in (("[data-key='+']", "6:1"), ("[data-scale='2']", "2:1"), ("[data-scale=fit]", "3:1")):
        tab.click(button)
        assert tab.inner_text("#zoom") == zoom
    press(tab, *"+" * 20)
    assert tab.inner_text("#zoom") == "16:1"
    press(tab, *"-" * 20)
    assert tab.inner_text("#zoom") == "1:1"
    assert tab.eval_on_selector(".layer.left img", "it => getComputedStyle(it).imageRendering") == "pixelated"


def test_two_fingers_zoom_and_pan(opened: Open) -> None:
    tab = opened(has_touch=True)
    viewport = box(tab, ".viewport")
    x, y = viewport["x"] + viewport["w"] / 2, viewport["y"] + viewport["h"] / 2
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
    assert value_of(tab) == 50


def test_the_right_side_follows_at_about_equal_size(opened: Open) -> None:
    one = comparison()
    sizes = {each.label: f"{each.size_bytes:,}" for each in one.renditions}
    tab = opened([one])
    for label, index in (("jpeg 80", 3), ("jpeg 10", 1), ("webp 50", 5)):
        choose(tab, "left", index)
        assert (chosen(tab, "left"), chosen(tab, "right")) == (label, nearest(one, label))
    tab.uncheck("#equal")
    before = chosen(tab, "right")
    choose(tab, "left", 1)
    assert chosen(tab, "right") == before
    press(tab, "r", "Shift+L")
    settled(tab)
    after = chosen(tab, "right")
    assert after != before and chosen(tab, "left") == "original"
    for selector in ("#captions", ".tag.right", "#status"):
        assert after in tab.inner_text(selector) and sizes[after] in tab.inner_text(selector)
    assert "31.25" in tab.inner_text("#captions")


def test_the_difference_of_equals_is_black(opened: Open) -> None:
    tab = opened()
    tab.uncheck("#equal")
    choose(tab, "left", 2)
    choose(tab, "right", 2)
    press(tab, "d", "d", "d")
    assert tab.input_value("#difference") == "16" and "difference ×16" in tab.inner_text("#status")
    place = box(tab)
    rows = slice(int(place["y"]) + 50, int(place["y"] + place["h"]) - 5)
    columns = slice(int(place["x"]) + 5, int(place["x"]) + 405)
    assert pixels(tab)[rows, columns].max() == 0
    press(tab, "r")
    settled(tab)
    assert pixels(tab)[rows, columns].max() == 255
    press(tab, "d")
    assert tab.input_value("#difference") == "0"


def test_the_original_is_shown_while_held(opened: Open) -> None:
    tab = opened()

    def shown() -> bool:
        return bool(tab.is_visible(".layer.original img"))

    place = box(tab, "#hold")
    tab.mouse.move(place["x"] + 5, place["y"] + 5)
    tab.mouse.down()
    tab.wait_for_selector(".layer.original img")
    assert tab.get_attribute("#hold", "aria-pressed") == "true"
    assert "original" in tab.inner_text("#status")
    tab.mouse.up()
    assert not shown() and tab.get_attribute("#hold", "aria-pressed") == "false"
    for selector, key in (("#hold", "Space"), (".divider", "o")):
        tab.focus(selector)
        tab.keyboard.down(key)
        assert shown()
        tab.keyboard.up(key)
        assert not shown()
    tab.evaluate("document.getElementById('hold').click()")  # as assistive technology does that cannot hold
    assert shown()


def test_an_image_that_the_browser_cannot_show_is_an_error(opened: Open) -> None:
    one = comparison()
    broken = Rendition("broken 1", b"no image", "image/avif", 10, 0.1, {}, "broken")
    tab = opened([Comparison("one", one.original, [*one.renditions, broken])])
    tab.select_option("#right", "7")
    tab.wait_for_selector(".error:not([hidden])")
    assert tab.inner_text(".error").strip() == "This browser cannot show broken 1, 10 bytes."
    choose(tab, "right", 1)
    assert not tab.is_visible(".error")


def test_foreign_scripts_and_styles_do_not_run(opened: Open) -> None:
    header = "<script>window.ran = 1</script><p id='it' style='color: rgb(1, 2, 3)'>x</p>"
    header += "<img src='https://a.invalid/'>"
    tab = opened(header=header, expect="Content Security Policy")
    assert tab.evaluate("window.ran") is None
    assert tab.eval_on_selector("#it", "it => getComputedStyle(it).color") != "rgb(1, 2, 3)"


# What a checker of accessibility looks for first: names, ids, contrast.
AUDIT = """() => {
  const found = [];
  const report = (what, it) => found.push(`${what}: ${it.outerHTML.slice(0, 200)}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (it) => it.getAttribute("aria-label") || it.labels?.[0]?.textContent || it.textContent;
  for (const it of all("button, input, select, output, summary, [role=slider], [role=group]"))
    if (!name(it).trim()) report("no name", it);
  for (const it of all("img")) if (!it.alt) report("no alt", it);
  const ids = all("[id]").map((it) => it.id);
  if (new Set(ids).size !== ids.length) found.push("an id comes twice");
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
    if (!it.textContent.trim() || it.closest(".unseen, .viewport, [hidden]")) continue;
    const [low, high] = [light(getComputedStyle(it).color), light(ground(it))].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) report("contrast", it);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_contrast(opened: Open, scheme: str) -> None:
    tab = opened(color_scheme=scheme)
    tab.click("summary")
    assert tab.evaluate(AUDIT) == []


def test_it_fits_a_narrow_screen(opened: Open) -> None:
    tab = opened(viewport={"width": 360, "height": 640}, device_scale_factor=3, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = tab.evaluate(
        """() => [...document.querySelectorAll("button, select")].filter((it) => it.offsetParent)
          .map((it) => Math.min(it.offsetWidth, it.offsetHeight))"""
    )
    assert min(sizes) >= 32
    assert box(tab, ".viewport")["y"] < 320


def test_a_viewer_that_was_hidden_keeps_its_place(opened: Open) -> None:
    """Hidden, its viewport has no size; the place became NaN and stayed so."""
    tab = opened()
    before = box(tab)
    for value in ("none", "block"):
        tab.eval_on_selector("#viewer", "(it, value) => { it.style.display = value }", value)
        tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        tab.eval_on_selector("image-compare", "it => it.place()")
    assert box(tab) == before and value_of(tab) == 50


def test_the_element_works_without_the_controls(opened: Open) -> None:
    """As another page uses it: addresses and labels as attributes."""
    style, script = (files("sfumato").joinpath(f"viewer.{suffix}").read_text() for suffix in ("css", "js"))
    flat = (rendition(Image.new("RGB", (30, 20), name), name, "PNG").data for name in ("red", "lime"))
    red, lime = ("data:image/png;base64," + base64.b64encode(data).decode() for data in flat)
    element = f'<image-compare name="flat" left="{red}" right="{lime}" left-label="one"></image-compare>'
    tab = opened(text=f'<style>{style}</style>{element}<script type="module">{script}</script>')
    tab.wait_for_function("document.querySelectorAll('.layer img').length === 2")
    place, shot = box(tab), pixels(tab)
    row = shot[int(place["y"] + place["h"] * 0.8)]
    assert row[int(place["x"] + place["w"] * 0.2)].tolist() == [255, 0, 0]
    assert row[int(place["x"] + place["w"] * 0.8)].tolist() == [0, 255, 0]
    press(tab, "End")
    assert value_of(tab) == 100
    assert (tab.inner_text(".tag.left"), tab.inner_text(".tag.right")) == ("one", "right")
