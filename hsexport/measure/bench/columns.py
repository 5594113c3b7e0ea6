"""A report's columns: what is read from a score, under which heading, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hsexport.measure.bench.report import Report
from hsexport.measure.bench.scores import Distances, Score, Speed
from hsexport.measure.estimates import Estimate
from hsexport.measure.metrics import METRICS

Reading = Estimate | float | tuple[float, float] | None


@dataclass(frozen=True)
class Column:
    """One number of a score."""

    group: str
    title: str
    decimals: int
    read: Callable[[Score], Reading]

    @property
    def heading(self) -> str:
        """The title where there is no room for a row of groups above it."""
        return f"{self.title} {self.group}" if self.group.startswith("to ") else self.title

    def value(self, score: Score) -> str:
        """The number, or a dash."""
        found = self.read(score)
        if found is None:
            return "-"
        if isinstance(found, tuple):
            return " to ".join(f"{side:.{self.decimals}f}" for side in found)
        return f"{found.value if isinstance(found, Estimate) else found:.{self.decimals}f}"

    def interval(self, score: Score) -> str:
        """Its interval; empty where it has none, or one of no width."""
        found = self.read(score)
        if not isinstance(found, Estimate) or found.low == found.high:
            return ""
        return f"{found.low:.{self.decimals}f} to {found.high:.{self.decimals}f}"


SPEED, SAMPLE = "speed", "sample quality"
REFERENCE_GROUPS = ("to large", "to converged")


def columns_of(report: Report) -> list[Column]:
    """The columns in which at least one schedule has a number."""
    rows = rows_of(report)
    return [c for c in _all_columns() if any(c.read(row) is not None for row in rows)]


def few_columns_of(report: Report) -> list[Column]:
    """What fits a README or a terminal."""
    few = ("speedup", "by counting", "PSNR, dB to large", "FLIP to large", "FLIP to converged")
    chosen = (*few, "features to converged", "named", "among five", "Frechet", "over diffusers")
    return [c for c in columns_of(report) if c.heading in chosen]


def rows_of(report: Report) -> list[Score]:
    """Scores as tables list them: the references, mixtures, controls, fewer steps, small; the fast ones last."""
    order = ("mixture", "random", "center", "solver", "large", "small")
    references, others = report.scores[:2], report.scores[2:]
    ranked = sorted(others, key=lambda s: (order.index(s.kind), s.speed.speedup.value if s.speed else 0))
    return [*references, *ranked, *([report.diffusers] if report.diffusers else [])]


def _all_columns() -> list[Column]:
    columns = [
        Column(SPEED, "speedup", 2, _of_speed(lambda s: s.speedup)),
        Column(SPEED, "quartiles", 2, _of_speed(lambda s: s.quartiles)),
        Column(SPEED, "by counting", 2, _of_speed(lambda s: s.predicted)),
        Column(SPEED, "measured / counted", 2, _of_speed(lambda s: s.measured_over_predicted)),
        Column(SPEED, "loop ms", 0, _of_speed(lambda s: s.loop_ms)),
        Column(SPEED, "picture ms", 0, lambda s: s.picture_ms),
        Column(SPEED, "over diffusers", 2, lambda s: s.over_diffusers),
    ]
    for group in REFERENCE_GROUPS:
        columns += [Column(group, m.title, m.decimals, _distance(group, m.name)) for m in METRICS]
        columns.append(Column(group, "features", 2, _distance(group, "features")))
    return [
        *columns,
        Column(SAMPLE, "named", 2, lambda s: s.quality.top_1),
        Column(SAMPLE, "among five", 2, lambda s: s.quality.top_5),
        Column(SAMPLE, "Frechet", 2, lambda s: s.quality.frechet),
    ]


def _of_speed(read: Callable[[Speed], Reading]) -> Callable[[Score], Reading]:
    return lambda score: read(score.speed) if score.speed else None


def _distance(group: str, name: str) -> Callable[[Score], Reading]:
    def read(score: Score) -> Reading:
        distances: Distances | None = getattr(score.quality, group.replace(" ", "_"))
        return getattr(distances, name) if distances else None

    return read
