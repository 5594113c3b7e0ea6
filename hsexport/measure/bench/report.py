"""What one run measured, as one document; its columns, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from hsengines.weights import UNQUANTIZED
from hsexport.measure.bench.rounds import CONVERGED, Round
from hsexport.measure.bench.scores import Score
from hsexport.measure.machine import Hardware
from hsexport.measure.pictures import METRICS
from hsexport.measure.turns import Estimate
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle, sha256_of

SCHEMA_VERSION = 1
MEANINGS = {
    "speedup": "Large alone at the bundle's default steps over this schedule: denoising loops of one prompt, median "
    "over prompts. With its 95 % interval and the quartiles of the prompts' ratios.",
    "by counting": "The speedup that counting the transformers' operations promises, and measured over promised.",
    "picture ms": "Text, loop and decoding; median.",
    "to large": "Distance to large's own picture of the same prompt and noise at the default steps, the measure of "
    "the papers. PSNR and SSIM: higher is closer. FLIP, from 0 to 1, and ST-LPIPS: lower is closer. ST-LPIPS is "
    "LPIPS, the papers' perceptual distance, by a network built to overlook small shifts; its numbers are not LPIPS's.",
    "to converged": "The same to large at 100 steps, where more steps change next to nothing.",
    "features": "Distance in the judge's features; 1 is the typical distance of two real pictures.",
    "named, among five": "Share of pictures whose prompt is the judge's first guess, or among its first five.",
    "Frechet": "Frechet distance to real pictures in the judge's features, with 1.96 bootstrap standard errors. It "
    "shrinks with more prompts: compare it within one report only.",
    "over diffusers": "Whole pictures against diffusers' own pipeline: large alone, eager, with as many threads.",
}
KINDS = ("mixture", "random", "center", "solver", "large", "small")  # in the order of tables


@dataclass(frozen=True)
class BundleFacts:
    """Which bundle was measured."""

    path: str
    manifest_sha256: str
    large: str
    small: str
    backend: str
    precision: str
    size: tuple[int, int]
    steps: int
    guidance_scale: float
    weights: str = UNQUANTIZED
    size_bytes: int = 0  # reports before it was told have 0


@dataclass(frozen=True)
class Times:
    """One prompt's times by schedule, all from one round."""

    seed: int
    prompt: str
    loop_seconds: dict[str, float]
    picture_seconds: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Everything that was measured and on what; the first two scores are the references."""

    schema_version: int
    date: str
    command: str
    bundle: BundleFacts
    hardware: Hardware
    versions: dict[str, str]
    prompts: int
    confidence_percent: int
    scores: list[Score]
    diffusers: Score | None
    judged: bool
    notes: list[str]
    columns: dict[str, str]
    times: list[Times]

    def score(self, name: str) -> Score:
        """The row of that name."""
        return next(s for s in self.scores if s.name == name)

    def summary(self) -> Report:
        """Without the times of each prompt."""
        return replace(self, times=[])


def report_json(report: Report) -> bytes:
    """Indented JSON, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def report_from_json(data: bytes) -> Report:
    """Reads what `report_json` wrote. Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Report)


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """The bundle's part of a report."""
    manifest, facts = bundle.manifest, bundle.manifest.facts
    partner = facts.small.source if facts.small else "none"
    return BundleFacts(
        path=str(bundle.path),
        manifest_sha256=sha256_of(bundle.path / "manifest.json"),
        large=facts.large.source,
        small=partner,
        backend=manifest.backend,
        precision=manifest.precision,
        size=facts.sizes.default,
        steps=facts.defaults.steps,
        guidance_scale=facts.defaults.guidance_scale,
        weights=weights_of(manifest),
        size_bytes=sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file()),
    )


def weights_of(manifest: Manifest) -> str:
    """How the bundle's weights are stored, where that is not the same for all: those of its quantised engines."""
    found = sorted({record.weight_format for record in manifest.engines.values()} - {UNQUANTIZED})
    return ", ".join(found) or UNQUANTIZED


def times_of(played: Round) -> Times:
    """A round's part of a report."""
    loops = {name: shot.loop_seconds for name, shot in played.shots.items() if shot.loop_seconds}
    return Times(played.prompt.seed, played.prompt.text, loops, {n: s.seconds for n, s in played.shots.items()})


@dataclass(frozen=True)
class Column:
    """One number of a score: where it stands, under which heading, how it is written."""

    group: str
    title: str
    path: str
    decimals: int = 2

    @property
    def heading(self) -> str:
        """The title where there is no room for a row of groups above it."""
        return f"{self.title} {self.group}" if self.group.startswith("to ") else self.title

    def read(self, score: object) -> Estimate | float | tuple[float, float] | None:
        """The number, with its interval where it has one; None where the score has no such number."""
        found = score
        for name in self.path.split("."):
            found = getattr(found, name, None)
        return found  # type: ignore[return-value]

    def value(self, score: object) -> str:
        """The number, or a dash."""
        found = self.read(score)
        if found is None:
            return "-"
        if isinstance(found, tuple):
            return self._range(*found)
        return f"{found.value if isinstance(found, Estimate) else found:.{self.decimals}f}"

    def interval(self, score: object) -> str:
        """Its interval; empty where it has none, or one of no width."""
        found = self.read(score)
        return self._range(found.low, found.high) if isinstance(found, Estimate) and found.low != found.high else ""

    def _range(self, low: float, high: float) -> str:
        return f"{low:.{self.decimals}f} to {high:.{self.decimals}f}"


