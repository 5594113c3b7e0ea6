"""What a report says, in sentences: computed from its numbers, whichever way they fall."""

from __future__ import annotations

import numpy as np

from hsexport.measure.bench.pareto import Point, front, points_by
from hsexport.measure.bench.report import Report
from hsexport.measure.estimates import Estimate


def headline(report: Report) -> list[str]:
    """The most important first."""
    points = points_by(report, "flip")
    mixtures = [p for p in points if p.kind == "mixture"]
    sentences = [_speed(report, mixtures[0]), _against_fewer_steps(mixtures[0], points)] if mixtures else []
    sentences += [_front(points), _front_by_samples(report), _over_diffusers(report, mixtures)]
    return [sentence for sentence in sentences if sentence]


def _speed(report: Report, mixture: Point) -> str:
    speed = report.score(mixture.name).speed
    counted = f"; counting operations promises {speed.predicted:.2f}" if speed else ""
    return f"{mixture.name} is {_estimate(mixture.speedup)} times as fast as large alone{counted}."


def _against_fewer_steps(mixture: Point, points: list[Point]) -> str:
    """The mixture against large's own line at the mixture's speed; nothing where the line does not reach that far."""
    line = sorted((p for p in points if p.kind == "large"), key=lambda p: p.speedup.value)
    speeds = [p.speedup.value for p in line]
    if len(line) < 2 or not speeds[0] <= mixture.speedup.value <= speeds[-1]:
        return ""
    there = float(np.interp(np.log(mixture.speedup.value), np.log(speeds), [p.distance.value for p in line]))
    verdict = "nearer" if there < mixture.distance.value else "further away"
    return (
        f"Fewer steps of large, at that speed, lie {verdict}: FLIP to the converged pictures {there:.3f}, "
        f"{mixture.name} {mixture.distance.value:.3f}."
    )


def _front(points: list[Point]) -> str:
    names = ", ".join(p.name for p in front(points))
    return f"No other schedule is faster and nearer to the converged pictures than these: {names}." if names else ""


def _front_by_samples(report: Report) -> str:
    names = ", ".join(p.name for p in front(points_by(report, "frechet")))
    return f"By Frechet distance to real pictures these lead: {names}." if names else ""


def _over_diffusers(report: Report, mixtures: list[Point]) -> str:
    names = ["large", *(p.name for p in mixtures[:1])]
    found = [(name, report.score(name).over_diffusers) for name in names]
    told = " and ".join(f"{name} {_estimate(e)} times" for name, e in found if e)
    return f"Over diffusers' own pipeline, whole pictures: {told} as fast." if told else ""


def _estimate(e: Estimate) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
