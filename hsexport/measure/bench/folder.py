"""A report's folder, each file written whole or not at all: numbers, table, plot, contact sheet and page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFont

from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport.measure.bench import plot
from hsexport.measure.bench.report import Column, Point, front
from hsexport.measure.bench.rounds import Round
from hsexport.measure.machine import Hardware
from hsexport.measure.pictures import png_of
from hsruntime.picture.picture import contact_sheet, region_overlay

PLOT, SHEET, PAGE = "pareto", "sheet.png", "report.html"
ROWS = 8
LEAST_SIDE = 96  # smaller pictures are enlarged, or no heading would fit above them
TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class Page:
    """What a page shows of a run, beside its pictures."""

    title: str
    sub: str
    cards: Sequence[tuple[str, str]]
    """A number and what it is of, each."""
    headline: Sequence[str]
    panels: Mapping[str, Sequence[Point]]
    across: str
    """What the panels' speedups are over."""
    columns: Sequence[Column]
    rows: Sequence[object]
    """Each with a name, a schedule and a kind, which `plot.STYLES` has a colour for."""
    row_title: str
    meanings: Mapping[str, str]
    measured_on: Mapping[str, str]
    notes: Sequence[str]
    command: str


def check_folder(out: Path) -> None:
    """That a report can be written there, before the work and not after it. Raises HSError."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise HSError(f"--out: {nearest} is not a directory", "name another folder")
    try:
        TemporaryDirectory(dir=nearest).cleanup()
    except OSError as err:
        raise HSError(f"--out: {nearest} cannot be written: {err.strerror}", "name another folder") from err


def write_folder(out: Path, page: Page, pictures: Image.Image, numbers: bytes, table: str) -> list[Path]:
    """Writes numbers (JSON), table (Markdown), plot, contact sheet and page; returns the files, the page last."""
    out.mkdir(parents=True, exist_ok=True)
    sheet_png = png_of(pictures, optimize=True)
    with TemporaryDirectory(dir=out) as folder:
        drawn = [Path(folder) / f"{PLOT}{suffix}" for suffix in (".svg", ".png")]
        plot.draw(page.panels, page.across, drawn)
        plots = {file.name: file.read_bytes() for file in drawn}
    files = {
        "report.json": numbers,
        "table.md": table.encode(),
        **plots,
        SHEET: sheet_png,
        PAGE: html(page, plots[f"{PLOT}.svg"].decode(), sheet_png).encode(),
    }
    for name, data in files.items():
        replace_file(out / name, data)
    return [out / name for name in files]


def html(page: Page, plot_svg: str, sheet_png: bytes) -> str:
    """The page, with its pictures in it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns = page.columns
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        page=page,
        plot=Markup(re.sub(r"^.*?(?=<svg)", "", plot_svg, flags=re.S)),  # a page has no place for an XML prologue
        groups=[(title, len(list(each))) for title, each in groupby(columns, key=lambda c: c.group)],
        firsts=[n for n, c in enumerate(columns) if n == 0 or columns[n - 1].group != c.group],
        colors={kind: color for kind, (_, _, color) in plot.STYLES.items()},
        ahead={p.name for points in page.panels.values() for p in front(points)},
        sheet=base64.b64encode(sheet_png).decode(),
    )


def sheet(names: Iterable[str], rounds: Sequence[Round]) -> Image.Image:
    """Rows: prompts, evenly spread. Columns: these contestants, the first of them with a region beside that region."""
    picks = np.linspace(0, len(rounds) - 1, min(ROWS, len(rounds))).round().astype(int)
    chosen = [rounds[i] for i in picks]
    columns: dict[str, list[np.ndarray]] = {}
    for name in names:
        shots = [r.shots[name] for r in chosen]
        columns[_heading(name, _enlarged(shots[0].picture).shape[1], columns)] = [_enlarged(s.picture) for s in shots]
        overlays = [region_overlay(s.picture, s.region.ravel(), s.region.shape) for s in shots if s.region is not None]
        if len(overlays) == len(shots) and "its region" not in columns:
            columns["its region"] = [_enlarged(overlay) for overlay in overlays]
    return contact_sheet(columns, [r.prompt.text[:32] for r in chosen])


def machine_told(machine: Hardware) -> str:
    """Processor and threads, as a page has them."""
    return f"{machine.processor}, {machine.threads} of {machine.cores} cores"


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """By a whole factor."""
    factor = max(1, -(-LEAST_SIDE // min(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def _heading(name: str, width: int, taken: Iterable[str]) -> str:
    """The name, cut to the width of the picture below it, and unlike the headings before it."""
    font = ImageFont.load_default(14)
    for start in ("", *(f"{n}. " for n in range(2, 100))):
        cut = start + name
        while font.getlength(cut) > width:
            cut = cut.removesuffix("..")[:-1] + ".."
        if cut not in taken:
            break
    return cut
