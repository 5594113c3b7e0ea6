"""Successive halving: few prompts for many candidates, all prompts for few."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from hsexport.measure.tune.candidates import (
    Candidate,
    Correction,
    Counted,
    Ground,
    Rejection,
    correction_from,
    differ_in_one,
    fast_enough,
    not_dominated,
    one_of_each_kind,
    rejection,
    spread,
)
from hsexport.measure.tune.goal import AtLeastAsClose, AtLeastAsFast, Goal, TuneError
from hsexport.measure.tune.measuring import Measurer, Score

PROBE_PROMPTS = 3
FIELD = 24  # candidates in the first round
NEIGHBOURS = 12  # candidates that join beside those that do well
FINALISTS = 3
MOST_CONTROLS = 4  # numbers of steps of large alone that are tried before it is said that none keeps the constraint
LEVELS = 6  # halvings of the range of speedups when the greatest is looked for: to within 7 % of it, from 1 to 100
SLOWEST_LEVEL = 1.05


@dataclass(frozen=True)
class Row:
    """One measured candidate as the search left it."""

    counted: Counted
    score: Score
    rejection: Rejection | None


@dataclass(frozen=True)
class Found:
    """What a search came to: rows best first, the finalists that keep the constraint in front."""

    rows: list[Row]
    finalists: int
    rejected: list[Rejection]  # what was never measured, or only measured to be dropped


class Search:
    """One search over one set of counted candidates; finalists get `prompts`, the first two rounds fewer."""

    def __init__(
        self, counted: Sequence[Counted], rejected: Iterable[Rejection], goal: Goal, prompts: int, measurer: Measurer
    ) -> None:
        self._counted = list(counted)
        self._goal = goal
        self._prompts = prompts
        self._few, self._some = shares_of(prompts)
        self._measurer = measurer
        self._rejected = {r.schedule: r for r in rejected}
        self._met: dict[Candidate, Counted] = {}
        self._correction = Correction()

    def run(self) -> Found:
        """Searches to the end. Raises TuneError where nothing keeps the constraint."""
        if isinstance(self._goal, AtLeastAsFast):
            self._probe(self._goal.speedup)
            field = self._measured_and_standing("first", self._first_field(self._goal.speedup, FIELD), self._few)
        else:
            field = self._levels()
        field = self._halved(field, ceil(len(field) / 2))
        field += self._measured_and_standing("beside", self._neighbours(field), self._few)
        field = self._halved(field, 2 * FINALISTS + 2)
        field = self._measured_and_standing("second", field, self._some)
        return self._finals(sorted(field, key=self._loss_on(self._some)))

    def _first_field(self, at_least: float, most: int) -> list[Counted]:
        """What counting, corrected by the probe, leaves at a speedup."""
        fast, slow = fast_enough(self._counted, at_least, self._correction)
        kept, dominated = not_dominated(fast)
        field, left_out = spread(kept, most)
        self._rejected |= {r.schedule: r for r in (*slow, *dominated, *left_out)}
        return self._readmitted(field)

    def _probe(self, at_least: float) -> None:
        """Learns how far counting is off here: one candidate of each kind and solver near the speedup."""
        mixed = [c for c in self._counted if not c.candidate.is_control]  # of large alone counting is right
        probes, prompts = one_of_each_kind(mixed, at_least), min(PROBE_PROMPTS, self._prompts)
        self._measure("probe", probes, prompts)
        self._correction = correction_from((c, self._measurer.score(c, prompts).speedup) for c in probes)

    def _levels(self) -> list[Counted]:
        """Closes in on the greatest speedup at which some candidate is close enough on few prompts."""
        pool = dict[Candidate, Counted]()
        low, high = SLOWEST_LEVEL, max(c.speedup for c in self._counted)
        self._probe(sqrt(low * high))
        for level in (low, *[0.0] * LEVELS):
            at_least = level or sqrt(low * high)
            field = self._first_field(at_least, max(1, FIELD // 3))
            self._measure(f"x{at_least:.2f}", field, self._few)
            pool |= {c.candidate: c for c in field}
            if any(self._goal.failure(self._measurer.score(c, self._few)) is None for c in field):
                low = at_least
            elif level:
                break  # what is too far at the slowest level is so at all others
            else:
                high = at_least
        return self._readmitted(self._standing(list(pool.values()), self._few))

    def _measure(self, stage: str, field: Sequence[Counted], prompts: int) -> None:
        self._measurer.measure(stage, field, prompts)
        self._met |= {c.candidate: c for c in field}

    def _measured_and_standing(self, stage: str, field: Sequence[Counted], prompts: int) -> list[Counted]:
        self._measure(stage, field, prompts)
        return self._standing(field, prompts)

    def _standing(self, field: Sequence[Counted], prompts: int) -> list[Counted]:
        """Those that keep the constraint on so many prompts; as long as they are not all, those that still may."""
        kept = []
        for c in field:
            score = self._measurer.score(c, prompts)
            failure = self._goal.failure(score)
            if failure is not None and (prompts == self._prompts or self._goal.is_hopeless(score)):
                self._reject(c, *failure)
            else:
                kept.append(c)
        return kept

    def _halved(self, field: Sequence[Counted], count: int) -> list[Counted]:
        """The better ones on few prompts; the best of large alone and the best mixture stay in any case."""
        ordered = sorted(field, key=self._loss_on(self._few))
        kept = with_both_sorts(ordered, count)
        self._reject_as_worse([c for c in ordered if c not in kept], ordered[0] if ordered else None, self._few)
        return kept

    def _reject_as_worse(self, field: Iterable[Counted], best: Counted | None, prompts: int) -> None:
        for c in field:
            assert best
            own, other = self._measurer.score(c, prompts), self._measurer.score(best, prompts)
            if isinstance(self._goal, AtLeastAsClose):
                told = f"{own.speedup:.2f} times as fast on {prompts} prompts, the fastest {other.speedup:.2f}"
            else:
                gap = own.metric.shown_difference(self._goal.lead(other, own).value)
                told = f"behind the best by {gap} on {prompts} prompts"
            self._reject(c, "worse", told)

    def _neighbours(self, field: Sequence[Counted]) -> list[Counted]:
        """Candidates that differ in one choice from one that stands, in the order of those; never measured yet."""
        slowest = min((self._correction.expected(c) for c in field), default=1.0)
        at_least = self._goal.speedup if isinstance(self._goal, AtLeastAsFast) else slowest
        fast, _ = fast_enough(self._counted, at_least, self._correction)
        fresh = [c for c in fast if c.candidate not in self._met]
        found = [c for stands in field for c in fresh if differ_in_one(c.candidate, stands.candidate)]
        return self._readmitted(list({c.candidate: c for c in found}.values())[:NEIGHBOURS])

    def _finals(self, queue: list[Counted]) -> Found:
        """Measures the next few on all prompts until some keep the constraint."""
        queue += sorted((c for c in self._met.values() if self._is_worse(c)), key=self._loss_on(self._few))
        number = 0
        while queue:
            number += 1
            entered = with_both_sorts(queue, FINALISTS)
            queue = [c for c in queue if c not in entered]
            stage = "finals" if number == 1 else f"finals {number}"
            standing = self._measured_and_standing(stage, entered, self._prompts)
            if standing:
                standing += self._control_for(standing)
                self._reject_as_worse([c for c in queue if not self._is_worse(c)], entered[0], self._some)
                return self._found(sorted(standing, key=self._loss_on(self._prompts)))
        raise TuneError(*self._nothing())

    def _control_for(self, finalists: Sequence[Counted]) -> list[Counted]:
        """Large alone, where none is among the finalists: the next fewer steps that do keep the constraint."""
        if any(c.candidate.is_control for c in finalists):
            return []
        scores = {c.candidate: self._measurer.score(c) for c in self._counted if c.candidate.is_control}
        failed = {candidate for candidate, s in scores.items() if s.prompts and self._goal.failure(s)}
        fewer = sorted((c for c in self._counted if c.candidate in scores.keys() - failed), key=lambda c: -c.speedup)
        if isinstance(self._goal, AtLeastAsFast):
            fewer = [c for c in reversed(fewer) if c.speedup >= self._goal.speedup]
        for c in fewer[:MOST_CONTROLS]:
            if standing := self._measured_and_standing("control", [c], self._prompts):
                return self._readmitted(standing)
        return []

    def _found(self, finalists: list[Counted]) -> Found:
        others = sorted((c for c in self._met.values() if c not in finalists), key=self._loss_on(None))
        others.sort(key=lambda c: -self._measurer.score(c).prompts)
        rows = [Row(c, self._measurer.score(c), self._rejected.get(c.candidate.schedule)) for c in finalists + others]
        measured = {row.counted.candidate.schedule for row in rows}
        return Found(rows, len(finalists), [r for s, r in self._rejected.items() if s not in measured])

    def _nothing(self) -> tuple[str, str]:
        """What came nearest to the constraint, and what to do."""
        scores = [self._measurer.score(c) for c in self._met.values()]
        if isinstance(self._goal, AtLeastAsClose) and scores:
            best = min(scores, key=lambda s: float(s.errors.mean()))
            nearest = best.metric.shown(best.value)
            return f"nothing faster than large alone was found close enough; the nearest has {nearest}", "allow more"
        fastest = max((s.speedup for s in scores), default=0.0)
        return f"nothing measured was fast enough; the fastest reached {fastest:.2f}", "ask for less"

    def _is_worse(self, counted: Counted) -> bool:
        """Whether it was dropped for nothing but a better one."""
        rejected = self._rejected.get(counted.candidate.schedule)
        return rejected is not None and rejected.ground == "worse"

    def _loss_on(self, prompts: int | None) -> Callable[[Counted], tuple[bool, float]]:
        """Sorts by what is minimised, near misses of the constraint behind all others."""

        def loss(counted: Counted) -> tuple[bool, float]:
            score = self._measurer.score(counted, prompts)
            return self._goal.failure(score) is not None, self._goal.loss(score)

        return loss

    def _readmitted(self, field: list[Counted]) -> list[Counted]:
        for c in field:
            self._rejected.pop(c.candidate.schedule, None)
        return field

    def _reject(self, counted: Counted, ground: Ground, reason: str) -> None:
        rejected = rejection(counted.candidate, ground, reason)
        self._rejected[rejected.schedule] = rejected


def shares_of(prompts: int) -> tuple[int, int]:
    """How many of all prompts the first round has, and the second."""
    return min(prompts, max(2, round(prompts / 8))), min(prompts, max(3, round(prompts / 3)))


def with_both_sorts(ordered: Sequence[Counted], count: int) -> list[Counted]:
    """The first `count`, then the first of large alone and the first mixture where those are not among them."""
    kept = list(ordered[:count])
    for is_control in (True, False):
        first = next((c for c in ordered if c.candidate.is_control == is_control), None)
        if first is not None and first not in kept:
            kept.append(first)
    return kept
