"""A report's files, each written whole or not at all: the table, which a document's block holds as well, and a page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from PIL import Image, ImageFont

from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport.measure.bench import plot
from hsexport.measure.bench.report import (
    Column,
    Report,
    columns_of,
    few_columns_of,
    front,
    headline,
    points_by,
    report_json,
    rows_of,
)
from hsexport.measure.bench.rounds import CONVERGED, LARGE, Round
from hsexport.measure.bench.scores import Score
from hsexport.measure.blocks import BLOCK, Measured, grid, measured_on, numbers_of, rendered
from hsexport.measure.pictures import png_of
from hsruntime.facts import size_text
from hsruntime.picture.picture import contact_sheet, region_overlay
from hsruntime.schedule.presets import schedule_from_text
from hsruntime.schedule.schedule import ScheduleError

WITH_INTERVAL = ("speedup", "named", "Frechet", "over diffusers")


def block(report: Measured) -> str:
    """The table of a report's JSON, without what this runtime no longer runs."""
    read = msgspec.convert(report, Report)
    return markdown(replace(read, scores=[s for s in read.scores if _is_known(s)]))


def markdown(report: Report) -> str:
    """The table, and below it what it was measured on."""
    columns = few_columns_of(report)
    headings = ["schedule", *(c.heading for c in columns)]
    rows = [[_named(row), *(_cell(column, row) for column in columns)] for row in rows_of(report)]
    told = f"{report.prompts} prompts, the same noise for all; in brackets {report.confidence_percent} % intervals"
    bundle = f"{report.bundle.backend}, {report.bundle.precision}"
    return grid(headings, rows) + measured_on({"hardware": asdict(report.hardware)}, bundle, told)


def splice(readme: Path, report: Report, plot: bytes) -> list[Path]:
    """Puts the table and the plot into the README's block for `hsexport bench`, the numbers into the file it names.

    The plot, a PNG, lies beside the numbers under the same name. Returns both files. Raises HSError where there is no
    such block.
    """
    text, file = check_readme(readme)
    numbers = numbers_of(readme, file)
    replace_file(numbers, report_json(report.summary()))
    replace_file(numbers.with_suffix(".png"), plot)
    found = next(found for found in BLOCK.finditer(text) if found["file"] == file)
    text = text[: found.start("command")] + report.command + text[found.end("command") :]
    replace_file(readme, rendered(readme, text, only=file))
    return [numbers, numbers.with_suffix(".png")]


def check_readme(readme: Path) -> tuple[str, str]:
    """The text and the file of numbers of its block for `hsexport bench`. Raises HSError where there is none."""
    text = readme.read_text(encoding="utf-8")
    file = next((found["file"] for found in BLOCK.finditer(text) if "hsexport bench " in found["command"]), None)
    if not file:
        raise HSError(
            f"{readme} has no block for the numbers of hsexport bench",
            "put two lines there: <!-- numbers: hsexport bench BUNDLE -> docs/bench.json --> <!-- end of numbers -->",
        )
    return text, file


def _is_known(row: Score) -> bool:
    try:
        return bool(schedule_from_text(row.schedule))
    except ScheduleError:
        return False


def _named(row: Score) -> str:
    return f"`{row.name}`" if ":" in row.name or row.name == row.schedule else f"{row.name}: `{row.schedule}`"


def _cell(column: Column, row: Score) -> str:
    interval = column.interval(row) if column.title in WITH_INTERVAL else ""
    return f"{column.value(row)} ({interval})" if interval else column.value(row)


PLOT, SHEET, PAGE = "pareto", "sheet.png", "report.html"
ROWS, MIXTURES = 8, 4
LEAST_SIDE = 96  # smaller pictures are enlarged, or no heading would fit above them
TEMPLATE = Path(__file__).with_name("page.html.jinja")


def check_folder(out: Path) -> None:
    """That a report can be written there, before the work and not after it. Raises HSError."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise HSError(f"--out: {nearest} is not a directory", "name another folder")
    try:
        TemporaryDirectory(dir=nearest).cleanup()
    except OSError as err:
        raise HSError(f"--out: {nearest} cannot be written: {err.strerror}", "name another folder") from err


def write_report(out: Path, report: Report, rounds: Sequence[Round]) -> list[Path]:
    """Writes numbers, table, plot, contact sheet and page into the folder; returns the files, the page last."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = png_of(sheet(report, rounds), optimize=True)
    with TemporaryDirectory(dir=out) as folder:
        drawn = [Path(folder) / f"{PLOT}{suffix}" for suffix in (".svg", ".png")]
        plot.draw(report, drawn)
        plots = {file.name: file.read_bytes() for file in drawn}
    files = {
        "report.json": report_json(report),
        "table.md": markdown(report).encode(),
        **plots,
        SHEET: pictures,
        PAGE: page(report, plots[f"{PLOT}.svg"].decode(), pictures).encode(),
    }
    for name, data in files.items():
        replace_file(out / name, data)
    return [out / name for name in files]


def page(report: Report, plot_svg: str, sheet_png: bytes) -> str:
    """HTML of the whole report; what is seen first is of the first mixture, or the first that is no reference."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns, others = columns_of(report), report.scores[2:]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        name=Path(report.bundle.path).name,
        size=size_text(report.bundle.size),
        first=next(iter([s for s in others if s.kind == "mixture"] or others), None),
        headline=headline(report),
        plot=Markup(re.sub(r"^.*?(?=<svg)", "", plot_svg, flags=re.S)),  # a page has no place for an XML prologue
        groups=[(title, len(list(each))) for title, each in groupby(columns, key=lambda c: c.group)],
        columns=columns,
        firsts=[n for n, c in enumerate(columns) if n == 0 or columns[n - 1].group != c.group],
        rows=rows_of(report),
        colors={kind: color for kind, (_, _, color) in plot.STYLES.items()},
        ahead={p.name for quality in ("flip", "frechet") for p in front(points_by(report, quality))},
        sheet=base64.b64encode(sheet_png).decode(),
    )


def sheet(report: Report, rounds: Sequence[Round]) -> Image.Image:
    """Rows: prompts, evenly spread. Columns: large, mixtures, a region, fewer steps at that speed, small, converged."""
    picks = np.linspace(0, len(rounds) - 1, min(ROWS, len(rounds))).round().astype(int)
    chosen = [rounds[i] for i in picks]
    columns: dict[str, list[np.ndarray]] = {}
    for name in _shown(report):
        shots = [r.shots[name] for r in chosen]
        columns[_heading(name, _enlarged(shots[0].picture).shape[1], columns)] = [_enlarged(s.picture) for s in shots]
        overlays = [region_overlay(s.picture, s.region.ravel(), s.region.shape) for s in shots if s.region is not None]
        if len(overlays) == len(shots) and "its region" not in columns:
            columns["its region"] = [_enlarged(overlay) for overlay in overlays]
    return contact_sheet(columns, [r.prompt.text[:32] for r in chosen])


def _shown(report: Report) -> list[str]:
    others = report.scores[2:]
    mixtures = [s for s in others if s.kind in ("mixture", "random", "center")][:MIXTURES]
    small = [s.name for s in others if s.kind == "small"][:1]
    fewer = {s.name: s.speed.speedup.value for s in others if s.kind == "large" and s.speed}
    cost = mixtures[0].speed.speedup.value if mixtures and mixtures[0].speed else None
    equal = [min(fewer, key=lambda name: abs(fewer[name] - cost))] if fewer and cost else []
    return [LARGE, *(s.name for s in mixtures), *equal, *small, CONVERGED]


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
