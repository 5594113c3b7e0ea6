"""The family of schedules that is searched: what may vary, and over which values.

| kind | segments |
|---|---|
| large | large alone in fewer steps, the control that a mixture has to beat |
| small | small alone, the ceiling of speed |
| large/small, small/large | one switch |
| large/hybrid/small | HybridStitch's order |
| large/region | large on the region alone at the end, its last velocity reused outside |
| large/skip, large/light | a few whole steps of large, then in turns some without a network, or of its outer blocks |
| large/refined | large on the region beside its outer blocks on everything, every third step whole |

Every kind comes at several noise levels and solvers (`Timing`) and numbers of steps; large alone also with guidance in
an interval of noise levels, those with a region in several ratios and signals, large/region also with the text's keys
and values cached.

Counting operations says before anything runs which of them cannot be fast enough, and which are dominated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import cycle, groupby, islice, product, zip_longest
from statistics import median
from typing import Literal

from hsexport.measure.turns import counted_speedup
from hsruntime.facts import Facts
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.schedule import Schedule, ScheduleError, folded

SIGNALS = ("gap", "change", "std")
RATIOS = (0.2, 0.3, 0.4, 0.5)
TEXTS = ("live", "cached")

STEP_SHARES = (1, 5 / 7, 4 / 7, 1 / 2, 3 / 7, 5 / 14, 2 / 7, 3 / 14, 1 / 7)
"""Numbers of steps as shares of large's own: 28, 20, 16, 14, 12, 10, 8, 6 and 4 of 28."""
SWITCHES = tuple(n / 10 for n in range(1, 10))  # where one model hands over to the other, as a share of the steps
LARGE_SHARES = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
HYBRID_SHARES = (0.15, 0.25, 0.35, 0.5)
WHOLE_FIRST = (2, 3, 4)  # steps of large before any is skipped or light
IN_A_ROW = (1, 2)  # skipped or light ones between two whole ones
INTERVALS = ((0.0, 0.97), (0.0, 0.9), (0.2, 1.0), (0.2, 0.97))
"""Of noise levels with guidance: without the first step or so, the first few, the last few."""


@dataclass(frozen=True)
class Timing:
    """Which noise levels the steps lie at, and how they are taken; by default as diffusers does it."""

    grid: str = "diffusers"
    shift: float | None = None  # None: the pair's own
    solver: str = "euler"

    @property
    def told(self) -> list[str]:
        """What differs from diffusers' own, in the short form's words."""
        grid = [f"grid={self.grid}"] if self.grid != "diffusers" else []
        shift = [f"shift={self.shift:g}"] if self.shift is not None else []
        return [f"solver={self.solver}"] * (self.solver != "euler") + grid + shift

    def __str__(self) -> str:
        return ", ".join(self.told) or "diffusers' levels, Euler"


DIFFUSERS = Timing()
GRIDS = (
    ("diffusers", None), ("diffusers", 2.0), ("trailing", None), ("trailing", 2.0), ("trailing", 2.5),
    ("trailing", 4.0), ("karras", None), ("exponential", None), ("beta", None), ("beta", 2.0),
)  # fmt: skip
TIMINGS = tuple(Timing(grid, shift, solver) for grid, shift in GRIDS for solver in ("euler", "ab2", "dpmpp_2m"))
"""All that are tried on large alone; the best go on to every kind."""


@dataclass(frozen=True)
class Policy:
    """How a region is chosen and run."""

    signal: str = SIGNALS[0]
    ratio: float = 0.3
    text: str = TEXTS[0]
    refresh: int = 0


