"""The two constraints a search can run under, and how candidates are judged by what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsengines.errors import HSError
from hsexport.measure.pictures import METRICS, Metric
from hsexport.measure.tune.candidates import Ground
from hsexport.measure.tune.measuring import Score
from hsexport.measure.turns import Estimate, mean_of, median_of

Failure = tuple[Ground, str] | None  # on what ground, and in which words, a measured candidate breaks a constraint


class TuneError(HSError):
    """A search that cannot be run, or that finds nothing."""


@dataclass(frozen=True)
class AtLeastAsFast:
    """The least distance at a speedup of at least `speedup`."""

    speedup: float

    def failure(self, score: Score) -> Failure:
        """Too slow, by the measured median."""
        if score.speedup >= self.speedup:
            return None
        return "too slow", f"measured {score.speedup:.2f} on {score.prompts} prompts; {self.speedup:g} wanted"

    def is_hopeless(self, score: Score) -> bool:
        """Whether even the good end of the speedup's 95 % interval breaks it: few prompts decide no near miss."""
        return median_of(score.speedups).high < self.speedup

    def loss(self, score: Score) -> float:
        """What is minimised among those that keep it: the mean distance."""
        return float(score.errors.mean())

    def lead(self, better: Score, other: Score) -> Estimate:
        """How far one leads another in distance, paired over the prompts that both were measured on."""
        shared = min(better.prompts, other.prompts)
        return mean_of(other.errors[:shared] - better.errors[:shared])


@dataclass(frozen=True)
class AtLeastAsClose:
    """The greatest speedup at a mean distance of at most `limit`, in the metric's own direction."""

    limit: float

    def failure(self, score: Score) -> Failure:
        """Too far, by the mean over the prompts; no faster than large itself is a failure, too."""
        if float(score.errors.mean()) > score.metric.turned(self.limit):
            found, wanted = (score.metric.shown(v) for v in (score.value, self.limit))
            return "too far", f"{found} on {score.prompts} prompts; {wanted} wanted"
        if score.speedup <= 1:
            return "too slow", f"measured {score.speedup:.2f} on {score.prompts} prompts, no faster than large alone"
        return None

    def is_hopeless(self, score: Score) -> bool:
        """The same by the distance."""
        return mean_of(score.errors).low > score.metric.turned(self.limit)

    def loss(self, score: Score) -> float:
        """The inverse of the measured speedup."""
        return 1 / score.speedup

    def lead(self, better: Score, other: Score) -> Estimate:
        """In speedup."""
        shared = min(better.prompts, other.prompts)
        return median_of(better.speedups[:shared] - other.speedups[:shared])


Goal = AtLeastAsFast | AtLeastAsClose


@dataclass(frozen=True)
class WithinBudget:
    """The least distance at a loop of at most so many milliseconds: a speedup, once it is known what large takes."""

    milliseconds: float


def goal_from(
    min_speedup: float | None, max_distance: float | None, budget_ms: float | None, metric: str
) -> Goal | WithinBudget:
    """The one constraint. Raises TuneError for none, several, or a number that means nothing."""
    asked = {"--min-speedup": min_speedup, "--max-distance": max_distance, "--budget-ms": budget_ms}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        found = f"{' and '.join(given)} are" if given else "no constraint is"
        raise TuneError(f"{found} given, tune works under one", "for example --min-speedup 1.8")
    if budget_ms is not None:
        if not 0 < budget_ms < float("inf"):
            raise TuneError(f"--budget-ms {budget_ms:g} is no time", "for example --budget-ms 500")
        return WithinBudget(budget_ms)
    if min_speedup is not None:
        if not 1 < min_speedup < float("inf"):
            raise TuneError(f"--min-speedup {min_speedup:g} asks for no speedup", "for example --min-speedup 1.8")
        return AtLeastAsFast(min_speedup)
    assert max_distance is not None
    if not 0 < max_distance < (58.9 if metric == "psnr" else 1):
        expected = "between 0 and the 58.9 dB of equal pictures" if metric == "psnr" else "between 0 and 1"
        raise TuneError(f"--max-distance {max_distance:g} is no {metric}", f"{metric} lies {expected}")
    return AtLeastAsClose(max_distance)


def metric_called(name: str) -> Metric:
    """The metric of that name. Raises TuneError where there is none, or where the library it needs is missing."""
    metric = next((m for m in METRICS if m.name == name), None)
    if metric is None:
        allowed = ", ".join(m.name for m in METRICS)
        hint = (
            f"{allowed} are there; scripts/export_perceptual writes lpips" if name == "lpips" else f"allowed: {allowed}"
        )
        raise TuneError(f"there is no metric '{name}'", hint)
    blank = np.zeros((1, 16, 16, 3), np.uint8)
    try:
        metric.measure(blank, blank)
    except ModuleNotFoundError as err:
        raise TuneError(f"metric '{name}' needs the module '{err.name}'", "pip install 'hsexport[bench]'") from err
    return metric


def tells_apart(difference: Estimate) -> bool:
    """Whether 0 lies outside a difference's interval."""
    return difference.low > 0 or difference.high < 0
