"""Rounds in turns: every contestant once a round, so that what slows the machine slows all; ratios within a round.

Estimates over rounds or prompts have 95 % intervals, by bootstrap: they are drawn anew, with replacement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from hsengines.null.backend import NullBackend
from hsexport.measure.prompts import PROMPT
from hsruntime import Session
from hsruntime.facts import Facts
from hsruntime.schedule.arithmetic import predicted_speedup
from hsruntime.schedule.schedule import Schedule

Answer = TypeVar("Answer")
CONFIDENCE_PERCENT = 95
RESAMPLES = 2000
FEW_RESAMPLES = 200  # for statistics that take milliseconds each
NORMAL_97_5 = 1.959964  # standard deviations to the normal distribution's 97.5th percentile


def play(calls: Mapping[str, Callable[[], Answer]], number: int) -> dict[str, Answer]:
    """One round in an order that its number draws; the answers in the order of `calls`."""
    names = list(calls)
    order = np.random.default_rng(number).permutation(len(names))
    answers = {names[i]: calls[names[i]]() for i in order}
    return {name: answers[name] for name in names}


def in_turns(calls: Mapping[str, Callable[[], Answer]], rounds: int) -> list[dict[str, Answer]]:
    """What the calls answered, round by round, after a round that warms up."""
    return [play(calls, number) for number in range(rounds + 1)][1:]


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def column(rounds: Sequence[Mapping[str, Any]], name: str, field: str = "") -> np.ndarray:
    """One contestant's answers (rounds,), or a field of each."""
    return np.array([getattr(each[name], field) if field else each[name] for each in rounds])


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every contestant's times."""
    return {name: float(np.median(column(rounds, name))) for name in rounds[0]}


def speedups(reference: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The reference's time over one's own, each within its round (rounds,)."""
    return reference / own


def counted_speedup(facts: Facts, schedule: Schedule, large_steps: int) -> float:
    """What counting operations promises over large alone in `large_steps` steps, whatever the schedule's own number."""
    return predicted_speedup(schedule, facts) * large_steps / schedule.steps


def schedule_times(session: Session, schedules: Mapping[str, Schedule], rounds: int) -> list[dict[str, Any]]:
    """Of each schedule the median of whole pictures and of loops, and the loop's speedup over the first schedule's.

    That is large alone, the reference; `predicted` is the same by counting operations.
    """
    calls = {name: partial(session.generate, PROMPT, seed=0, schedule=s) for name, s in schedules.items()}
    played, rows = in_turns(calls, rounds), []
    first, facts = next(iter(schedules)), session.manifest.facts
    for name, schedule in schedules.items():
        loop = column(played, name, "loop_seconds")
        row = {
            "picture_ms": 1000 * np.median(column(played, name, "seconds")),
            "loop_ms": 1000 * np.median(loop),
            "speedup": np.median(speedups(column(played, first, "loop_seconds"), loop)),
            "predicted": counted_speedup(facts, schedule, schedules[first].steps),
        }
        rows.append({"name": name, "schedule": str(schedule), **{key: float(value) for key, value in row.items()}})
    return rows


def outside_engines(session: Session, rounds: int) -> tuple[float, float]:
    """Seconds of the default schedule's loop with engines that do nothing, and as it is."""
    with Session(session.bundle, backend=NullBackend()) as empty:
        sessions = {"empty": empty, "whole": session}
        calls = {name: partial(each.generate, PROMPT, seed=0) for name, each in sessions.items()}
        played = in_turns(calls, rounds)
    found = (float(np.median(column(played, name, "loop_seconds"))) for name in calls)
    return next(found), next(found)


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval."""

    value: float
    low: float
    high: float


def median_of(values: np.ndarray) -> Estimate:
    """The median of (count,) values, percentile interval."""
    return _percentile(values, np.median)


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of (count,) values, percentile interval."""
    return _percentile(values, np.mean)


def middle_half(values: np.ndarray) -> tuple[float, float]:
    """The quartiles that half of the values lie between."""
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)


def standard_error_interval(statistic: Callable[[np.ndarray], float], count: int) -> Estimate:
    """`statistic` of the rows 0..count-1, give or take 1.96 standard deviations over resampled rows.

    For statistics that duplicates bias, as they do a Frechet distance: the percentiles of its resamples all lie too
    high, their spread does not.
    """
    value = statistic(np.arange(count))
    resampled = [statistic(rows) for rows in _draws(count, FEW_RESAMPLES)]
    reach = NORMAL_97_5 * float(np.std(resampled, ddof=1))
    return Estimate(value, max(value - reach, 0.0), value + reach)


def _percentile(values: np.ndarray, statistic: Callable[..., np.ndarray]) -> Estimate:
    resampled = statistic(values[_draws(len(values), RESAMPLES)], axis=1)
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    value = float(statistic(values))
    return Estimate(value, min(float(low), value), max(float(high), value))  # equal values round either way


def _draws(count: int, resamples: int) -> np.ndarray:
    """Rows (resamples, count); the same for every schedule, so that the luck of the draw is shared."""
    return np.random.default_rng(0).integers(0, count, (resamples, count))
