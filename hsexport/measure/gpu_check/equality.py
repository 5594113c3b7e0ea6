"""CUDA graphs change nothing: the same pictures with and without, bit by bit."""

from __future__ import annotations

from math import isfinite

import numpy as np

from hsexport.measure.gpu_check.plan import Plan
from hsexport.measure.gpu_check.results import GraphEquality
from hsexport.measure.gpu_check.watched import open_watched
from hsruntime.bundle.reader import Bundle


def short_schedules(plan: Plan) -> list[str]:
    """One in which only large runs, one that is hybrid, one in which only small runs."""
    return ["large:3", f"large:1,hybrid:2;{plan.region()}", "small:3"]


def graph_equality(plan: Plan, bundle: Bundle) -> list[GraphEquality]:
    """Latents and pictures of each short schedule in two sessions that differ in nothing but graphs."""
    with_graphs, without = _pictures(plan, bundle, graphs=True), _pictures(plan, bundle, graphs=False)
    return [_compared(schedule, with_graphs[schedule], without[schedule]) for schedule in short_schedules(plan)]


def _pictures(plan: Plan, bundle: Bundle, *, graphs: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Latents and pictures by schedule."""
    made = {}
    with open_watched(plan, bundle, graphs=graphs) as session:
        for schedule in short_schedules(plan):
            images = session.picture(schedule).images
            made[schedule] = session.latents, images
    return made


def _compared(
    schedule: str, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> GraphEquality:
    difference = float(np.abs(first[0].astype(np.float64) - second[0]).max())
    return GraphEquality(
        schedule=schedule,
        latents_equal=first[0].tobytes() == second[0].tobytes(),
        pictures_equal=bool((first[1] == second[1]).all()),
        max_difference=difference if isfinite(difference) else None,
    )
