"""Speed against quality: the front, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsexport.measure.bench.plan import CONVERGED
from hsexport.measure.bench.report import Report
from hsexport.measure.bench.scores import Score
from hsexport.measure.estimates import Estimate


@dataclass(frozen=True)
class Point:
    """A schedule in the plane; both speed and distance are known."""

    name: str
    kind: str
    speedup: Estimate
    distance: Estimate  # lower is better


@dataclass(frozen=True)
class Style:
    """How a kind is drawn."""

    title: str
    marker: str
    color: str


STYLES = {
    "large": Style("large, by steps", "o", "#4c566a"),
    "solver": Style("large, otherwise", "P", "#8b6fb0"),
    "mixture": Style("mixtures", "D", "#c2410c"),
    "random": Style("region at random", "x", "#2563a8"),
    "center": Style("region in the middle", "s", "#5b9bd5"),
    "small": Style("small alone", "v", "#3f8f5f"),
}
LONGEST_LABEL = 30
OFFSETS = [(6, 5), (6, -12), (-6, 5), (-6, -12), (8, 14), (8, -22), (-8, 14), (-8, -22), (14, 24), (-14, 24)]
"""Where a label may stand from its point, in points: the first place where it covers nothing."""
BELOW_FIRST = [OFFSETS[1], OFFSETS[2], *OFFSETS]
"""On a line that rises to the right."""


def points_by(report: Report, quality: str) -> list[Point]:
    """Points by "flip" to the converged reference, or by "frechet"; the converged reference itself is no contender."""
    found = []
    for score in report.scores:
        distance = _quality(score, quality)
        if score.speed and distance and score.name != CONVERGED:
            found.append(Point(score.name, score.kind, score.speed.speedup, distance))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as fast and closer than, the slow ones first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speedup.value, p.distance.value)):
        if not kept or point.distance.value < kept[-1].distance.value:
            kept.append(point)
    return kept[::-1]


def draw(report: Report, files: Sequence[Path]) -> None:
    """Draws the plane once for each kind of quality that was measured, into each file (SVG, PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = {"flip": "FLIP to large at 100 steps", "frechet": "Frechet distance to real pictures"}
    known = {quality: points for quality in panels if (points := points_by(report, quality))}
    # Text as paths: a page with the plot in it looks the same without the font.
    with mpl.rc_context(
        {"font.size": 9, "svg.hashsalt": "hsexport", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = pyplot.subplots(
            1, len(known), figsize=(6.4 * len(known), 4.6), squeeze=False, layout="constrained"
        )
        for axis, (quality, points) in zip(axes[0], known.items(), strict=True):
            _panel(axis, points, panels[quality])
        handles, labels = axes[0][0].get_legend_handles_labels()
        columns = (len(labels) + 1) // 2
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def _panel(axis: Any, points: Sequence[Point], title: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    best = front(points)
    axis.plot(
        *_coordinates(best), color="#e8a87c", linewidth=6, alpha=0.45, zorder=1, solid_capstyle="round", label="front"
    )
    for kind, style in STYLES.items():
        here = sorted((p for p in points if p.kind == kind), key=lambda p: p.speedup.value)
        if here:
            _plot_kind(axis, here, style, "-" if kind == "large" else "none")
    axis.set_xscale("log")
    axis.set_xlabel("speedup over large alone (denoising loop, log scale)")
    axis.set_ylabel(f"{title}: lower is better")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(_ticks(points))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.margins(x=0.16, y=0.15)
    axis.grid(alpha=0.25, linewidth=0.6)
    _label(axis, points, {p.name for p in best})


def _plot_kind(axis: Any, points: Sequence[Point], style: Style, line: str) -> None:
    x, y = _coordinates(points)
    spread = [
        [[e.value - e.low for e in side], [e.high - e.value for e in side]]
        for side in ([p.speedup for p in points], [p.distance for p in points])
    ]
    axis.errorbar(
        x, y, xerr=spread[0], yerr=spread[1], fmt=style.marker, color=style.color, ecolor=style.color + "66",
        elinewidth=1, markersize=5.5, linestyle=line, linewidth=1, label=style.title, zorder=3,
    )  # fmt: skip


def _label(axis: Any, points: Sequence[Point], bold: set[str]) -> None:
    """Names beside their points, each where it covers no point and no other name, if there is such a place."""
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken = [_around(axis.transData.transform((p.speedup.value, p.distance.value))) for p in points]
    for point in sorted(points, key=lambda p: p.name not in bold):
        weight, color = ("bold" if point.name in bold else "normal"), STYLES[point.kind].color
        text = axis.annotate(
            shortened(point.name), (point.speedup.value, point.distance.value), textcoords="offset points", fontsize=7,
            fontweight=weight, color=color, xytext=OFFSETS[0], zorder=4,
        )  # fmt: skip
        text.set_in_layout(False)  # a long name must not push the axes together
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # legible on lines and bars
        places = BELOW_FIRST if point.kind == "large" else OFFSETS
        for offset in (*places, places[0]):
            text.set_position(offset)
            text.set_horizontalalignment("left" if offset[0] > 0 else "right")
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def shortened(name: str) -> str:
    """A name as it is, or a long one's segments without the policy, as far as a label has room."""
    return name if len(name) <= LONGEST_LABEL else f"{name.partition(';')[0][:LONGEST_LABEL]}; ..."


def _around(pixel: tuple[float, float]) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(pixel[0] - 4, pixel[1] - 4, 8, 8)


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.speedup.value for p in points], [p.distance.value for p in points]


def _ticks(points: Sequence[Point]) -> list[float]:
    low, high = (pick(p.speedup.value for p in points) for pick in (min, max))
    wide = [t for t in (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20) if low * 0.9 <= t <= high * 1.1]
    return wide or [low]


def _quality(score: Score, quality: str) -> Estimate | None:
    if quality == "frechet":
        return score.quality.frechet
    return score.quality.to_converged.flip if score.quality.to_converged else None
