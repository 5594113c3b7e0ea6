#!/usr/bin/env python3
"""Draws a picture on the page of `hsexport serve` in a headless Chromium, and keeps what it looks like."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from playwright.sync_api import expect, sync_playwright

from hsexport.measure.callers import serving


@click.command(context_settings={"show_default": True})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/page.png"), help="PNG")
@click.option("--prompt", default="red apple")
def main(bundle: Path, out: Path, prompt: str) -> None:
    """Draw on the page of BUNDLE; needs Chromium (Debian: apt-get install chromium) and the [dev] extra."""
    with serving(bundle, 4) as (client, _), sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 920, "height": 840})
        page.goto(str(client.base_url))
        page.fill("#prompt", prompt)
        page.click("#draw")
        expect(page.locator("#told")).to_contain_text("seed", timeout=60_000)
        page.screenshot(path=out)
        chromium.close()
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
