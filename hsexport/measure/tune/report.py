"""An outcome as tables for people and as plain values for scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from hsexport.measure.estimates import mean_of
from hsexport.measure.tune.found import Found, Row
from hsexport.measure.tune.goal import Goal, tells_apart
from hsexport.measure.tune.tune import Outcome

GROUNDS = {
    "refused": "not run by this runtime",
    "too slow": "too slow by counting",
    "outdone": "outdone by one that spends more and is fast enough",
    "left out": "left out of the first round",
}
"""Why something was never measured, in the order of the search."""


def measured_table(outcome: Outcome, goal: Goal) -> Table:
    """Every measured schedule, finalists first, each with what became of it."""
    metric = outcome.winner.score.metric
    wide = Column("schedule", overflow="fold", ratio=3), Column("", overflow="fold", ratio=2)
    numbers = [Column(name, justify="right") for name in ("prompts", "speedup", "by counting", metric.title, "95 %")]
    title = f"{metric.title.partition(',')[0]} to {outcome.reference}, speedup over {outcome.large}"
    table = Table(wide[0], *numbers, wide[1], box=None, title=title)
    for number, row in enumerate(outcome.found.rows):
        score, within = row.score, mean_of(row.score.values)
        digits = metric.decimals
        table.add_row(
            row.counted.candidate.schedule,
            str(score.prompts),
            f"{score.speedup:.2f}",
            f"{row.counted.speedup:.2f}",
            f"{score.value:.{digits}f}",
            f"{within.low:.{digits}f}..{within.high:.{digits}f}",
            _became(number, row, outcome, goal),
            style="bold" if number == 0 else None,
        )
    return table


def _became(number: int, row: Row, outcome: Outcome, goal: Goal) -> str:
    if number == 0:
        return "winner"
    if number >= outcome.found.finalists:
        return f"{row.rejection.ground}: {row.rejection.reason}" if row.rejection else "a probe of its kind's speed"
    lead = goal.lead(outcome.winner.score, row.score)
    return "finalist" if tells_apart(lead) else "finalist, not told apart from the winner"


def unmeasured_table(found: Found) -> Table:
    """How many candidates were never measured, and why, with one of them to look at."""
    table = Table("not measured", Column("", justify="right"), Column("for example", overflow="fold"), box=None)
    counts = Counter[str](r.ground for r in found.rejected)
    for ground, words in GROUNDS.items():
        example = next((r for r in found.rejected if r.ground == ground), None)
        if example is not None:
            table.add_row(words, str(counts[ground]), f"{example.schedule}: {example.reason}")
    return table


def summary(outcome: Outcome, work: Path) -> dict[str, Any]:
    """Everything, as JSON knows it."""
    winner = outcome.winner
    return {
        "schedule": str(winner.counted.schedule),
        "steps": winner.counted.schedule.steps,
        "large": outcome.large,
        "reference": outcome.reference,
        "metric": winner.score.metric.name,
        "sentences": outcome.sentences,
        "written": outcome.written,
        "before": {"schedule": outcome.before.schedule, "steps": outcome.before.steps},
        "work": str(work),
        "pictures_measured": outcome.measured,
        "measured": [_record(row, number < outcome.found.finalists) for number, row in enumerate(outcome.found.rows)],
        "not_measured": [asdict(r) for r in outcome.found.rejected],
    }


def _record(row: Row, is_finalist: bool) -> dict[str, Any]:
    within = mean_of(row.score.values)
    return {
        "schedule": row.counted.candidate.schedule,
        "kind": row.counted.candidate.kind,
        "finalist": is_finalist,
        "prompts": row.score.prompts,
        "speedup": row.score.speedup,
        "counted_speedup": row.counted.speedup,
        "value": row.score.value,
        "interval": [within.low, within.high],
        "rejected": asdict(row.rejection) if row.rejection else None,
    }
