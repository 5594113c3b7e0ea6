"""What one run measured, as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from hsexport.measure.bench.rounds import Round
from hsexport.measure.bench.scores import Score
from hsexport.measure.estimates import CONFIDENCE_PERCENT
from hsexport.measure.machine import Hardware
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle, sha256_of

SCHEMA_VERSION = 1

COLUMNS = {
    "speedup": "Large alone at the bundle's default steps over this schedule: denoising loops of one prompt, median "
    "over prompts. With its 95 % interval and the quartiles of the prompts' ratios.",
    "by counting": "The speedup that counting the transformers' operations promises, and measured over promised.",
    "picture ms": "Text, loop and decoding; median.",
    "to large": "Distance to large's own picture of the same prompt and noise at the default steps, the measure of "
    "the papers. PSNR and SSIM: higher is closer. FLIP, from 0 to 1: lower is closer.",
    "to converged": "The same to large at 100 steps, where more steps change next to nothing.",
    "features": "Distance in the judge's features; 1 is the typical distance of two real pictures.",
    "named, among five": "Share of pictures whose prompt is the judge's first guess, or among its first five.",
    "Frechet": "Frechet distance to real pictures in the judge's features, with 1.96 bootstrap standard errors. It "
    "shrinks with more prompts: compare it within one report only.",
    "over diffusers": "Whole pictures against diffusers' own pipeline: large alone, eager, with as many threads.",
}
LPIPS_NOTE = "LPIPS is left out: its weights are not part of this package."


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
    m: Manifest = bundle.manifest
    return BundleFacts(
        path=str(bundle.path),
        manifest_sha256=sha256_of(bundle.path / "manifest.json"),
        large=m.facts.large.source,
        small=m.facts.small.source,
        backend=m.backend,
        precision=m.precision,
        size=m.facts.sizes.default,
        steps=m.facts.defaults.steps,
        guidance_scale=m.facts.defaults.guidance_scale,
    )


def new_report(
    facts: BundleFacts,
    hardware: Hardware,
    versions: dict[str, str],
    rounds: Sequence[Round],
    scores: list[Score],
    diffusers: Score | None,
    notes: list[str],
) -> Report:
    """A report of today; the command line is filled in by who knows it."""
    return Report(
        schema_version=SCHEMA_VERSION,
        date=datetime.now(UTC).date().isoformat(),
        command="",
        bundle=facts,
        hardware=hardware,
        versions=versions,
        prompts=len(rounds),
        confidence_percent=CONFIDENCE_PERCENT,
        scores=scores,
        diffusers=diffusers,
        judged=any(s.quality.top_1 or s.quality.frechet for s in scores),
        notes=notes,
        columns=COLUMNS,
        times=[_times(r) for r in rounds],
    )


def _times(played: Round) -> Times:
    loops = {name: shot.loop_seconds for name, shot in played.shots.items() if shot.loop_seconds}
    return Times(played.prompt.seed, played.prompt.text, loops, {n: s.seconds for n, s in played.shots.items()})
