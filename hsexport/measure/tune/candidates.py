"""The family of schedules that is searched: what may vary, and over which values.

| kind | segments |
|---|---|
| large | large alone in fewer steps, the control that a mixture has to beat |
| small | small alone, the ceiling of speed |
| large/small, small/large | one switch |
| large/hybrid/small | HybridStitch's order |
| large/region | large on the region alone at the end, its last velocity reused outside |

Every kind comes in both solvers and several numbers of steps; those with a region in several ratios and signals,
large/region also with the text's keys and values cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

SOLVERS = ("euler", "ab2")
SIGNALS = ("gap", "change", "std")
RATIOS = (0.2, 0.3, 0.4, 0.5)
TEXTS = ("live", "cached")

STEP_SHARES = (1, 5 / 7, 4 / 7, 1 / 2, 3 / 7, 5 / 14, 2 / 7)
"""Numbers of steps as shares of large's own: 28, 20, 16, 14, 12, 10 and 8 of 28."""
SWITCHES = tuple(n / 10 for n in range(1, 10))
"""Where one model hands over to the other, as a share of the steps."""
LARGE_SHARES = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
HYBRID_SHARES = (0.15, 0.25, 0.35, 0.5)


@dataclass(frozen=True)
class Policy:
    """How a region is chosen and run."""

    signal: str = SIGNALS[0]
    ratio: float = 0.3
    text: str = TEXTS[0]


@dataclass(frozen=True)
class Candidate:
    """A schedule by what makes it up: modes, their steps, the solver, and a region policy where there is a region."""

    modes: tuple[str, ...]
    steps: tuple[int, ...]
    solver: str = SOLVERS[0]
    policy: Policy | None = None

    @property
    def kind(self) -> str:
        """The modes in order, as the family names them."""
        return "/".join(self.modes)

    @property
    def is_control(self) -> bool:
        """Whether it is large alone."""
        return self.modes == ("large",)

    @property
    def total(self) -> int:
        """All steps."""
        return sum(self.steps)

    @property
    def schedule(self) -> str:
        """The short form; what a runtime of any age takes for granted is left out."""
        segments = ",".join(f"{mode}:{steps}" for mode, steps in zip(self.modes, self.steps, strict=True))
        told = [f"solver={self.solver}"] if self.solver != SOLVERS[0] else []
        if self.policy is not None:
            told += [f"signal={self.policy.signal}", f"ratio={self.policy.ratio:g}"]
            told += [f"text={self.policy.text}"] if self.policy.text != TEXTS[0] else []
        return ";".join(filter(None, [segments, ",".join(told)]))

    @property
    def line(self) -> Candidate:
        """What it shares with candidates that differ only in what they spend; one model alone spends steps."""
        policy = replace(self.policy, ratio=0) if self.policy else None
        return replace(self, steps=(self.total,) if len(self.modes) > 1 else (), policy=policy)

    @property
    def spent(self) -> tuple[float, ...]:
        """What more of brings it nearer: all steps, large's whole ones, these and the region's, the region's ratio."""
        whole = sum(n for mode, n in zip(self.modes, self.steps, strict=True) if mode == "large")
        part = sum(n for mode, n in zip(self.modes, self.steps, strict=True) if mode in ("hybrid", "region"))
        return self.total, whole, whole + part, self.policy.ratio if self.policy else 0


def step_counts(large_steps: int) -> list[int]:
    """The numbers of steps that mixtures come in, most first."""
    return sorted({max(1, round(share * large_steps)) for share in STEP_SHARES}, reverse=True)


def family(large_steps: int) -> list[Candidate]:
    """All candidates beside large in `large_steps` steps; one model alone comes in every number up to that."""
    alone = product(("large", "small"), SOLVERS, range(large_steps, 0, -1))
    found = [Candidate((mode,), (steps,), solver) for mode, solver, steps in alone]
    for total, solver in product(step_counts(large_steps), SOLVERS):
        found += _switches(total, solver)
        found += _with_region(total, solver)
    return list(dict.fromkeys(found))


def differ_in_one(first: Candidate, second: Candidate) -> bool:
    """Whether they have kind and steps in common and differ in one of solver, signal, ratio and text."""
    if (first.modes, first.steps) != (second.modes, second.steps):
        return False
    a, b = first.policy or Policy(), second.policy or Policy()
    pairs = (first.solver, second.solver), (a.signal, b.signal), (a.ratio, b.ratio), (a.text, b.text)
    return sum(x != y for x, y in pairs) == 1


def _switches(total: int, solver: str) -> Iterator[Candidate]:
    for modes, share in product((("large", "small"), ("small", "large")), SWITCHES):
        first = round(share * total)
        if 0 < first < total:
            yield Candidate(modes, (first, total - first), solver)


def _with_region(total: int, solver: str) -> Iterator[Candidate]:
    for share, signal, ratio in product(LARGE_SHARES, SIGNALS, RATIOS):
        first = max(1, round(share * total))
        if first >= total:
            continue
        for text in TEXTS:
            yield Candidate(("large", "region"), (first, total - first), solver, Policy(signal, ratio, text))
        for middle in {max(1, round(part * total)) for part in HYBRID_SHARES}:
            last = total - first - middle
            if last > 0:
                yield Candidate(("large", "hybrid", "small"), (first, middle, last), solver, Policy(signal, ratio))