@dataclass(frozen=True)
class Candidate:
    """A schedule by what makes it up: modes, their steps, timing, and a region policy where there is a region."""

    modes: tuple[str, ...]
    steps: tuple[int, ...]
    timing: Timing = DIFFUSERS
    policy: Policy | None = None
    interval: tuple[float, float] | None = None
    """Of noise levels with guidance; None for all."""
    order: int = 1
    """Of skipped steps."""

    @property
    def kind(self) -> str:
        """The modes in order, as the family names them: each once where they take turns, and so an interval."""
        modes = tuple(dict.fromkeys(self.modes)) if {"skip", "light"} & set(self.modes) else self.modes
        return "/".join(modes) + (", guidance in an interval" if self.interval else "")

    @property
    def sort(self) -> tuple[str, str]:
        """What counting errs alike on: kind and solver."""
        return self.kind, self.timing.solver

    @property
    def is_control(self) -> bool:
        """Whether it is large alone, guided throughout."""
        return self.modes == ("large",) and self.interval is None

    @property
    def total(self) -> int:
        """All steps."""
        return sum(self.steps)

    @property
    def schedule(self) -> str:
        """The short form; what a runtime of any age takes for granted is left out."""
        runs = zip(self.modes, self.steps, strict=True)
        segments = ",".join(folded([f"{mode}:{steps}" for mode, steps in runs]))
        told = self.timing.told
        told += [f"guidance={self.interval[0]:g}/{self.interval[1]:g}"] if self.interval else []
        told += [f"order={self.order}"] if self.order != 1 else []
        if self.policy is not None:
            told += [f"signal={self.policy.signal}", f"ratio={self.policy.ratio:g}"]
            told += [f"text={self.policy.text}"] if self.policy.text != TEXTS[0] else []
            told += [f"refresh={self.policy.refresh}"] if self.policy.refresh else []
        return ";".join(filter(None, [segments, ",".join(told)]))

    @property
    def choices(self) -> tuple[object, ...]:
        """All that is chosen beside modes and steps."""
        return (*astuple(self.timing), *astuple(self.policy or Policy()), self.interval, self.order)

    @property
    def line(self) -> tuple[object, ...]:
        """What it shares with candidates that differ only in what they spend; one model alone spends steps."""
        policy = replace(self.policy, ratio=0) if self.policy else None
        return self.kind, self.total if len(self.modes) > 1 else 0, self.timing, policy, self.interval, self.order

    @property
    def spent(self) -> tuple[float, ...]:
        """What more of brings it nearer: all steps, large's whole ones, these and the region's, the region's ratio."""
        runs = list(zip(self.modes, self.steps, strict=True))
        whole = sum(n for mode, n in runs if mode == "large")
        part = sum(n for mode, n in runs if mode in ("hybrid", "region", "refined"))
        return self.total, whole, whole + part, self.policy.ratio if self.policy else 0


def step_counts(large_steps: int) -> list[int]:
    """The numbers of steps that mixtures come in, most first."""
    return sorted({max(1, round(share * large_steps)) for share in STEP_SHARES}, reverse=True)


def family(large_steps: int, timings: Sequence[Timing], facts: Facts) -> list[Candidate]:
    """All candidates beside large in `large_steps` steps; one model alone comes in every number up to that."""
    alone = product(facts.members, timings, range(large_steps, 0, -1))
    found = [Candidate((mode,), (steps,), timing) for mode, timing, steps in alone]
    for timing, interval, steps in product(timings, INTERVALS, range(large_steps, 3, -1)):
        found.append(Candidate(("large",), (steps,), timing, interval=interval))
    for total, timing in product(step_counts(large_steps), timings):
        found += _in_turns("skip", total, timing, (0, 1))
        found += _in_turns("light", total, timing, (1,)) if facts.light else []
        found += _switches(total, timing) if facts.small else []
        found += _with_region(total, timing, facts)
    return list(dict.fromkeys(found))


def differ_in_one(first: Candidate, second: Candidate) -> bool:
    """Whether they have modes and steps in common and differ in one other choice."""
    if (first.modes, first.steps) != (second.modes, second.steps):
        return False
    return sum(x != y for x, y in zip(first.choices, second.choices, strict=True)) == 1


def _in_turns(mode: str, total: int, timing: Timing, orders: Sequence[int]) -> Iterator[Candidate]:
    for first, row, order in product(WHOLE_FIRST, IN_A_ROW, orders):
        turns = [*["large"] * first, *islice(cycle([mode] * row + ["large"]), max(0, total - first))]
        if total > first + 1:
            runs = [(name, len(list(run))) for name, run in groupby([*turns[: total - 1], "large"])]
            modes, steps = zip(*runs, strict=True)
            yield Candidate(modes, steps, timing, order=order)


def _switches(total: int, timing: Timing) -> Iterator[Candidate]:
    for modes, share in product((("large", "small"), ("small", "large")), SWITCHES):
        first = round(share * total)
        if 0 < first < total:
            yield Candidate(modes, (first, total - first), timing)


