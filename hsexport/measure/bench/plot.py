"""Speed against quality, drawn: the front, and every schedule beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsexport.measure.bench.report import Point, Report, front, points_by

STYLES = {
    "large": ("large, by steps", "o", "#4c566a"),
    "solver": ("large, otherwise", "P", "#8b6fb0"),
    "mixture": ("mixtures", "D", "#c2410c"),
    "random": ("region at random", "x", "#2563a8"),
    "center": ("region in the middle", "s", "#5b9bd5"),
    "small": ("small alone", "v", "#3f8f5f"),
}
"""Title, marker and colour of a kind."""
PANELS = {"flip": "FLIP to large at 100 steps", "frechet": "Frechet distance to real pictures"}
LONGEST_LABEL = 30
OFFSETS = [(6, 5), (6, -12), (-6, 5), (-6, -12), (8, 14), (8, -22), (-8, 14), (-8, -22), (14, 24), (-14, 24)]
"""Where a label may stand from its point, in points: the first place where it covers nothing."""
BELOW_FIRST = [OFFSETS[1], OFFSETS[2], *OFFSETS]  # on a line that rises to the right


def draw(report: Report, files: Sequence[Path]) -> None:
    """Draws the plane once for each kind of quality that was measured, into each file (SVG, PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    known = {quality: points for quality in PANELS if (points := points_by(report, quality))}
    # Text as paths: a page with the plot in it looks the same without the font.
    plain: Any = {"font.size": 9, "svg.hashsalt": "hsexport", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(plain):
        size = (6.4 * len(known), 4.6)
        figure, axes = pyplot.subplots(1, len(known), figsize=size, squeeze=False, layout="constrained")
        for axis, (quality, points) in zip(axes[0], known.items(), strict=True):
            _panel(axis, points, PANELS[quality])
        handles, labels = axes[0][0].get_legend_handles_labels()
        columns = (len(labels) + 1) // 2
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def _panel(axis: Any, points: Sequence[Point], title: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    best = front(points)
    wide: Any = {"linewidth": 6, "alpha": 0.45, "solid_capstyle": "round"}
    axis.plot(*_coordinates(best), color="#e8a87c", zorder=1, label="front", **wide)
    for kind in STYLES:
        here = sorted((p for p in points if p.kind == kind), key=lambda p: p.speedup.value)
        if here:
            _plot_kind(axis, here, kind)
    axis.set_xscale("log")
    axis.set_xlabel("speedup over large alone (denoising loop, log scale)")
    axis.set_ylabel(f"{title}: lower is better")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(_ticks(points))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.margins(x=0.16, y=0.15)
    axis.grid(alpha=0.25, linewidth=0.6)
    _label(axis, points, {p.name for p in best})


def _plot_kind(axis: Any, points: Sequence[Point], kind: str) -> None:
    title, marker, color = STYLES[kind]
    sides = [p.speedup for p in points], [p.distance for p in points]
    xerr, yerr = ([[e.value - e.low for e in side], [e.high - e.value for e in side]] for side in sides)
    line: Any = {"linestyle": "-" if kind == "large" else "none", "linewidth": 1, "elinewidth": 1}
    bars: Any = {"xerr": xerr, "yerr": yerr, "ecolor": color + "66"}
    axis.errorbar(*_coordinates(points), fmt=marker, color=color, markersize=5.5, label=title, zorder=3, **line, **bars)


def _label(axis: Any, points: Sequence[Point], bold: set[str]) -> None:
    """Names beside their points, each where it covers no point and no other name, if there is such a place."""
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken = [_around(axis.transData.transform((p.speedup.value, p.distance.value))) for p in points]
    for point in sorted(points, key=lambda p: p.name not in bold):
        weight, color = ("bold" if point.name in bold else "normal"), STYLES[point.kind][2]
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
