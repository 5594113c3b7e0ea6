"""The contact sheet: what the schedules made of the same prompts and noise, and the regions they chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageFont

from hsexport.measure.bench.contenders import CONVERGED, LARGE
from hsexport.measure.bench.report import Report
from hsexport.measure.bench.rounds import Round, Shot
from hsruntime.picture.picture import contact_sheet, region_overlay

ROWS = 8
MIXTURES = 4
LEAST_SIDE = 96  # smaller pictures are enlarged, or no heading would fit above them


def sheet(report: Report, rounds: Sequence[Round]) -> Image.Image:
    """Rows: prompts, evenly spread. Columns: large, mixtures, a region, fewer steps at that speed, small, converged."""
    picks = np.linspace(0, len(rounds) - 1, min(ROWS, len(rounds))).round().astype(int)
    chosen = [rounds[i] for i in picks]
    columns: dict[str, list[np.ndarray]] = {}
    for name in _names(report):
        pictures = [_enlarged(r.shots[name].picture) for r in chosen]
        columns[_heading(name, pictures[0].shape[1], columns)] = pictures
        if all(r.shots[name].region is not None for r in chosen) and "its region" not in columns:
            columns["its region"] = [_enlarged(_overlay(r.shots[name])) for r in chosen]
    return contact_sheet(columns, [r.prompt.text[:32] for r in chosen])


def _names(report: Report) -> list[str]:
    mixtures = [s.name for s in report.scores[2:] if s.kind in ("mixture", "random", "center")][:MIXTURES]
    small = [s.name for s in report.scores[2:] if s.kind == "small"][:1]
    return [LARGE, *mixtures, *_at_equal_cost(report, mixtures), *small, CONVERGED]


def _at_equal_cost(report: Report, mixtures: list[str]) -> list[str]:
    """Large at the number of steps whose speed is nearest to the first mixture's."""
    fewer = {s.name: s.speed.speedup.value for s in report.scores[2:] if s.kind == "large" and s.speed}
    speed = report.score(mixtures[0]).speed if mixtures else None
    if not fewer or not speed:
        return []
    return [min(fewer, key=lambda name: abs(fewer[name] - speed.speedup.value))]


def _overlay(shot: Shot) -> np.ndarray:
    assert shot.region is not None
    return region_overlay(shot.picture, shot.region.ravel(), shot.region.shape)


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
