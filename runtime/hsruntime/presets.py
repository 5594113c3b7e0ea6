"""Named schedules: what a method is called, and the segments it expands into."""

from __future__ import annotations

from collections.abc import Callable

from hsruntime.schedule import (
    MAX_STEPS,
    RegionPolicy,
    Schedule,
    ScheduleError,
    Segment,
    check_schedule,
    quoted,
    schedule_from_text,
)


def large(steps: int) -> Schedule:
    """Large alone: the reference."""
    return Schedule(steps, [Segment(steps, large="full")])


def small(steps: int) -> Schedule:
    """Small alone: the ceiling of speed."""
    return Schedule(steps, [Segment(steps, small="full")])


def hybridstitch(steps: int) -> Schedule:
    """HybridStitch (arXiv 2603.07815): large; large on the hard region while small sketches the whole; small.

    The paper's split is not public. Ours follows from measurement on the demo pair (README, "Which schedule").
    """
    if steps < 3:
        raise ScheduleError(f"preset 'hybridstitch' has three segments, {steps} steps are too few", "ask for 3 or more")
    first = max(1, round(steps * LARGE_SHARE))
    middle = max(1, min(steps - first - 1, round(steps * HYBRID_SHARE)))
    last = steps - first - middle
    segments = [
        Segment(first, large="full"),
        Segment(middle, large="region", small="full"),
        Segment(last, small="full"),
    ]
    return Schedule(steps, segments, RegionPolicy())


LARGE_SHARE = 8 / 28
HYBRID_SHARE = 7 / 28

PRESETS: dict[str, Callable[[int], Schedule]] = {"hybridstitch": hybridstitch, "large": large, "small": small}


def resolve_schedule(wanted: str | Schedule, steps: int | None, default_steps: int) -> Schedule:
    """A schedule from a preset's name, either spelling, or itself.

    `steps` scales a preset; for written-out segments it must equal their sum. Raises ScheduleError.
    """
    if steps is not None and steps < 1:
        raise ScheduleError(f"{steps} steps are too few", "ask for 1 or more")
    if (steps or default_steps) > MAX_STEPS:
        raise ScheduleError(f"more than {MAX_STEPS} steps were asked for", f"ask for {MAX_STEPS} or fewer")
    if isinstance(wanted, str) and wanted.strip() in PRESETS:
        return check_schedule(PRESETS[wanted.strip()](steps or default_steps))
    if isinstance(wanted, str) and wanted.strip().isidentifier():
        raise ScheduleError(
            f"there is no preset {quoted(wanted)}",
            f"presets: {', '.join(PRESETS)}; or segments like large:10,hybrid:10,small:8",
        )
    schedule = schedule_from_text(wanted) if isinstance(wanted, str) else check_schedule(wanted)
    if steps is not None and steps != schedule.steps:
        raise ScheduleError(
            f"the schedule has {schedule.steps} steps, {steps} were asked for", "leave one of the two out"
        )
    return schedule
