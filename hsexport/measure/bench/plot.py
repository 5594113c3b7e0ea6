"""Speed against quality, drawn: the front, and every schedule beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.measure.bench.labels import Ground, placed
from hsexport.measure.bench.report import Point, front

STYLES = {
    "large": ("large, by steps", "o", "#4c566a"),
    "solver": ("large, otherwise", "P", "#8b6fb0"),
    "mixture": ("mixtures", "D", "#c2410c"),
    "random": ("region at random", "x", "#2563a8"),
    "center": ("region in the middle", "s", "#5b9bd5"),
    "small": ("small alone", "v", "#3f8f5f"),
    "first": ("the first bundle", "o", "#4c566a"),
    "other": ("other bundles", "D", "#c2410c"),
}
"""Title, marker and colour of a kind."""
LONGEST_LABEL = 30
MARK, STROKE_SIDE, MARGIN, FAR = 11.0, 2.0, 3.0, 16.0
"""Pixels: a marker's side, a line's width, between a label and the frame, from where on a label needs a line."""


def draw(panels: Mapping[str, Sequence[Point]], across: str, files: Sequence[Path]) -> None:
    """Draws a plane for each kind of quality, by what it is called, into each file (SVG, PNG).

    across: what a speedup is over.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    # Text as paths: a page with the plot in it looks the same without the font.
    plain: Any = {"font.size": 9, "svg.hashsalt": "hsexport", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(plain):
        size = (6.4 * len(panels), 4.6)
        figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
        for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
            _panel(axis, points, title, across)
        handles, labels = axes[0][0].get_legend_handles_labels()
        columns = (len(labels) + 1) // 2
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # labels are placed by pixels, so nothing may move any more
        for axis, points in zip(axes[0], panels.values(), strict=True):
            _label(axis, points, {p.name for p in front(points)})
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def _panel(axis: Any, points: Sequence[Point], title: str, across: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    wide: Any = {"linewidth": 6, "alpha": 0.45, "solid_capstyle": "round"}
    axis.plot(*_coordinates(front(points)), color="#e8a87c", zorder=1, label="front", **wide)
    for kind in STYLES:
        here = sorted((p for p in points if p.kind == kind), key=lambda p: p.speedup.value)
        if here:
            _plot_kind(axis, here, kind)
    axis.set_xscale("log")
    axis.set_xlabel(f"speedup over {across} (log scale)")
    axis.set_ylabel(f"{title}: lower is better")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(_ticks(points))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.margins(x=0.16, y=0.15)
    axis.grid(alpha=0.25, linewidth=0.6)


def _plot_kind(axis: Any, points: Sequence[Point], kind: str) -> None:
    title, marker, color = STYLES[kind]
    sides = [p.speedup for p in points], [p.distance for p in points]
    xerr, yerr = ([[e.value - e.low for e in side], [e.high - e.value for e in side]] for side in sides)
    line: Any = {"linestyle": "-" if kind == "large" else "none", "linewidth": 1, "elinewidth": 1}
    bars: Any = {"xerr": xerr, "yerr": yerr, "ecolor": color + "66"}
    axis.errorbar(*_coordinates(points), fmt=marker, color=color, markersize=5.5, label=title, zorder=3, **line, **bars)


def _label(axis: Any, points: Sequence[Point], bold: set[str]) -> None:
    """Names beside their points, with a line to the point where it is away; the figure's layout is final."""
    from matplotlib.patheffects import withStroke

    renderer = axis.figure.canvas.get_renderer()
    ranked = sorted(points, key=lambda p: p.name not in bold)
    texts = [
        axis.annotate(
            shortened(p.name), _place(p), textcoords="offset points", fontsize=7, color=STYLES[p.kind][2], zorder=4,
            fontweight="bold" if p.name in bold else "normal", xytext=(0, 0), verticalalignment="bottom",
        )
        for p in ranked
    ]  # fmt: skip
    pixels = axis.transData.transform([_place(p) for p in ranked])
    sizes = np.array([text.get_window_extent(renderer).size for text in texts])
    boxes = placed(pixels, sizes, Ground(_frame(axis), _around(pixels, MARK), _strokes(axis, points)))
    for text, pixel, box in zip(texts, pixels, boxes, strict=True):
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # legible on lines and bars
        nearest = np.clip(pixel, box[:2], box[2:])
        if np.linalg.norm(nearest - pixel) > FAR:
            line = axis.transData.inverted().transform([pixel, nearest]).T
            axis.plot(*line, color=text.get_color(), linewidth=0.5, alpha=0.7, zorder=2, scalex=False, scaley=False)
        text.set_position((box[:2] - pixel) * 72 / axis.figure.dpi)  # what is saved has other pixels


def shortened(name: str) -> str:
    """A name as it is, or a long one's segments without the policy, as far as a label has room."""
    return name if len(name) <= LONGEST_LABEL else f"{name.partition(';')[0][:LONGEST_LABEL]}; ..."


def _place(point: Point) -> tuple[float, float]:
    return point.speedup.value, point.distance.value


def _frame(axis: Any) -> np.ndarray:
    """The axes' box, less a margin."""
    left, bottom, right, top = axis.get_window_extent().extents
    return np.array([left + MARGIN, bottom + MARGIN, right - MARGIN, top - MARGIN])


def _around(pixels: np.ndarray, side: float) -> np.ndarray:
    return np.concatenate([pixels - side / 2, pixels + side / 2], axis=1)


def _strokes(axis: Any, points: Sequence[Point]) -> np.ndarray:
    """Boxes along intervals and along large's line."""
    ends = [[(p.speedup.low, p.distance.value), (p.speedup.high, p.distance.value)] for p in points]
    ends += [[(p.speedup.value, p.distance.low), (p.speedup.value, p.distance.high)] for p in points]
    line = sorted((p for p in points if p.kind == "large"), key=lambda p: p.speedup.value)
    ends += [[_place(a), _place(b)] for a, b in pairwise(line)]
    first, last = (axis.transData.transform([pair[n] for pair in ends]) for n in (0, 1))
    along = np.linspace(0, 1, 40)[:, None, None]
    return _around((first + along * (last - first)).reshape(-1, 2), STROKE_SIDE)


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.speedup.value for p in points], [p.distance.value for p in points]


def _ticks(points: Sequence[Point]) -> list[float]:
    low, high = (pick(p.speedup.value for p in points) for pick in (min, max))
    wide = [t for t in (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20) if low * 0.9 <= t <= high * 1.1]
    return wide or [low]