COLUMNS = (
    Column("speed", "speedup", "speed.speedup"),
    Column("speed", "quartiles", "speed.quartiles"),
    Column("speed", "by counting", "speed.predicted"),
    Column("speed", "measured / counted", "speed.measured_over_predicted"),
    Column("speed", "loop ms", "speed.loop_ms", 0),
    Column("speed", "picture ms", "picture_ms", 0),
    Column("speed", "over diffusers", "over_diffusers"),
    *(Column("to large", m.title, f"quality.to_large.{m.name}", m.decimals) for m in METRICS),
    Column("to large", "features", "quality.to_large.features"),
    *(Column("to converged", m.title, f"quality.to_converged.{m.name}", m.decimals) for m in METRICS),
    Column("to converged", "features", "quality.to_converged.features"),
    Column("sample quality", "named", "quality.top_1"),
    Column("sample quality", "among five", "quality.top_5"),
    Column("sample quality", "Frechet", "quality.frechet"),
)
FEW = ("speedup", "by counting", "PSNR, dB to large", "FLIP to large", "ST-LPIPS to large", "LPIPS to large",
       "PSNR, dB to converged", "FLIP to converged", "named", "among five", "Frechet", "over diffusers")  # fmt: skip
"""What fits a README or a terminal."""


def columns_of(report: Report) -> list[Column]:
    """The columns in which at least one schedule has a number."""
    return [c for c in COLUMNS if any(c.read(row) is not None for row in rows_of(report))]


def few_columns_of(report: Report) -> list[Column]:
    """Those of them that fit anywhere."""
    return [c for c in columns_of(report) if c.heading in FEW]


def rows_of(report: Report) -> list[Score]:
    """Scores as tables list them: the references, mixtures, controls, fewer steps, small; the fast ones last."""
    references, others = report.scores[:2], report.scores[2:]
    ranked = sorted(others, key=lambda s: (KINDS.index(s.kind), s.speed.speedup.value if s.speed else 0))
    return [*references, *ranked, *([report.diffusers] if report.diffusers else [])]


@dataclass(frozen=True)
class Point:
    """A schedule in the plane; both speed and distance are known."""

    name: str
    kind: str
    speedup: Estimate
    distance: Estimate  # lower is better


def points_by(report: Report, quality: str) -> list[Point]:
    """Points by "flip" to the converged reference, or by "frechet"; the converged reference itself is no contender."""
    path = {"flip": "quality.to_converged.flip", "frechet": "quality.frechet"}[quality]
    found = [(s, Column("", "", path).read(s)) for s in report.scores if s.speed and s.name != CONVERGED]
    return [Point(s.name, s.kind, s.speed.speedup, d) for s, d in found if s.speed and isinstance(d, Estimate)]


PANELS = {"flip": "FLIP to large at 100 steps", "frechet": "Frechet distance to real pictures"}


def panels_of(report: Report) -> dict[str, list[Point]]:
    """The plot's panels, of each kind of quality that was measured."""
    return {title: points for quality, title in PANELS.items() if (points := points_by(report, quality))}


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as fast and closer than, the slow ones first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speedup.value, p.distance.value)):
        if not kept or point.distance.value < kept[-1].distance.value:
            kept.append(point)
    return kept[::-1]


def headline(report: Report) -> list[str]:
    """What it says, computed from its numbers, whichever way they fall; the most important first."""
    points = points_by(report, "flip")
    mixtures = [p for p in points if p.kind == "mixture"][:1]
    told = []
    for mixture in mixtures:
        speed = report.score(mixture.name).speed
        counted = f"; counting operations promises {speed.predicted:.2f}" if speed else ""
        told += [f"{mixture.name} is {_told(mixture.speedup)} times as fast as large alone{counted}."]
        told += _against_fewer_steps(mixture, points)
    if names := ", ".join(p.name for p in front(points)):
        told.append(f"No other schedule is faster and nearer to the converged pictures than these: {names}.")
    if names := ", ".join(p.name for p in front(points_by(report, "frechet"))):
        told.append(f"By Frechet distance to real pictures these lead: {names}.")
    found = [(name, report.score(name).over_diffusers) for name in ("large", *(p.name for p in mixtures))]
    if over := " and ".join(f"{name} {_told(e)} times" for name, e in found if e):
        told.append(f"Over diffusers' own pipeline, whole pictures: {over} as fast.")
    return told


def _against_fewer_steps(mixture: Point, points: list[Point]) -> list[str]:
    """The mixture against large's own line at the mixture's speed; nothing where the line does not reach that far."""
    line = sorted((p for p in points if p.kind == "large"), key=lambda p: p.speedup.value)
    speeds = [p.speedup.value for p in line]
    if len(line) < 2 or not speeds[0] <= mixture.speedup.value <= speeds[-1]:
        return []
    there = float(np.interp(np.log(mixture.speedup.value), np.log(speeds), [p.distance.value for p in line]))
    verdict = "nearer" if there < mixture.distance.value else "further away"
    told = f"FLIP to the converged pictures {there:.3f}, {mixture.name} {mixture.distance.value:.3f}"
    return [f"Fewer steps of large, at that speed, lie {verdict}: {told}."]


def _told(e: Estimate) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
