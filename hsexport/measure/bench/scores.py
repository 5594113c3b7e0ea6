"""Rounds to scores: one row per schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hsexport.measure.bench.judge import Judge, Judged, feature_distances, frechet
from hsexport.measure.bench.plan import CONVERGED, LARGE, Contender
from hsexport.measure.bench.rounds import Round
from hsexport.measure.estimates import Estimate, mean_of, median_of, standard_error_interval
from hsexport.measure.metrics import METRICS

DIFFUSERS = "diffusers"
FEWEST_FOR_FRECHET = 200  # 30 real pictures lie as far from all real ones (120) as any schedule does; 240 lie at 8


@dataclass(frozen=True)
class Distances:
    """Means over prompts, the same prompt and noise on both sides."""

    psnr: Estimate
    ssim: Estimate
    flip: Estimate
    features: Estimate | None


@dataclass(frozen=True)
class Quality:
    """What pictures are worth; what could not be had is None."""

    to_large: Distances | None
    to_converged: Distances | None
    top_1: Estimate | None
    """Share of pictures whose prompt is the judge's first guess."""
    top_5: Estimate | None
    frechet: Estimate | None


@dataclass(frozen=True)
class Speed:
    """The denoising loop against that of large alone at the bundle's default steps."""

    loop_ms: float
    speedup: Estimate
    """Median over prompts of large's loop time over this one's."""
    quartiles: tuple[float, float]
    """Of the same ratios."""
    predicted: float
    measured_over_predicted: float


@dataclass(frozen=True)
class Score:
    """One schedule, or diffusers' pipeline, over all prompts it drew."""

    name: str
    schedule: str
    kind: str
    ran: dict[str, int]
    """Schedules as they ran, with how often: more than one if it adapts."""
    prompts: int
    picture_ms: float
    speed: Speed | None
    """Of diffusers' pipeline the loop is not timed."""
    quality: Quality
    over_diffusers: Estimate | None
    """Median over prompts of diffusers' whole-picture time over this one's."""


@dataclass(frozen=True)
class Opinions:
    """What the judge sees in every contestant's pictures, in the order of its rounds; `own[i]`: the prompt's name."""

    judge: Judge
    by_name: dict[str, Judged]
    own: dict[str, np.ndarray]  # -1 where the judge has no such name


def opinions_on(judge: Judge, rounds: Sequence[Round], names: Sequence[str]) -> Opinions:
    """Shows the judge all pictures."""
    numbers = {name: i for i, name in enumerate(judge.names)}
    by_name, own = {}, {}
    for name in names:
        taking = taking_part(rounds, name)
        by_name[name] = judge.judge(np.stack([r.shots[name].picture for r in taking]))
        own[name] = np.array([numbers.get(r.prompt.text, -1) for r in taking])
    return Opinions(judge, by_name, own)


def score(contender: Contender, rounds: Sequence[Round], opinions: Opinions | None) -> Score:
    """One schedule's row."""
    name = contender.name
    return Score(
        name=name,
        schedule=str(contender.schedule),
        kind=contender.kind,
        ran=dict(Counter(r.shots[name].schedule for r in rounds)),
        prompts=len(rounds),
        picture_ms=_picture_ms(rounds, name),
        speed=_speed(rounds, name),
        quality=_quality(name, rounds, opinions),
        over_diffusers=_over_diffusers(name, rounds),
    )


def score_diffusers(what: str, rounds: Sequence[Round], opinions: Opinions | None) -> Score:
    """The row of diffusers' own pipeline, over the rounds it took part in."""
    taking = taking_part(rounds, DIFFUSERS)
    return Score(
        name=DIFFUSERS,
        schedule=what,
        kind=DIFFUSERS,
        ran={what: len(taking)},
        prompts=len(taking),
        picture_ms=_picture_ms(taking, DIFFUSERS),
        speed=None,
        quality=_quality(DIFFUSERS, rounds, opinions),
        over_diffusers=None,
    )


def taking_part(rounds: Sequence[Round], name: str) -> list[Round]:
    """The rounds that hold a picture of this contestant."""
    return [r for r in rounds if name in r.shots]


def _picture_ms(rounds: Sequence[Round], name: str) -> float:
    return 1000 * float(np.median([r.shots[name].seconds for r in rounds]))


def _speed(rounds: Sequence[Round], name: str) -> Speed:
    times, large = (np.array([r.shots[n].loop_seconds for r in rounds]) for n in (name, LARGE))
    ratios, predicted = large / times, float(np.median([r.shots[name].predicted for r in rounds]))
    low, high = np.percentile(ratios, [25, 75])
    speedup = median_of(ratios)
    return Speed(
        loop_ms=1000 * float(np.median(times)),
        speedup=speedup,
        quartiles=(float(low), float(high)),
        predicted=predicted,
        measured_over_predicted=speedup.value / predicted,
    )


def _over_diffusers(name: str, rounds: Sequence[Round]) -> Estimate | None:
    taking = taking_part(rounds, DIFFUSERS)
    if not taking:
        return None
    return median_of(np.array([r.shots[DIFFUSERS].seconds / r.shots[name].seconds for r in taking]))


def _quality(name: str, rounds: Sequence[Round], opinions: Opinions | None) -> Quality:
    to_large, to_converged = (_distances(name, r, rounds, opinions) for r in (LARGE, CONVERGED))
    if opinions is None:
        return Quality(to_large, to_converged, None, None, None)
    judged, own = opinions.by_name[name], opinions.own[name]
    named = own >= 0
    places = Judged(judged.features[named], judged.logits[named]).places(own[named])
    top_1, top_5 = (mean_of((places < n).astype(float)) if named.any() else None for n in (1, 5))
    # Its bias depends on the number of pictures: a row over fewer prompts than the others would look worse.
    if not len(own) == len(rounds) >= FEWEST_FOR_FRECHET:
        return Quality(to_large, to_converged, top_1, top_5, None)
    reference = opinions.judge.reference
    distance = standard_error_interval(lambda rows: frechet(judged.features[rows], reference), len(own))
    return Quality(to_large, to_converged, top_1, top_5, distance)


def _distances(name: str, reference: str, rounds: Sequence[Round], opinions: Opinions | None) -> Distances | None:
    if name == reference:
        return None
    taking = [i for i, r in enumerate(rounds) if name in r.shots]
    values = {
        m.name: mean_of(np.array([rounds[i].distances[reference][m.name][name] for i in taking])) for m in METRICS
    }
    features = None
    if opinions:
        ours, theirs = opinions.by_name[name].features, opinions.by_name[reference].features[taking]
        features = mean_of(feature_distances(ours, theirs, opinions.judge.reference))
    return Distances(**values, features=features)