def _with_region(total: int, timing: Timing, facts: Facts) -> Iterator[Candidate]:
    for share, signal, ratio in product(LARGE_SHARES, SIGNALS, RATIOS):
        first = max(1, round(share * total))
        if first >= total:
            continue
        for text in TEXTS if facts.small or signal != "gap" else ():
            yield Candidate(("large", "region"), (first, total - first), timing, Policy(signal, ratio, text))
        if facts.light and signal != "change":
            policy = Policy(signal, ratio, refresh=2)
            yield Candidate(("large", "refined"), (first, total - first), timing, policy)
        for middle in {max(1, round(part * total)) for part in HYBRID_SHARES} if facts.small else ():
            last = total - first - middle
            if last > 0:
                yield Candidate(("large", "hybrid", "small"), (first, middle, last), timing, Policy(signal, ratio))


MARGIN = 1.02  # how much faster than asked for a candidate must be expected, so that it survives being measured

Ground = Literal["refused", "too slow", "dominated", "left out", "too far", "worse"]


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


Parted = tuple[list[Counted], list[Rejection]]  # what goes on, and what does not


@dataclass(frozen=True)
class Correction:
    """Measured speedup over counted, by kind and solver: what this machine makes of counting."""

    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def expected(self, counted: Counted) -> float:
        """The speedup to expect here."""
        return counted.speedup * self.factors.get(counted.candidate.sort, 1.0)


def count_all(candidates: Iterable[Candidate], facts: Facts, large_steps: int) -> Parted:
    """Resolves and counts, each schedule once; what the runtime refuses is rejected in its own words."""
    counted, rejected, seen = [], [], set()
    for candidate in candidates:
        try:
            schedule = schedule_for(facts, candidate.schedule)
            if (told := str(schedule)) not in seen:  # an interval may lie around all noise levels
                seen.add(told)
                counted.append(Counted(candidate, schedule, counted_speedup(facts, schedule, large_steps)))
        except ScheduleError as err:
            rejected.append(rejection(candidate, "refused", f"this runtime does not run it: {err.message}"))
    return counted, rejected


def rejection(candidate: Candidate, ground: Ground, reason: str) -> Rejection:
    """A candidate's rejection."""
    return Rejection(candidate.schedule, candidate.kind, ground, reason)


def correction_from(pairs: Iterable[tuple[Counted, float]]) -> Correction:
    """From candidates and their measured speedups."""
    found = defaultdict(list)
    for counted, measured in pairs:
        found[counted.candidate.sort].append(measured / counted.speedup)
    return Correction({key: median(factors) for key, factors in found.items()})


def one_of_each_kind(counted: Iterable[Counted], at_least: float) -> list[Counted]:
    """For every kind and solver the one counted nearest above a speedup, else the fastest."""
    groups = defaultdict(list)
    for c in counted:
        groups[c.candidate.sort].append(c)
    fast = ([c for c in group if c.speedup >= at_least] for group in groups.values())
    nearest = (min(found, key=lambda c: c.speedup, default=None) for found in fast)
    return [c or max(group, key=lambda c: c.speedup) for c, group in zip(nearest, groups.values(), strict=True)]


def fast_enough(counted: Iterable[Counted], at_least: float, correction: Correction) -> Parted:
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


def not_dominated(fast: Iterable[Counted]) -> Parted:
    """Leaves out whatever spends no more on anything than another of its line that is fast enough as well."""
    lines = defaultdict(list)
    for c in fast:
        lines[c.candidate.line].append(c)
    kept, rejected = [], []
    for c in (c for line in lines.values() for c in line):
        others = (o.candidate for o in lines[c.candidate.line])
        better = next((other for other in others if _spends_more(other, c.candidate)), None)
        if better is None:
            kept.append(c)
        else:
            reason = f"{better.schedule} spends more and is fast enough too"
            rejected.append(rejection(c.candidate, "dominated", reason))
    return kept, rejected


def _spends_more(first: Candidate, second: Candidate) -> bool:
    return first != second and all(a >= b for a, b in zip(first.spent, second.spent, strict=True))


def spread(counted: Iterable[Counted], most: int) -> Parted:
    """At most so many, from each kind in turn, and within a kind from each number of steps in turn, slowest first."""
    kinds = defaultdict(lambda: defaultdict(list))  # type: ignore[var-annotated]
    for c in sorted(counted, key=lambda c: c.speedup):
        kinds[c.candidate.kind][c.candidate.total, c.candidate.timing].append(c)
    ordered = _in_turn([_in_turn(list(kind.values())) for kind in kinds.values()])
    reason = f"{most} are measured at first; it may come back beside one that does well"
    return ordered[:most], [rejection(c.candidate, "left out", reason) for c in ordered[most:]]


def _in_turn(rows: list[list[Counted]]) -> list[Counted]:
    return [c for column in zip_longest(*rows) for c in column if c is not None]
