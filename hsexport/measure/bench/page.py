"""What the page of a report on schedules shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hsengines.weights import UNQUANTIZED
from hsexport.measure.bench.folder import Page, machine_told, sheet, write_folder
from hsexport.measure.bench.report import (
    BundleFacts,
    Report,
    columns_of,
    headline,
    panels_of,
    report_json,
    rows_of,
)
from hsexport.measure.bench.rounds import CONVERGED, LARGE, Round
from hsexport.measure.bench.scores import Score
from hsexport.measure.bench.table import markdown
from hsruntime.facts import size_text

MIXTURES = 4


def write_report(out: Path, report: Report, rounds: Sequence[Round]) -> list[Path]:
    """Writes the report's folder; returns the files, the page last."""
    return write_folder(out, page_of(report), sheet(_shown(report), rounds), report_json(report), markdown(report))


def page_of(report: Report) -> Page:
    """What is seen first is of the first mixture, or the first that is no reference."""
    others = report.scores[2:]
    first = next(iter([s for s in others if s.kind == "mixture"] or others), None)
    return Page(
        title=Path(report.bundle.path).name,
        sub=f"{len(report.scores)} schedules, {told_of_run(report.prompts, report.confidence_percent)}",
        cards=list(_cards(first)) if first else [],
        headline=headline(report),
        panels=panels_of(report),
        across="large alone, denoising loop",
        columns=columns_of(report),
        rows=rows_of(report),
        row_title="schedule",
        meanings=report.columns,
        measured_on={
            "hardware": machine_told(report.hardware),
            "bundle": bundle_told(report.bundle),
            **ran_told(report.bundle, report.versions, report.date),
        },
        notes=report.notes,
        command=report.command,
    )


def told_of_run(prompts: int, confidence_percent: int) -> str:
    """Below a page's title, how it was drawn."""
    drawn = f"{prompts} prompts, the same noise for all, drawn round by round in one run"
    return f"{drawn}; {confidence_percent} % intervals below the numbers."


def bundle_told(bundle: BundleFacts) -> str:
    """A bundle, as a page has it."""
    weights = "" if bundle.weights == UNQUANTIZED else f", weights {bundle.weights}"
    told = f"{size_text(bundle.size)} pixels, {bundle.steps} steps, guidance {bundle.guidance_scale:g}"
    return f"{bundle.path}: {bundle.backend}, {bundle.precision}{weights}, {told}"


def ran_told(bundle: BundleFacts, versions: dict[str, str], date: str) -> dict[str, str]:
    """What else a run was measured on."""
    return {
        "pair": f"large {bundle.large}, small {bundle.small}",
        "manifest": bundle.manifest_sha256,
        "versions": ", ".join(f"{library} {number}" for library, number in versions.items()),
        "date": date,
    }


def _cards(first: Score) -> Iterator[tuple[str, str]]:
    speed, quality = first.speed, first.quality
    if speed is None:
        return
    yield f"{speed.speedup.value:.2f}x", f"{first.name} over large alone ({speed.predicted:.2f} by counting)"
    yield f"{speed.loop_ms:.0f} ms", f"its denoising loop; {first.picture_ms:.0f} ms the whole picture"
    if to := quality.to_large:
        yield f"{to.flip.value:.3f}", f"its FLIP to large; PSNR {to.psnr.value:.1f} dB"
    if quality.top_1:
        yield f"{100 * quality.top_1.value:.0f}%", "of its pictures named by the judge at first guess"
    if first.over_diffusers:
        yield f"{first.over_diffusers.value:.2f}x", "over diffusers' own pipeline, whole pictures"


def _shown(report: Report) -> list[str]:
    others = report.scores[2:]
    mixtures = [s for s in others if s.kind in ("mixture", "random", "center")][:MIXTURES]
    small = [s.name for s in others if s.kind == "small"][:1]
    fewer = {s.name: s.speed.speedup.value for s in others if s.kind == "large" and s.speed}
    cost = mixtures[0].speed.speedup.value if mixtures and mixtures[0].speed else None
    equal = [min(fewer, key=lambda name: abs(fewer[name] - cost))] if fewer and cost else []
    return [LARGE, *(s.name for s in mixtures), *equal, *small, CONVERGED]
