"""What bundles of one pair cost and what their pictures are worth beside the first one's, as one document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import msgspec
import numpy as np

from hsexport.measure.bench.report import BundleFacts, Column, Point, Times
from hsexport.measure.bench.rounds import Round
from hsexport.measure.bench.scores import Distances, distances
from hsexport.measure.blocks import grid, measured_on
from hsexport.measure.machine import Hardware
from hsexport.measure.pictures import METRICS
from hsexport.measure.turns import Estimate, column, median_of, middle_half, speedups

COMPARISON_VERSION = 1
MB = 1e6
MEANINGS = {
    "MB": "The bundle on disk, every file of it.",
    "opened, peak MB": "Memory that its process held and that no file stands behind: once it was open, and at the most "
    "while it drew. Pages of mapped files, which the system may drop, are not in it.",
    "picture ms": "Text, loop and decoding; median over prompts, with its 95 % interval.",
    "speedup": "The first bundle's time over this one's: pictures of one prompt, drawn in turns, median over prompts. "
    "With its 95 % interval and the quartiles of the prompts' ratios.",
    "to the first": "Distance to the first bundle's own picture of the same prompt, noise and schedule. PSNR and SSIM: "
    "higher is closer; equal pictures have 58.9 dB. FLIP and ST-LPIPS: lower is closer.",
}
FEW = ("MB", "opened MB", "peak MB", "picture ms", "speedup", *(m.title for m in METRICS if m.name != "ssim"))
"""What fits a README or a terminal."""


@dataclass(frozen=True)
class Row:
    """One bundle with one schedule, over all prompts."""

    name: str
    schedule: str
    kind: Literal["first", "other"]
    size_bytes: int
    opened_bytes: int
    peak_bytes: int
    picture_ms: Estimate
    speedup: Estimate  # median over prompts of the first's picture time over this one's
    quartiles: tuple[float, float]  # of the same ratios
    to_first: Distances | None

    @property
    def size_mb(self) -> float:
        """On disk."""
        return self.size_bytes / MB

    @property
    def opened_mb(self) -> float:
        """In memory, once it was open."""
        return self.opened_bytes / MB

    @property
    def peak_mb(self) -> float:
        """In memory, at the most while it drew."""
        return self.peak_bytes / MB


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured and on what; the first bundle is the one that the others stand beside."""

    schema_version: int
    date: str
    command: str
    bundles: dict[str, BundleFacts]
    hardware: Hardware
    versions: dict[str, str]
    prompts: int
    confidence_percent: int
    rows: list[Row]  # by schedule, each schedule's first bundle first
    notes: list[str]
    columns: dict[str, str]
    times: dict[str, list[Times]]  # of each prompt, by schedule

    @property
    def schedules(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(row.schedule for row in self.rows))

    def row(self, name: str, schedule: str = "") -> Row:
        """Of a bundle, with a schedule or the first one."""
        return next(r for r in self.rows if r.name == name and r.schedule == (schedule or self.schedules[0]))

    def summary(self) -> Comparison:
        """Without the times of each prompt."""
        return replace(self, times={})


COLUMNS = (
    Column("cost", "MB", "size_mb", 1),
    Column("cost", "opened MB", "opened_mb", 0),
    Column("cost", "peak MB", "peak_mb", 0),
    Column("cost", "picture ms", "picture_ms", 0),
    Column("cost", "speedup", "speedup"),
    Column("cost", "quartiles", "quartiles"),
    *(Column("to the first", m.title, f"to_first.{m.name}", m.decimals) for m in METRICS),
)
FEW_COLUMNS = tuple(c for c in COLUMNS if c.title in FEW)


def rows_of(schedule: str, bundles: Mapping[str, BundleFacts], rounds: Sequence[Round]) -> Iterator[Row]:
    """A row for each bundle, from rounds with one schedule."""
    first, shots = next(iter(bundles)), [r.shots for r in rounds]
    for name, facts in bundles.items():
        seconds = column(shots, name, "seconds")
        ratios = speedups(column(shots, first, "seconds"), seconds)
        yield Row(
            name=name,
            schedule=schedule,
            kind="first" if name == first else "other",
            size_bytes=facts.size_bytes,
            opened_bytes=int(np.median(column(shots, name, "opened_bytes"))),
            peak_bytes=int(column(shots, name, "peak_bytes").max()),
            picture_ms=median_of(1000 * seconds),
            speedup=median_of(ratios),
            quartiles=middle_half(ratios),
            to_first=distances(name, first, rounds, None),
        )


def comparison_json(report: Comparison) -> bytes:
    """Indented JSON, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def comparison_from_json(data: bytes) -> Comparison:
    """Reads what `comparison_json` wrote. Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Comparison)


def markdown(report: Comparison, more: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The table, and below it what it was measured on; `more`: columns by heading, each a cell by bundle's name."""
    more = more or {}
    several = len(report.schedules) > 1
    headings = ["bundle", *(["schedule"] if several else []), *(c.heading for c in FEW_COLUMNS), *more]
    rows = []
    for row in report.rows:
        named = [bundle_told(report, row.name), *([f"`{row.schedule}`"] if several else [])]
        numbers = [f"{c.value(row)} ({c.interval(row)})" if c.interval(row) else c.value(row) for c in FEW_COLUMNS]
        rows.append([*named, *numbers, *(cells[row.name] for cells in more.values())])
    told = f"{report.prompts} prompts in turns; in brackets {report.confidence_percent} % intervals"
    drawn = [] if several else [f"schedule `{report.schedules[0]}`"]
    return grid(headings, rows) + measured_on({"hardware": asdict(report.hardware)}, *drawn, told)


def bundle_told(report: Comparison, name: str) -> str:
    """A bundle as tables have it: what it is called, for what it is built and in what."""
    facts = report.bundles[name]
    return f"{name}: {facts.backend}, {facts.precision}, {facts.weights}"


def points_of(report: Comparison) -> list[Point]:
    """Bundles in the plane of time and FLIP to the first's pictures; the first lies at no distance."""
    nowhere, several, found = Estimate(0.0, 0.0, 0.0), len(report.schedules) > 1, []
    for row in report.rows:
        name = f"{row.name}, {row.schedule}" if several else row.name
        found.append(Point(name, row.kind, row.speedup, row.to_first.flip if row.to_first else nowhere))
    return found


def headline(report: Comparison) -> list[str]:
    """A sentence for each bundle beside the first, for its first schedule."""
    (first, *others), told = report.bundles, []
    base = report.row(first)
    for name in others:
        row, speed = report.row(name), report.row(name).speedup
        distance = f"{METRICS[0].shown(row.to_first.psnr.value)} to its pictures; " if row.to_first else ""
        told.append(
            f"{name} is {speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f}) times as fast as {first}, {distance}"
            f"{row.size_mb:.1f} MB on disk to {base.size_mb:.1f}, {row.peak_mb:.0f} MB of memory to {base.peak_mb:.0f}."
        )
    return told
