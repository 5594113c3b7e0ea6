"""Whole schedules end to end: what a picture takes, and the speedup over large alone."""

from __future__ import annotations

from statistics import median

import msgspec

from hsexport.measure.gpu_check.plan import PROMPT, Plan
from hsexport.measure.gpu_check.results import ScheduleTime
from hsexport.measure.gpu_check.watched import WatchedSession
from hsruntime.schedule.arithmetic import predicted_speedup
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import RegionPolicy, Schedule
from hsruntime.session import Result

REFERENCE = "large"


def whole_schedules(plan: Plan) -> dict[str, Schedule]:
    """All of the same length; the two orders give each model half of the steps."""
    steps = plan.steps
    stitched = resolve_schedule("hybridstitch", steps, steps)
    first, second = steps // 2, steps - steps // 2
    return {
        REFERENCE: resolve_schedule("large", steps, steps),
        "hybridstitch": msgspec.structs.replace(stitched, region=RegionPolicy(ratio=plan.ratio)),
        "T-Stitch order": resolve_schedule(f"small:{first},large:{second}", None, steps),
        "SRDiffusion order": resolve_schedule(f"large:{second},small:{first}", None, steps),
        "small": resolve_schedule("small", steps, steps),
    }


def schedule_times(plan: Plan, session: WatchedSession) -> list[ScheduleTime]:
    """Medians over rounds; a round runs all schedules, so that what slows the machine slows all of them.

    A ratio is taken within its round. The first round warms up.
    """
    schedules = whole_schedules(plan)
    rounds = [
        {name: session.generate(PROMPT, schedule=schedule) for name, schedule in schedules.items()}
        for _ in range(plan.rounds + 1)
    ][1:]
    return [_row(session, name, schedule, rounds) for name, schedule in schedules.items()]


def _row(session: WatchedSession, name: str, schedule: Schedule, rounds: list[dict[str, Result]]) -> ScheduleTime:
    return ScheduleTime(
        name=name,
        schedule=str(schedule),
        picture_s=median(each[name].seconds for each in rounds),
        loop_s=median(each[name].loop_seconds for each in rounds),
        speedup=median(each[REFERENCE].loop_seconds / each[name].loop_seconds for each in rounds),
        predicted=predicted_speedup(schedule, session.manifest.facts),
    )
