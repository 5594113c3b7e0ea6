"""Rounds to scores: one row per schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hsexport.measure.bench.judge import Judge, Judged, feature_distances, frechet
from hsexport.measure.bench.rounds import CONVERGED, LARGE, Round
from hsexport.measure.pictures import METRICS
from hsexport.measure.turns import Estimate, column, mean_of, median_of, middle_half, speedups, standard_error_interval

DIFFUSERS = "diffusers"
NAMES = [metric.name for metric in METRICS]
FEWEST_FOR_FRECHET = 200  # 30 real pictures lie as far from all real ones (120) as any schedule does; 240 lie at 8


@dataclass(frozen=True)
class Distances:
    """Means over prompts, the same prompt and noise on both sides."""

    psnr: Estimate
    ssim: Estimate
    flip: Estimate
    features: Estimate | None
    stlpips: Estimate | None = None  # reports before it was measured have none
    lpips: Estimate | None = None


@dataclass(frozen=True)
class Quality:
    """What pictures are worth; what could not be had is None."""

    to_large: Distances | None
    to_converged: Distances | None
    top_1: Estimate | None = None  # share of pictures whose prompt is the judge's first guess
    top_5: Estimate | None = None
    frechet: Estimate | None = None


@dataclass(frozen=True)
class Speed:
    """The denoising loop against that of large alone at the bundle's default steps."""

    loop_ms: float
    speedup: Estimate  # median over prompts of large's loop time over this one's
    quartiles: tuple[float, float]  # of the same ratios
    predicted: float
    measured_over_predicted: float


@dataclass(frozen=True)
class Score:
    """One schedule, or diffusers' pipeline, over all prompts it drew."""

    name: str
    schedule: str
    kind: str
    ran: dict[str, int]  # schedules as they ran, with how often: more than one if it adapts
    prompts: int
    picture_ms: float
    speed: Speed | None  # of diffusers' pipeline the loop is not timed
    quality: Quality
    over_diffusers: Estimate | None  # median over prompts of diffusers' whole-picture time over this one's


class Opinions:
    """What a judge sees in every contestant's pictures, in the order of its rounds; `own[i]`: the prompt's name."""

    def __init__(self, judge: Judge, rounds: Sequence[Round], names: Sequence[str]) -> None:
        numbers = {name: i for i, name in enumerate(judge.names)}
        taking = {name: taking_part(rounds, name) for name in names}
        self.reference = judge.reference
        self.judged = {n: judge.judge(np.stack([r.shots[n].picture for r in taking[n]])) for n in names}
        self.own = {n: np.array([numbers.get(r.prompt.text, -1) for r in taking[n]]) for n in names}


def score(name: str, schedule: str, kind: str, rounds: Sequence[Round], opinions: Opinions | None) -> Score:
    """The row of a schedule or of diffusers' own pipeline, over the rounds that it took part in."""
    taking = taking_part(rounds, name)
    shots = [r.shots for r in taking]
    beside = [s for s in shots if DIFFUSERS in s and name != DIFFUSERS]
    over = speedups(column(beside, DIFFUSERS, "seconds"), column(beside, name, "seconds")) if beside else None
    return Score(
        name=name,
        schedule=schedule,
        kind=kind,
        ran=dict(Counter(s[name].schedule for s in shots)),
        prompts=len(taking),
        picture_ms=1000 * float(np.median(column(shots, name, "seconds"))),
        speed=None if name == DIFFUSERS else _speed(name, taking),
        quality=_quality(name, rounds, opinions),
        over_diffusers=None if over is None else median_of(over),
    )


def taking_part(rounds: Sequence[Round], name: str) -> list[Round]:
    """The rounds that hold a picture of this contestant."""
    return [r for r in rounds if name in r.shots]


def _speed(name: str, rounds: Sequence[Round]) -> Speed:
    shots = [r.shots for r in rounds]
    times, promised = column(shots, name, "loop_seconds"), float(np.median(column(shots, name, "predicted")))
    ratios = speedups(column(shots, LARGE, "loop_seconds"), times)
    speedup = median_of(ratios)
    return Speed(1000 * float(np.median(times)), speedup, middle_half(ratios), promised, speedup.value / promised)


def _quality(name: str, rounds: Sequence[Round], opinions: Opinions | None) -> Quality:
    to_large, to_converged = (distances(name, reference, rounds, opinions) for reference in (LARGE, CONVERGED))
    if opinions is None:
        return Quality(to_large, to_converged)
    judged, own = opinions.judged[name], opinions.own[name]
    named = own >= 0
    places = Judged(judged.features[named], judged.logits[named]).places(own[named])
    top_1, top_5 = (mean_of((places < n).astype(float)) if named.any() else None for n in (1, 5))
    # Its bias depends on the number of pictures: a row over fewer prompts than the others would look worse.
    if not len(own) == len(rounds) >= FEWEST_FOR_FRECHET:
        return Quality(to_large, to_converged, top_1, top_5)
    distance = standard_error_interval(lambda rows: frechet(judged.features[rows], opinions.reference), len(own))
    return Quality(to_large, to_converged, top_1, top_5, distance)


def distances(name: str, reference: str, rounds: Sequence[Round], opinions: Opinions | None) -> Distances | None:
    """Of a contestant's pictures to the reference's, over the rounds that it took part in; None of its own."""
    if name == reference:
        return None
    taking = [i for i, r in enumerate(rounds) if name in r.shots]
    means = {m: mean_of(np.array([rounds[i].distances[reference][m][name] for i in taking])) for m in NAMES}
    if opinions is None:
        return Distances(**means, features=None)
    ours, theirs = opinions.judged[name].features, opinions.judged[reference].features[taking]
    return Distances(**means, features=mean_of(feature_distances(ours, theirs, opinions.reference)))
