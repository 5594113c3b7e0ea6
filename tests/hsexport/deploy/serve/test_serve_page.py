"""The page in a real browser."""

import shutil

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from served import array_of, serving
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
