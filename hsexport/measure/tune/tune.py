"""Tuning as a sentence: count, search, judge, write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hsengines.errors import HSError
from hsexport.measure.metrics import Metric
from hsexport.measure.prompts import Prompt, prompts_for, shuffled
from hsexport.measure.tune.candidates import family
from hsexport.measure.tune.counting import Counted, count_all
from hsexport.measure.tune.found import Found, Plan, Row
from hsexport.measure.tune.goal import AtLeastAsFast, Goal, TuneError, metric_called
from hsexport.measure.tune.ledger import Conditions, Ledger, subject_of
from hsexport.measure.tune.measuring import Measurer, Setup
from hsexport.measure.tune.search import Search
from hsexport.measure.tune.verdict import sentences
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import open_bundle
from hsruntime.bundle.writer import write_defaults
from hsruntime.facts import Defaults
from hsruntime.options import SessionOptions
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.session import Session

Reference = Literal["converged", "same-steps"]

CONVERGED_STEPS = 100


@dataclass(frozen=True)
class TuneRequest:
    """What a search is asked for."""

    bundle: Path
    goal: Goal
    work: Path
    """Where the ledger and the reference's pictures are kept."""
    metric: str = "psnr"
    reference: Reference = "converged"
    prompts: int = 48
    """That the finalists are measured on; a shorter list gives what it has."""
    prompt_file: Path | None = None
    large_steps: int | None = None
    """What speed 1 is: large in so many steps; None: the bundle's default before it was first tuned."""
    threads: int = 0
    write: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a search found and did."""

    found: Found
    large: str
    reference: str
    before: Defaults
    """The bundle's own defaults before it was ever tuned."""
    sentences: list[str]
    measured: int
    """Pictures measured by this search; the ledger had the others."""
    written: bool

    @property
    def winner(self) -> Row:
        """The best that keeps the constraint."""
        return self.found.rows[0]


def tune(request: TuneRequest, reporter: Reporter) -> Outcome:
    """Searches, and makes the winner the bundle's default.

    Raises TuneError where the constraint cannot be kept, BundleError for a bundle that cannot be trusted. What was
    measured before an interrupt is kept: the same request goes on from there.
    """
    if request.write:
        _check_writable(request.bundle)
    bundle = open_bundle(request.bundle)
    metric = metric_called(request.metric)
    prompts = shuffled(prompts_for(bundle.manifest, request.prompt_file, request.prompts))
    with Ledger(request.work) as ledger, Session(bundle, SessionOptions(threads=request.threads)) as session:
        before = ledger.first_defaults(bundle.manifest)
        steps = request.large_steps or before.steps
        counted, refused = count_all(family(steps), bundle.manifest, steps)
        _check_possible(request.goal, counted)
        setup = _setup(request, session, steps, metric, prompts)
        measurer = Measurer(setup, ledger, reporter)
        found = Search(counted, refused, request.goal, Plan(len(prompts)), measurer).run()
    if request.write:
        _write(request.bundle, bundle.manifest, found.rows[0])
    large, reference = setup.conditions.large, setup.conditions.reference
    told = sentences(found, request.goal, large, reference)
    return Outcome(found, large, reference, before, told, measurer.made, request.write)


def _setup(request: TuneRequest, session: Session, steps: int, metric: Metric, prompts: tuple[Prompt, ...]) -> Setup:
    manifest = session.manifest
    converged = min(CONVERGED_STEPS, manifest.facts.sigmas.levels)
    large = resolve_schedule("large", steps, steps)
    reference = large if request.reference == "same-steps" else resolve_schedule("large", converged, converged)
    conditions = Conditions(subject_of(manifest), request.threads, str(large), str(reference), metric.name)
    folder = request.work / "references"
    return Setup(session, prompts, large, reference, conditions, metric, folder)


def _check_possible(goal: Goal, counted: list[Counted]) -> None:
    """Raises TuneError for a speedup that nothing reaches even by counting."""
    fastest = max(counted, key=lambda c: c.speedup)
    if isinstance(goal, AtLeastAsFast) and fastest.speedup < goal.speedup:
        raise TuneError(
            f"a speedup of {goal.speedup:g} is out of reach: the fastest, {fastest.candidate.schedule}, has "
            f"{fastest.speedup:.2f} by counting operations",
            "ask for less",
        )


def _check_writable(bundle: Path) -> None:
    """Raises HSError before the work rather than after it."""
    if bundle.is_dir() and not (os.access(bundle, os.W_OK) and os.access(bundle.resolve().parent, os.W_OK)):
        raise HSError(f"bundle '{bundle}' cannot be written", "tune a copy, or look without writing: --dry-run")


def _write(path: Path, measured: Manifest, winner: Row) -> None:
    """Makes the winner the default of the very bundle that was measured."""
    now = open_bundle(path, hashes=False).manifest
    if subject_of(now) != subject_of(measured):
        raise HSError(f"bundle '{path}' was replaced while it was measured", "start the search again")
    schedule = winner.counted.schedule
    write_defaults(path, msgspec.structs.replace(now.facts.defaults, schedule=str(schedule), steps=schedule.steps))
