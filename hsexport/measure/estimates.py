"""Estimates over prompts or rounds with 95 % intervals, by bootstrap: they are drawn anew, with replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONFIDENCE_PERCENT = 95
RESAMPLES = 2000
FEW_RESAMPLES = 200
"""For statistics that take milliseconds each."""
NORMAL_97_5 = 1.959964  # standard deviations to the normal distribution's 97.5th percentile


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
