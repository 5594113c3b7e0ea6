"""Tuning as a sentence: count, search, judge, write; and what was found, in sentences, tables and plain values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.table import Column, Table

from hsengines.errors import HSError
from hsexport.measure.prompts import prompts_for, shuffled
from hsexport.measure.tune.candidates import DIFFUSERS, count_all, family
from hsexport.measure.tune.goal import (
    AtLeastAsClose,
    AtLeastAsFast,
    Goal,
    TuneError,
    WithinBudget,
    metric_called,
    tells_apart,
)
from hsexport.measure.tune.levers import Lever, Timed, timings_at, to_go_on, waterfall
from hsexport.measure.tune.measuring import Conditions, Ledger, Measurer, subject_of
from hsexport.measure.tune.search import Found, Row, Search, shares_of
from hsexport.measure.turns import mean_of
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import open_bundle
from hsruntime.bundle.writer import write_defaults
from hsruntime.facts import Defaults, Facts
from hsruntime.options import SessionOptions
from hsruntime.schedule.fit import schedule_for
from hsruntime.session import Session

CONVERGED_STEPS = 100
BUDGET_PICTURES = 5
GROUNDS = {
    "refused": "not run by this runtime",
    "too slow": "too slow by counting",
    "dominated": "dominated by one that spends more and is fast enough",
    "left out": "left out of the first round",
}
"""Why something was never measured, in the order of the search."""


@dataclass(frozen=True)
class TuneRequest:
    """What a search is asked for."""

    bundle: Path
    goal: Goal | WithinBudget
    work: Path  # where the ledger and the reference's pictures are kept
    metric: str = "psnr"
    reference: Literal["converged", "same-steps"] = "converged"
    prompts: int = 48  # that the finalists are measured on; a shorter list gives what it has
    prompt_file: Path | None = None
    large_steps: int | None = None
    """What speed 1 is: large in so many steps; None: the bundle's default before it was first tuned."""
    device: str = ""
    threads: int = 0
    write: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a search found and did."""

    found: Found
    goal: Goal
    large: str
    reference: str
    before: Defaults  # the bundle's own defaults before it was ever tuned
    measured: int  # pictures measured by this search; the ledger had the others
    written: bool
    timed: list[Timed]  # noise levels and solvers on large alone, nearest first
    levers: list[Lever]  # the winner's speedup as a product

    @property
    def winner(self) -> Row:
        """The best that keeps the constraint."""
        return self.found.rows[0]

    @property
    def sentences(self) -> list[str]:
        """The winner, then how it compares with the second, with large alone and with the best mixture."""
        score, goal = self.winner.score, self.goal
        told = [
            f"{_name(self.winner)} is {score.speedup:.2f} times as fast as {self.large}, measured; "
            f"{score.metric.shown(score.value)} to {self.reference}, mean of {score.prompts} prompts."
        ]
        if isinstance(goal, AtLeastAsClose):
            within = mean_of(score.values)
            far = within.low if score.metric.higher_is_closer else within.high
            if score.metric.turned(far) > score.metric.turned(goal.limit):
                reach = f"reaches to {score.metric.shown(far)}, beyond the {goal.limit:g} allowed"
                told.append(f"The mean's 95 % interval {reach}.")
        told += _against_others(self.found.rows[: self.found.finalists], goal)
        parts = ", ".join(f"{lever.name} {lever.factor:.2f}x" for lever in self.levers)
        return [*told, f"What each lever gave, at the winner's distance: {parts}."]


def tune(request: TuneRequest, reporter: Reporter) -> Outcome:
    """Searches, and makes the winner the bundle's default.

    Raises TuneError where the constraint cannot be kept, BundleError for a bundle that cannot be trusted. What was
    measured before an interrupt is kept: the same request goes on from there.
    """
    path = request.bundle
    if request.write and path.is_dir() and not all(os.access(p, os.W_OK) for p in (path, path.resolve().parent)):
        raise HSError(f"bundle '{path}' cannot be written", "tune a copy, or look without writing: --dry-run")
    bundle, metric = open_bundle(request.bundle), metric_called(request.metric)
    manifest, facts = bundle.manifest, bundle.manifest.facts
    prompts = shuffled(prompts_for(manifest, request.prompt_file, request.prompts))
    opening = SessionOptions(device=request.device, threads=request.threads)
    with Ledger(request.work) as ledger, Session(bundle, opening) as session:
        before = ledger.first_defaults(manifest)
        steps, converged = request.large_steps or before.steps, min(CONVERGED_STEPS, facts.most_steps)
        large = schedule_for(facts, "large", steps)
        reference = large if request.reference == "same-steps" else schedule_for(facts, "large", converged)
        named = str(large), str(reference), metric.name
        conditions = Conditions(subject_of(manifest), request.threads, *named, request.device)
        folder = request.work / "references"
        measurer = Measurer(session, prompts, large, reference, conditions, metric, folder, ledger, reporter)
        goal = within_budget(request.goal, measurer) if isinstance(request.goal, WithinBudget) else request.goal
        _check_reach(goal, facts, steps)
        few, some = shares_of(len(prompts))
        timed = timings_at(facts, goal, steps, few, measurer)
        counted, refused = count_all(family(steps, to_go_on(timed), facts), facts, steps)
        result = Search(counted, refused, goal, len(prompts), measurer).run()
        levers = waterfall(facts, result.rows[0].counted, steps, some, measurer)
    if request.write:
        _write(request.bundle, manifest, result.rows[0])
    return Outcome(result, goal, str(large), str(reference), before, measurer.made, request.write, timed, levers)


def within_budget(budget: WithinBudget, measurer: Measurer) -> AtLeastAsFast:
    """The speedup that a budget asks for, by what large takes here. Raises TuneError where there is room already."""
    took = 1000 * measurer.large_seconds(BUDGET_PICTURES)
    if took <= budget.milliseconds:
        told = f"large takes {took:.0f} ms, the budget is {budget.milliseconds:g}"
        raise TuneError(told, "nothing is to be gained: run it as it is, or ask for less")
    return AtLeastAsFast(took / budget.milliseconds)


def _check_reach(goal: Goal, facts: Facts, steps: int) -> None:
    """Raises TuneError for a speedup that no candidate has even by counting."""
    counted, _ = count_all(family(steps, [DIFFUSERS], facts), facts, steps)
    fastest = max(counted, key=lambda c: c.speedup)
    if isinstance(goal, AtLeastAsFast) and fastest.speedup < goal.speedup:
        found = f"the fastest, {fastest.candidate.schedule}, has {fastest.speedup:.2f} by counting operations"
        raise TuneError(f"a speedup of {goal.speedup:.4g} is out of reach: {found}", "ask for less")


def _write(path: Path, measured: Manifest, winner: Row) -> None:
    """Makes the winner the default of the very bundle that was measured."""
    now = open_bundle(path, hashes=False).manifest
    if subject_of(now) != subject_of(measured):
        raise HSError(f"bundle '{path}' was replaced while it was measured", "start the search again")
    schedule = winner.counted.schedule
    write_defaults(path, msgspec.structs.replace(now.facts.defaults, schedule=str(schedule), steps=schedule.steps))


def _against_others(finalists: list[Row], goal: Goal) -> Iterator[str]:
    winner, *others = finalists
    is_control = winner.counted.candidate.is_control
    of_other_sort = next((row for row in others if row.counted.candidate.is_control != is_control), None)
    if others and others[0] is not of_other_sort:
        yield f"It is {_lead(winner, others[0], goal)} the second, {_beside(winner, others[0], goal)}."
    if of_other_sort is None:
        sort = "mixture" if is_control else "fewer steps of large alone"
        yield f"No {sort} was found to keep the constraint."
        return
    lead, against = _lead(winner, of_other_sort, goal), _beside(winner, of_other_sort, goal)
    if is_control:
        yield f"Large in fewer steps is the better deal here: it is {lead} the best mixture, {against}."
    else:
        yield f"It is {lead} large in fewer steps, {against}."


def _lead(winner: Row, other: Row, goal: Goal) -> str:
    if not tells_apart(goal.lead(winner.score, other.score)):
        return "not told apart from"
    return "closer than" if isinstance(goal, AtLeastAsFast) else "faster than"


def _beside(winner: Row, other: Row, goal: Goal) -> str:
    """The other, and by how much the winner leads it."""
    lead, metric = goal.lead(winner.score, other.score), winner.score.metric
    if isinstance(goal, AtLeastAsFast):
        low, value, high = (metric.shown_difference(v) for v in (lead.low, lead.value, lead.high))
        return f"{_name(other)} (by {value}, 95 % interval {low} to {high})"
    return f"{_name(other)} (by {lead.value:.2f} in speedup, 95 % interval {lead.low:.2f} to {lead.high:.2f})"


def _name(row: Row) -> str:
    return row.counted.candidate.schedule


def measured_table(outcome: Outcome) -> Table:
    """Every measured schedule, finalists first, each with what became of it."""
    metric = outcome.winner.score.metric
    wide = Column("schedule", overflow="fold", ratio=3), Column("", overflow="fold", ratio=2)
    numbers = [Column(name, justify="right") for name in ("prompts", "speedup", "by counting", metric.title, "95 %")]
    title = f"{metric.title.partition(',')[0]} to {outcome.reference}, speedup over {outcome.large}"
    table = Table(wide[0], *numbers, wide[1], box=None, title=title)
    for number, row in enumerate(outcome.found.rows):
        score, within = row.score, mean_of(row.score.values)
        value, low, high = (f"{v:.{metric.decimals}f}" for v in (score.value, within.low, within.high))
        speeds = f"{score.speedup:.2f}", f"{row.counted.speedup:.2f}"
        told = _name(row), str(score.prompts), *speeds, value, f"{low}..{high}", _became(number, row, outcome)
        table.add_row(*told, style="bold" if number == 0 else None)
    return table


def _became(number: int, row: Row, outcome: Outcome) -> str:
    if number == 0:
        return "winner"
    if number >= outcome.found.finalists:
        return f"{row.rejection.ground}: {row.rejection.reason}" if row.rejection else "a probe of its kind's speed"
    lead = outcome.goal.lead(outcome.winner.score, row.score)
    return "finalist" if tells_apart(lead) else "finalist, not told apart from the winner"


def timings_table(outcome: Outcome, rows: int = 8) -> Table:
    """The nearest noise levels and solvers on large alone, and diffusers' own."""
    metric = outcome.winner.score.metric
    table = Table("levels and solver", Column(metric.title, justify="right"), box=None)
    shown = [*outcome.timed[:rows], *(each for each in outcome.timed[rows:] if each.timing == DIFFUSERS)]
    for each in shown:
        table.add_row(str(each.timing), f"{each.score.value:.{metric.decimals}f}")
    return table


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
        "timings": [{**asdict(each.timing), "value": each.score.value} for each in outcome.timed],
        "levers": [asdict(lever) for lever in outcome.levers],
        "before": {"schedule": outcome.before.schedule, "steps": outcome.before.steps},
        "work": str(work),
        "pictures_measured": outcome.measured,
        "measured": [_record(row, number < outcome.found.finalists) for number, row in enumerate(outcome.found.rows)],
        "not_measured": [asdict(r) for r in outcome.found.rejected],
    }


def _record(row: Row, is_finalist: bool) -> dict[str, Any]:
    within = mean_of(row.score.values)
    return {
        "schedule": _name(row),
        "kind": row.counted.candidate.kind,
        "finalist": is_finalist,
        "prompts": row.score.prompts,
        "speedup": row.score.speedup,
        "counted_speedup": row.counted.speedup,
        "value": row.score.value,
        "interval": [within.low, within.high],
        "rejected": asdict(row.rejection) if row.rejection else None,
    }
