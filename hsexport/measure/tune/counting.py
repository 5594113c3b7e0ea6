"""What counting operations says of candidates before anything runs: which cannot be fast enough, which are outdone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import median
from typing import Literal

from hsexport.measure.tune.candidates import Candidate
from hsexport.measure.turns import counted_speedup
from hsruntime.bundle.manifest import Manifest
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule, ScheduleError

MARGIN = 1.02
"""How much faster than asked for a candidate must be expected, so that it survives being measured."""

Ground = Literal["refused", "too slow", "outdone", "left out", "too far", "worse"]


@dataclass(frozen=True)
class Counted:
    """A candidate that the runtime takes, and its speedup over large alone in its own number of steps, by counting."""

    candidate: Candidate
    schedule: Schedule
    speedup: float


@dataclass(frozen=True)
class Rejection:
    """Why a candidate went no further."""

    schedule: str
    kind: str
    ground: Ground
    reason: str


@dataclass(frozen=True)
class Correction:
    """Measured speedup over counted, by kind and solver: what this machine makes of counting."""

    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def expected(self, counted: Counted) -> float:
        """The speedup to expect here."""
        candidate = counted.candidate
        return counted.speedup * self.factors.get((candidate.kind, candidate.solver), 1.0)


def count_all(
    candidates: Iterable[Candidate], manifest: Manifest, large_steps: int
) -> tuple[list[Counted], list[Rejection]]:
    """Resolves and counts; what the runtime refuses is rejected in its own words."""
    counted, rejected = [], []
    for candidate in candidates:
        try:
            schedule = resolve_schedule(candidate.schedule, None, large_steps)
        except ScheduleError as err:
            rejected.append(rejection(candidate, "refused", f"this runtime does not run it: {err.message}"))
            continue
        counted.append(Counted(candidate, schedule, counted_speedup(manifest.facts, schedule, large_steps)))
    return counted, rejected


def rejection(candidate: Candidate, ground: Ground, reason: str) -> Rejection:
    """A candidate's rejection."""
    return Rejection(candidate.schedule, candidate.kind, ground, reason)


def correction_from(pairs: Iterable[tuple[Counted, float]]) -> Correction:
    """From candidates and their measured speedups."""
    found = defaultdict(list)
    for counted, measured in pairs:
        found[counted.candidate.kind, counted.candidate.solver].append(measured / counted.speedup)
    return Correction({key: median(factors) for key, factors in found.items()})


def one_of_each_kind(counted: Iterable[Counted], at_least: float) -> list[Counted]:
    """For every kind and solver the one counted nearest above a speedup, else the fastest."""
    groups = defaultdict(list)
    for c in counted:
        groups[c.candidate.kind, c.candidate.solver].append(c)
    nearest = []
    for group in groups.values():
        fast = [c for c in group if c.speedup >= at_least]
        nearest.append(min(fast, key=lambda c: c.speedup) if fast else max(group, key=lambda c: c.speedup))
    return nearest


def fast_enough(
    counted: Iterable[Counted], at_least: float, correction: Correction
) -> tuple[list[Counted], list[Rejection]]:
    """Parts those that can be expected to reach a speedup from the others."""
    kept, rejected = [], []
    for c in counted:
        expected = correction.expected(c)
        if expected >= at_least * MARGIN:
            kept.append(c)
        else:
            here = "" if abs(expected - c.speedup) < 0.005 else f", {expected:.2f} as its kind runs here"
            reason = f"{c.speedup:.2f} by counting{here}; {at_least:.4g} wanted, {MARGIN - 1:.0%} to spare"
            rejected.append(rejection(c.candidate, "too slow", reason))
    return kept, rejected


def not_outdone(fast: Iterable[Counted]) -> tuple[list[Counted], list[Rejection]]:
    """Leaves out whatever spends no more on anything than another of its line that is fast enough as well."""
    lines = defaultdict(list)
    for c in fast:
        lines[c.candidate.line].append(c)
    kept, rejected = [], []
    for line in lines.values():
        for c in line:
            better = next((o for o in line if _spends_more(o.candidate, c.candidate)), None)
            if better is None:
                kept.append(c)
            else:
                reason = f"{better.candidate.schedule} spends more and is fast enough too"
                rejected.append(rejection(c.candidate, "outdone", reason))
    return kept, rejected


def _spends_more(first: Candidate, second: Candidate) -> bool:
    pairs = list(zip(first.spent, second.spent, strict=True))
    return first != second and all(a >= b for a, b in pairs)


def spread(field_: Iterable[Counted], most: int) -> tuple[list[Counted], list[Rejection]]:
    """At most so many, from each kind in turn, and within a kind from each number of steps in turn, slowest first."""
    kinds = defaultdict(lambda: defaultdict(list))  # type: ignore[var-annotated]
    for c in sorted(field_, key=lambda c: c.speedup):
        kinds[c.candidate.kind][c.candidate.total, c.candidate.solver].append(c)
    ordered = list(_in_turn([list(_in_turn(list(kind.values()))) for kind in kinds.values()]))
    reason = f"{most} are measured at first; it may come back beside one that does well"
    return ordered[:most], [rejection(c.candidate, "left out", reason) for c in ordered[most:]]


def _in_turn(rows: list[list[Counted]]) -> Iterable[Counted]:
    return [c for column in zip_longest(*rows) for c in column if c is not None]
