"""What a schedule comes to in one request: where it starts, what guides it, and whether its networks are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from msgspec import structs

from hsruntime.facts import Facts, Size
from hsruntime.loop.flow import noise_levels
from hsruntime.loop.program import MARKED, reads
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule, ScheduleError, Segment, check_schedule

ABSENT = {
    "small": "build with --small, or take one of large, region, light and skip",
    "light": "build with --light 2+1, or take one of large, region, small and skip",
}


def schedule_for(
    facts: Facts,
    wanted: str | Schedule | None = None,
    steps: int | None = None,
    *,
    marked: bool = False,
    size: Size | None = None,
) -> Schedule:
    """As asked, else the bundle's own; its interval of guidance written out in segments.

    `marked`: whether there is a mask that a region may follow; `size`: of the picture, the bundle's default if none is
    given. Raises ScheduleError.
    """
    schedule = resolve_schedule(wanted or facts.defaults.schedule, steps, facts.defaults.steps)
    if schedule.start + schedule.steps > facts.most_steps:
        raise ScheduleError(
            f"the schedule has {schedule.start + schedule.steps} steps, the bundle takes {facts.most_steps}",
            "ask for fewer",
        )
    for number, segment in enumerate(schedule.segments, start=1):
        for network in ABSENT:
            if getattr(facts, network) is None and network in _runs(schedule, segment):
                raise ScheduleError(f"segment {number} ({segment}): the bundle has no {network}", ABSENT[network])
    if schedule.has_region and schedule.region.signal == MARKED and not marked:
        raise ScheduleError(
            f"signal '{MARKED}' takes the region that is marked, and none is", "give a mask, or take another signal"
        )
    schedule = structs.replace(schedule, segments=[_by_members(facts, segment) for segment in schedule.segments])
    if schedule.guidance is None:
        return schedule
    rows, columns = facts.latent.grid(size or facts.sizes.default)
    levels = iter(noise_levels(facts.sigmas, schedule, rows * columns)[:-1])
    parted = [part for segment in schedule.segments for part in _parted(segment, levels, schedule.guidance)]
    return check_schedule(structs.replace(schedule, segments=parted, guidance=None))


def _by_members(facts: Facts, segment: Segment) -> Segment:
    """Without guidance, where the only members that a segment runs are those that take none.

    Raises ScheduleError where one takes it and the other does not.
    """
    parts = {"large": segment.large or segment.light, "small": segment.small}
    guided = {facts.members[name].guidance == "classifier-free" for name, part in parts.items() if part}
    if segment.guidance != "full" or False not in guided or not facts.has_guidance:
        return segment
    if True in guided:
        raise ScheduleError(
            f"{segment}: large and small run together, and only one of them takes guidance",
            "run one after the other (large:2,small:2), or take members of one kind",
        )
    return structs.replace(segment, guidance="off")


def marked_by_hand(schedule: Schedule) -> Schedule:
    """The schedule with the region that the caller marks. Raises ScheduleError for one without a region."""
    if not schedule.has_region:
        raise ScheduleError(
            f"a region is marked, and {schedule} refines none",
            "take a schedule with a hybrid, refined or region segment",
        )
    return check_schedule(structs.replace(schedule, region=structs.replace(schedule.region, signal=MARKED)))


def started(schedule: Schedule, strength: float) -> Schedule:
    """The steps that are left for a strength, as diffusers' pipeline counts them.

    Where what is left begins with a mode that builds on large's steps, large takes a step or two on the whole picture
    first. Raises ScheduleError.
    """
    if schedule.start:
        raise ScheduleError(
            "the schedule states a start, and there is a strength beside it", "leave one of the two out"
        )
    start = int(max(schedule.steps - schedule.steps * strength, 0))
    if start == schedule.steps:
        raise ScheduleError(f"strength {strength:g} of {schedule.steps} steps leaves none", "ask for more of either")
    rest = structs.replace(
        schedule,
        steps=schedule.steps - start,
        segments=list(_behind(schedule.segments, start)),
        sigmas=schedule.sigmas[start:],
        start=0 if schedule.sigmas else start,
    )
    return _led(rest) if start else rest


def _behind(segments: Sequence[Segment], start: int) -> Iterator[Segment]:
    """What is left of segments without their first steps."""
    for segment in segments:
        gone = min(start, segment.steps)
        start -= gone
        if gone < segment.steps:
            steps, until = segment.steps - gone, segment.until
            yield structs.replace(segment, steps=steps, until=until if until and until.least <= steps else None)


def _led(schedule: Schedule) -> Schedule:
    """The schedule itself, or with the first step or two run by large as a whole, where others build on them."""
    for lead in range(3):
        if lead > schedule.steps:
            break
        first = [Segment(lead, "full")] if lead else []
        try:
            return check_schedule(structs.replace(schedule, segments=[*first, *_behind(schedule.segments, lead)]))
        except ScheduleError as err:
            told = err
    raise told


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
