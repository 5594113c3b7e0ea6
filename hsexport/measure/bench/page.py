"""The report as one page: everything inside it, nothing fetched."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from hsexport.measure.bench.columns import Column, columns_of, rows_of
from hsexport.measure.bench.headline import headline
from hsexport.measure.bench.pareto import STYLES, front, points_by
from hsexport.measure.bench.report import Report
from hsexport.measure.bench.scores import Score
from hsruntime.facts import size_text

TEMPLATE = Path(__file__).with_name("page.html.jinja")
NO_STYLE = "#9aa0a8"


@dataclass(frozen=True)
class Card:
    """A number to be seen first."""

    number: str
    words: str


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    title: str
    span: int


@dataclass(frozen=True)
class Cell:
    """A number and, smaller, its interval."""

    value: str
    interval: str


@dataclass(frozen=True)
class Row:
    """One schedule."""

    name: str
    schedule: str
    color: str
    on_front: bool
    cells: list[Cell]


def page(report: Report, plot_svg: str, sheet: Image.Image) -> str:
    """HTML of the whole report."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns, bundle = columns_of(report), report.bundle
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"hsexport bench: {Path(bundle.path).name}",
        subtitle=f"{len(report.scores)} schedules, {report.prompts} prompts, the same noise for all, drawn round by "
        f"round in one run; {report.confidence_percent} % intervals below the numbers.",
        cards=_cards(report),
        headline=headline(report),
        plot=Markup(re.sub(r"^.*?(?=<svg)", "", plot_svg, flags=re.S)),  # a page has no place for an XML prologue
        groups=[Group(title, len(list(each))) for title, each in groupby(columns, key=lambda c: c.group)],
        columns=columns,
        firsts=[n for n, c in enumerate(columns) if n == 0 or columns[n - 1].group != c.group],
        rows=_rows(report, columns),
        sheet=_base64_png(sheet),
        meanings=report.columns,
        facts=_facts(report),
        notes=report.notes,
        command=report.command,
    )


def _cards(report: Report) -> list[Card]:
    """The first mixture, or the first schedule that is no reference."""
    candidates = [s for s in report.scores[2:] if s.kind == "mixture"] or report.scores[2:]
    if not candidates or candidates[0].speed is None:
        return []
    first = candidates[0]
    speed, quality = candidates[0].speed, first.quality
    cards = [
        Card(f"{speed.speedup.value:.2f}x", f"{first.name} over large alone ({speed.predicted:.2f} by counting)"),
        Card(f"{speed.loop_ms:.0f} ms", f"its denoising loop; {first.picture_ms:.0f} ms the whole picture"),
    ]
    if quality.to_large:
        cards.append(
            Card(f"{quality.to_large.flip.value:.3f}", f"its FLIP to large; PSNR {quality.to_large.psnr.value:.1f} dB")
        )
    if quality.top_1:
        cards.append(Card(f"{quality.top_1.value:.0%}", "of its pictures named by the judge at first guess"))
    if first.over_diffusers:
        cards.append(Card(f"{first.over_diffusers.value:.2f}x", "over diffusers' own pipeline, whole pictures"))
    return cards


def _rows(report: Report, columns: list[Column]) -> list[Row]:
    ahead = {p.name for quality in ("flip", "frechet") for p in front(points_by(report, quality))}
    return [_row(score, columns, score.name in ahead) for score in rows_of(report)]


def _row(score: Score, columns: list[Column], on_front: bool) -> Row:
    color = STYLES[score.kind].color if score.kind in STYLES else NO_STYLE
    cells = [Cell(_short(c.value(score)), _short(c.interval(score))) for c in columns]
    return Row(score.name, score.schedule, color, on_front, cells)


def _short(told: str) -> str:
    """Ranges with a dash: the table is wide."""
    return told.replace(" to ", "–")


def _facts(report: Report) -> dict[str, str]:
    b, machine = report.bundle, report.hardware
    return {
        "hardware": f"{machine.processor}, {machine.threads} of {machine.cores} cores",
        "bundle": f"{b.path}: {b.backend}, {b.precision}, {size_text(b.size)} pixels, {b.steps} steps, "
        f"guidance {b.guidance_scale:g}",
        "pair": f"large {b.large}, small {b.small}",
        "manifest": b.manifest_sha256,
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "date": report.date,
    }


def _base64_png(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
