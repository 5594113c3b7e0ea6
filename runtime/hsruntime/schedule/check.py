"""Which schedules can run."""

from __future__ import annotations

from itertools import takewhile

import msgspec

from hsruntime.schedule.schedule import MODES, Schedule, ScheduleError, Segment


def check_schedule(schedule: Schedule) -> Schedule:
    """Returns `schedule`. Raises ScheduleError naming the first segment that cannot run and why."""
    _check_fields(schedule)
    total = sum(s.steps for s in schedule.segments)
    if not schedule.segments:
        raise ScheduleError("a schedule needs at least one segment", "for example large:10,hybrid:10,small:8")
    if total != schedule.steps:
        raise ScheduleError(f"the segments have {total} steps together, the schedule says {schedule.steps}")
    for number, segment in enumerate(schedule.segments, start=1):
        if (segment.large, segment.small) not in MODES.values():
            found = f"large {segment.large or 'off'} with small {segment.small or 'off'}"
            raise ScheduleError(f"segment {number}: {found} is not a mode", f"allowed: {', '.join(MODES)}")
        _check_until(schedule, number, segment)
        _check_held(schedule, number, segment)
        if segment.large == "region":
            _check_cache(schedule, number, segment)
            if schedule.region.signal == "change":
                _check_change(schedule, number)
    _check_choices(schedule)
    return schedule


def _check_fields(schedule: Schedule) -> None:
    """Structs made in Python are not checked by msgspec as parsed ones are."""
    try:
        msgspec.convert(msgspec.to_builtins(schedule), Schedule)
    except msgspec.ValidationError as err:
        raise ScheduleError(f"schedule: {printable(err)}") from err


def _check_cache(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError unless keys and values of both rows of the whole picture are there."""
    before = schedule.segments[number - 2] if number > 1 else None
    if before is None or before.large is None:
        raise ScheduleError(
            f"segment {number} ({segment}) needs keys and values of a large step before it",
            "put a large segment directly in front of it",
        )
    if before.large == "full" and before.guidance != "full":
        raise ScheduleError(
            f"segment {number} ({segment}) needs keys and values with full guidance, {before} leaves some out",
            "put a large segment with full guidance between them",
        )


def _check_choices(schedule: Schedule) -> None:
    """Raises ScheduleError for a policy of choosing anew that contradicts itself."""
    policy = schedule.region
    if policy.refresh and policy.reselect:
        raise ScheduleError("refresh and reselect both choose the region anew", "leave one of the two out")
    if policy.reselect and policy.signal == "gap":
        raise ScheduleError(
            "signal 'gap' compares whole pictures, between region steps there are none", "use signal=std with reselect"
        )
    if policy.reselect and any(s.large == "region" and s.guidance != "full" for s in schedule.segments):
        raise ScheduleError("reselect renews keys and values of all rows, which wants full guidance", "use refresh")


def _check_until(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError where nothing could take the steps that an early end leaves."""
    if segment.until is None:
        return
    if segment.until.least > segment.steps:
        raise ScheduleError(f"segment {number} ({segment}): at least {segment.until.least} of {segment.steps} steps")
    if segment.large == "region":
        raise ScheduleError(f"segment {number} ({segment}): an early end is for large or small on the whole picture")
    if number == len(schedule.segments):
        raise ScheduleError(
            f"segment {number} ({segment}) may end early, and no segment follows", "let the next one take what is left"
        )
    if schedule.segments[number].large == "region" and schedule.region.signal == "gap":
        raise ScheduleError(
            f"segment {number} ({segment}): signal 'gap' must know the last step before it is taken",
            "use signal=change",
        )


def _check_held(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError where no step left a guidance difference to hold."""
    if segment.guidance != "held":
        return
    whole = (s for s in schedule.segments[: number - 1] if s.large != "region" and s.guidance == "full")
    if next(whole, None) is None:
        raise ScheduleError(
            f"segment {number} ({segment}) holds the guidance of a step before it, and there is none",
            "put a large or small segment with full guidance in front of it",
        )


def _check_change(schedule: Schedule, number: int) -> None:
    """Raises ScheduleError unless large ran on the whole picture in both steps that the signal compares."""
    if schedule.region.refresh > 0:
        raise ScheduleError(
            "signal 'change' compares two steps of large in a row, a refresh has one", "use signal=gap or refresh=0"
        )
    if schedule.segments[number - 2].large == "region":
        return  # the choice stands
    before = takewhile(lambda s: s.large == "full", reversed(schedule.segments[: number - 1]))
    if sum(s.until.least if s.until else s.steps for s in before) < 2:
        raise ScheduleError(
            f"segment {number}: signal 'change' compares two steps of large directly before it, there is one",
            "give the large segment 2 steps or more, or use signal=gap",
        )


def printable(err: Exception) -> str:
    """The error on one line that any terminal can show; it may quote what the user wrote."""
    return str(err).encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
