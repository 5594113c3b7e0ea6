"""What the page of a comparison shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hsexport.measure.bench.comparison import (
    COLUMNS,
    Comparison,
    comparison_json,
    headline,
    markdown,
    points_of,
)
from hsexport.measure.bench.folder import Page, machine_told, sheet, write_folder
from hsexport.measure.bench.page import bundle_told, ran_told, told_of_run
from hsexport.measure.bench.rounds import Round
from hsexport.measure.pictures import METRICS

CARDS = 4  # bundles that have one


def write_comparison(out: Path, report: Comparison, rounds: Mapping[str, Sequence[Round]]) -> list[Path]:
    """Writes the comparison's folder; returns the files, the page last."""
    merged = merged_rounds(rounds)
    pictures = sheet(merged[0].shots, merged)
    return write_folder(out, page_of(report), pictures, comparison_json(report), markdown(report))


def merged_rounds(rounds: Mapping[str, Sequence[Round]]) -> list[Round]:
    """One a prompt; where there are several schedules, each shot under its bundle's name and the schedule."""
    (first, *_), several = rounds.values(), len(rounds) > 1
    merged = []
    for number, played in enumerate(first):
        by_schedule = {text: each[number].shots for text, each in rounds.items()}
        shots = {f"{n}, {text}" if several else n: s for text, all_ in by_schedule.items() for n, s in all_.items()}
        merged.append(replace(played, shots=shots))
    return merged


def page_of(report: Comparison) -> Page:
    """The first bundle, and what is gained and lost beside it."""
    first, facts = next(iter(report.bundles.items()))
    panel = f"FLIP to the pictures of {first}"
    return Page(
        title=f"{first} and {len(report.bundles) - 1} beside it",
        sub=f"{len(report.bundles)} bundles, {told_of_run(report.prompts, report.confidence_percent)}",
        cards=list(_cards(report)),
        headline=headline(report),
        panels={panel: points_of(report)},
        across=f"{first}, whole pictures",
        columns=COLUMNS,
        rows=report.rows,
        row_title="bundle",
        meanings=report.columns,
        measured_on={
            "hardware": machine_told(report.hardware),
            **{name: bundle_told(each) for name, each in report.bundles.items()},
            **ran_told(facts, report.versions, report.date),
        },
        notes=report.notes,
        command=report.command,
    )


def _cards(report: Comparison) -> Iterator[tuple[str, str]]:
    first = next(iter(report.bundles))
    for name in islice(report.bundles, 1, 1 + CARDS):
        row = report.row(name)
        told = f"; {METRICS[0].shown(row.to_first.psnr.value)} to its pictures" if row.to_first else ""
        yield f"{row.speedup.value:.2f}x", f"{name} over {first}{told}; {row.peak_mb:.0f} MB of memory"
