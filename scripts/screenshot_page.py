#!/usr/bin/env python3
"""Draws a picture on the page of `hsexport serve` in a headless Chromium, and keeps what it looks like."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import expect, sync_playwright

from hsexport.measure.serve import serving


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    out: Annotated[Path, typer.Option(help="PNG")] = Path("docs/page.png"),
    prompt: Annotated[str, typer.Option()] = "red apple",
) -> None:
    """Needs Chromium (Debian: apt-get install chromium) and the [dev] extra."""
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
    typer.run(main)
