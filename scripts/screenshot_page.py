#!/usr/bin/env python3
"""Draws a picture on the page of `hsexport serve` in a headless Chromium, paints on it, and keeps what it sees."""

from __future__ import annotations

import shutil
from base64 import b64decode
from itertools import pairwise
from pathlib import Path

import click
from playwright.sync_api import Page, expect, sync_playwright

from hsexport.measure.callers import serving

BRUSH = ((0.6, 0.3), (0.85, 0.3), (0.85, 0.45), (0.6, 0.45), (0.6, 0.65), (0.85, 0.65), (0.8, 0.85), (0.6, 0.85))
"""Where the mouse goes, as shares of the picture's sides."""


def draw(page: Page, prompt: str) -> bytes:
    """The picture's file."""
    page.evaluate("document.getElementById('told').textContent = ''")
    page.fill("#prompt", prompt)
    page.click("#draw")
    expect(page.locator("#told")).to_contain_text("seed", timeout=60_000)
    source = page.locator("#picture").get_attribute("src")
    return b64decode(str(source).partition(",")[2])


def paint(page: Page, places: tuple[tuple[float, float], ...]) -> None:
    """Along these places, the mouse held."""
    box = page.locator("#canvas").bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for _, point in pairwise(points):
        page.mouse.move(*point, steps=8)
    page.mouse.up()


@click.command(context_settings={"show_default": True})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/page.png"), help="PNG")
@click.option("--prompt", default="red apple")
@click.option("--then", default="orange", help="what is drawn where the mouse painted")
def main(bundle: Path, out: Path, prompt: str, then: str) -> None:
    """Draw on the page of BUNDLE; needs Chromium (Debian: apt-get install chromium) and the [dev] extra."""
    with serving(bundle, 4) as (client, _), sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 740, "height": 1190})
        page.goto(str(client.base_url))
        drawn = draw(page, prompt)
        page.set_input_files("#file", {"name": "drawn.png", "mimeType": "image/png", "buffer": drawn})
        page.locator("#brush").fill("36")
        paint(page, BRUSH)
        page.locator("#edge").fill("6")
        page.locator("#strength").fill("1")
        draw(page, then)
        page.screenshot(path=out)
        chromium.close()
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
