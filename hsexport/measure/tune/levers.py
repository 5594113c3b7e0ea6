"""What each lever gives: noise levels and solver, looked for on large alone, and the winner's speedup taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hsexport.measure.tune.candidates import DIFFUSERS, TIMINGS, Candidate, Counted, Timing, count_all, step_counts
from hsexport.measure.tune.goal import AtLeastAsFast, Goal
from hsexport.measure.tune.measuring import Measurer, Score
from hsruntime.facts import Facts

KEPT = 2
"""Timings that go on to every kind."""
CLOSE_STEPS = 2 / 7
"""Of large's own: where timings are compared if it is a distance that is asked for."""


@dataclass(frozen=True)
class Timed:
    """What a timing is worth to large alone in so many steps."""

    timing: Timing
    score: Score


@dataclass(frozen=True)
class Lever:
    """One part of a speedup: how much faster it made large, or a mixture, at the winner's distance."""

    name: str
    factor: float


def timings_at(facts: Facts, goal: Goal, large_steps: int, prompts: int, measurer: Measurer) -> list[Timed]:
    """All timings on large alone, in as many steps as the goal leaves it or so; nearest first."""
    left = 1 / goal.speedup if isinstance(goal, AtLeastAsFast) else CLOSE_STEPS
    steps = max(2, round(large_steps * left))
    counted = _alone(facts, large_steps, [(timing, steps) for timing in TIMINGS])
    measurer.measure("noise levels, solver", counted, prompts)
    timed = [Timed(c.candidate.timing, measurer.score(c, prompts)) for c in counted]
    return sorted(timed, key=lambda each: float(each.score.errors.mean()))


def to_go_on(timed: Sequence[Timed]) -> list[Timing]:
    """The nearest few, the first of them with the best of another solver where all would have one."""
    first = timed[0].timing
    other = next((each.timing for each in timed[1:] if each.timing.solver != first.solver), timed[1].timing)
    return list(dict.fromkeys([first, other]))[:KEPT]


def waterfall(facts: Facts, winner: Counted, large_steps: int, prompts: int, measurer: Measurer) -> list[Lever]:
    """The winner's measured speedup as a product: fewer steps, then levels, then solver, then what is left.

    Large alone is measured in several numbers of steps with diffusers' own timing, with the winner's levels, and with
    its solver too; between two numbers the steps at the winner's distance are interpolated. A factor is the ratio of
    such steps. Where large never comes as near, it counts with all of its own steps.
    """
    score, timing = measurer.score(winner), winner.candidate.timing
    prompts = min(prompts, score.prompts)
    wanted = float(score.errors[:prompts].mean())
    errors: dict[Timing, dict[int, float]] = {
        DIFFUSERS: {},
        Timing(timing.grid, timing.shift): {},
        timing: {},
    }
    for steps in reversed(step_counts(large_steps)):
        short = [each for each, known in errors.items() if not known or min(known.values()) > wanted]
        counted = _alone(facts, large_steps, [(each, steps) for each in short])
        if counted:
            measurer.measure(f"what each lever gave, {steps} steps", counted, prompts)
        for c in counted:
            errors[c.candidate.timing][steps] = float(measurer.score(c, prompts).errors.mean())
    stages = DIFFUSERS, Timing(timing.grid, timing.shift), timing
    needed = [steps_at(wanted, errors[each], large_steps) for each in stages]
    speeds = [1.0, *(large_steps / steps for steps in needed), score.speedup]
    names = ["fewer steps", "noise levels", "solver", winner.candidate.kind]
    levers = [Lever(name, now / before) for name, before, now in zip(names, speeds, speeds[1:], strict=False)]
    if winner.candidate.is_control:  # what is left is the error of counting and interpolating
        levers[-1] = Lever("measured over counted", levers[-1].factor)
    return levers


def steps_at(wanted: float, errors: dict[int, float], most: int) -> float:
    """How many steps have that error, between the two numbers that enclose it, in the logarithm of steps."""
    falling = sorted(errors.items())
    for (fewer, far), (more, near) in pairwise(falling):
        if far >= wanted >= near and far > near:
            share = (far - wanted) / (far - near)
            return float(np.exp(np.log(fewer) + share * (np.log(more) - np.log(fewer))))
    return float(most if falling[-1][1] > wanted else falling[0][0])


def _alone(facts: Facts, large_steps: int, wanted: Sequence[tuple[Timing, int]]) -> list[Counted]:
    candidates = [Candidate(("large",), (steps,), timing) for timing, steps in wanted]
    return count_all(candidates, facts, large_steps)[0]
