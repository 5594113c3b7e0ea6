"""The page in a real browser."""

import base64
import shutil

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from served import array_of, file_of, serving
from tools import needs

from hsruntime import Session

HYBRID = "large:2,hybrid:2,small:1"


@pytest.fixture(scope="module")
def browser():
    needs("chromium")
    with sync_playwright() as playwright:
        # The first flag: Chromium refuses its sandbox to root, which CI is.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tiny_bundle):
    with serving(tiny_bundle) as server:
        page = browser.new_page()
        page.goto(server.url)
        yield page
        page.close()


def shown(page, name):
    return array_of(page.locator(f"#{name}").get_attribute("src").split(",")[1])


def test_a_picture_and_its_region_appear(page, tiny_bundle):
    expect(page.locator("#size")).to_have_value("16x16")
    page.fill("#prompt", "red")
    page.fill("#seed", "3")
    page.fill("#schedule", HYBRID)
    page.click("#draw")
    expect(page.locator("#told")).to_contain_text("seed 3")
    with Session.open(tiny_bundle, hashes=False) as session:
        np.testing.assert_array_equal(shown(page, "picture"), session.generate("red", seed=3, schedule=HYBRID).image)
    assert shown(page, "region").shape == (16, 16, 3)
    assert page.locator("#bar span").count() == 3


def test_what_cannot_be_drawn_is_said_on_the_page(page):
    page.fill("#size", "17x17")
    page.click("#draw")
    expect(page.locator("#told.error")).to_contain_text("not a multiple of")
    expect(page.locator("#draw")).to_be_enabled()


PICTURE = np.random.default_rng(7).integers(0, 256, (16, 16, 3), np.uint8)


def choose(page, picture=PICTURE):
    page.set_input_files("#file", {"name": "cat.png", "mimeType": "image/png", "buffer": file_of(picture)})
    expect(page.locator("#edit")).to_be_visible()


def drag(page, *places):
    """The mouse over the canvas, held; places are shares of its sides."""
    box = page.locator("#canvas").bounding_box()
    for i, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def painted(page):
    """(H, W) bool: what the page sends as a mask."""
    script = """async () => {
      const bytes = new Uint8Array(await (await maskFile()).arrayBuffer());
      return btoa(String.fromCharCode(...bytes));
    }"""
    return array_of(page.evaluate(script))[..., 0] >= 128


def draw(page, **values):
    for name, value in {"prompt": "red", "seed": "3", **values}.items():
        page.fill(f"#{name}", value)
    page.click("#draw")
    expect(page.locator("#told")).to_contain_text("seed 3")
    return shown(page, "picture")


def test_what_is_painted_with_the_mouse_is_drawn_anew_and_nothing_else(page, tiny_bundle):
    choose(page)
    drag(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.6))
    expect(page.locator("#painted")).to_contain_text("% is painted")
    mask = painted(page)
    assert mask[5, 5:9].all() and mask[9, 9] and not mask[0].any() and not mask[:, 0].any()
    answer = draw(page, schedule=HYBRID)
    np.testing.assert_array_equal(answer[~mask], PICTURE[~mask])
    with Session.open(tiny_bundle, hashes=False) as session:
        white = np.where(mask, 255, 0).astype(np.uint8)
        expected = session.generate("red", seed=3, schedule=HYBRID, image=PICTURE, mask=white, strength=0.6).image
    np.testing.assert_array_equal(answer, expected)
    assert (answer[mask] != PICTURE[mask]).any()


def test_what_is_painted_can_be_a_region(page, tiny_bundle):
    choose(page)
    page.select_option("#meaning", "region_mask")
    drag(page, (0.1, 0.1), (0.4, 0.4))
    mask = painted(page)
    answer = draw(page, schedule=HYBRID)
    with Session.open(tiny_bundle, hashes=False) as session:
        white = np.where(mask, 255, 0).astype(np.uint8)
        asked = {"image": PICTURE, "region_mask": white, "strength": 0.6}
        np.testing.assert_array_equal(answer, session.generate("red", seed=3, schedule=HYBRID, **asked).image)


def test_keys_paint_erase_and_clear(page):
    choose(page)
    page.fill("#brush", "4")
    page.focus("#canvas")
    for key in ("Space", "Shift+ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    mask = painted(page)
    assert mask[8, 8:12].all() and not mask[:4].any()
    expect(page.locator("#painted")).to_contain_text("% is painted")
    page.click("#erase")
    expect(page.locator("#erase")).to_have_attribute("aria-pressed", "true")
    page.focus("#canvas")
    page.keyboard.press("Space")
    assert painted(page).sum() < mask.sum()
    page.click("#clear")
    assert not painted(page).any()
    expect(page.locator("#painted")).to_have_text("Nothing is painted.")


def test_a_dropped_picture_alone_is_a_beginning_and_can_be_taken_away(page, tiny_bundle):
    script = """(text) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), dropped = new DataTransfer();
      dropped.items.add(new File([bytes], "cat.png", { type: "image/png" }));
      document.getElementById("begin").dispatchEvent(
        new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script, base64.b64encode(file_of(PICTURE)).decode())
    expect(page.locator("#edit")).to_be_visible()
    with Session.open(tiny_bundle, hashes=False) as session:
        begun = session.generate("red", seed=3, schedule=HYBRID, image=PICTURE, strength=0.6).image
        alone = session.generate("red", seed=3, schedule=HYBRID).image
    np.testing.assert_array_equal(draw(page, schedule=HYBRID), begun)
    page.click("#remove")
    expect(page.locator("#edit")).to_be_hidden()
    expect(page.locator("#size")).to_have_value("16x16")
    np.testing.assert_array_equal(draw(page, schedule=HYBRID), alone)


def test_what_is_no_picture_is_said_on_the_page(page):
    page.set_input_files("#file", {"name": "cat.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(page.locator("#told.error")).to_contain_text("cat.txt is no picture")
    expect(page.locator("#edit")).to_be_hidden()
