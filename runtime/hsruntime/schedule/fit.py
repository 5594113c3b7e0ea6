"""What a schedule comes to on one bundle: guidance by its noise levels, and whether its networks are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from msgspec import structs

from hsruntime.facts import Facts
from hsruntime.loop.flow import noise_levels
from hsruntime.loop.program import reads
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule, ScheduleError, Segment, check_schedule

ABSENT = {
    "small": "build with --small, or take one of large, region, light and skip",
    "light": "build with --light 2+1, or take one of large, region, small and skip",
}


def schedule_for(facts: Facts, wanted: str | Schedule | None = None, steps: int | None = None) -> Schedule:
    """As asked, else the bundle's own; its interval of guidance written out in segments. Raises ScheduleError."""
    schedule = resolve_schedule(wanted or facts.defaults.schedule, steps, facts.defaults.steps)
    if schedule.steps > facts.most_steps:
        raise ScheduleError(
            f"the schedule has {schedule.steps} steps, the bundle takes {facts.most_steps}", "ask for fewer"
        )
    for number, segment in enumerate(schedule.segments, start=1):
        for network in ABSENT:
            if getattr(facts, network) is None and network in _runs(schedule, segment):
                raise ScheduleError(f"segment {number} ({segment}): the bundle has no {network}", ABSENT[network])
    if schedule.guidance is None:
        return schedule
    levels = iter(noise_levels(facts.sigmas, schedule)[:-1])
    parted = [part for segment in schedule.segments for part in _parted(segment, levels, schedule.guidance)]
    return check_schedule(structs.replace(schedule, segments=parted, guidance=None))


def _runs(schedule: Schedule, segment: Segment) -> Sequence[str]:
    """The networks beside large that a segment needs; a region by small's gap needs small, where light is not there."""
    asks = segment.large == "region" and reads(schedule.region.signal, "other") and not segment.light
    return [name for name, part in (("small", segment.small or asks), ("light", segment.light)) if part]


def _parted(segment: Segment, levels: Iterator[float], interval: tuple[float, float]) -> Iterator[Segment]:
    """A segment where noise levels cross the interval's ends: guidance is off outside."""
    low, high = interval
    for inside, run in groupby(islice(levels, segment.steps), lambda level: low < level <= high):
        guidance = segment.guidance if inside or segment.guidance != "full" or not any(segment.parts) else "off"
        yield structs.replace(segment, steps=len(list(run)), guidance=guidance)
