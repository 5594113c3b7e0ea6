"""A schedule, run: its segments in order, the region chosen where they need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

from msgspec import structs

from hsruntime.loop.chooser import Chooser
from hsruntime.loop.loop import Loop
from hsruntime.request import Progress, Request
from hsruntime.result import Denoised, SegmentTime
from hsruntime.schedule.schedule import Schedule, Segment


def denoise(loop: Loop, request: Request) -> Denoised:
    """Runs the segments; the steps that an early end leaves go to the next one."""
    schedule, after_step = request.schedule, _step_counter(request)
    chooser = Chooser(loop, schedule, request.seeds)
    left, ran, times = list(schedule.segments), [], []
    while left:
        segment, spare = left.pop(0), 0
        for run, following in _with_following(schedule, segment, left):
            start = perf_counter()
            chooser.before(run)
            spent = perf_counter() - start
            asks_small = following is not None and chooser.compares(run, following)
            took = loop.run(run, after_step(run), compare=asks_small)
            chooser.after(run, took.steps)
            times.append(SegmentTime(run.mode, took.steps, took.seconds + spent))
            spare = run.steps - took.steps
        ran.append(structs.replace(segment, steps=segment.steps - spare))
        if spare:
            left[0] = structs.replace(left[0], steps=left[0].steps + spare)
    return Denoised(chooser.region, structs.replace(schedule, segments=ran), times)


def _with_following(
    schedule: Schedule, segment: Segment, behind: list[Segment]
) -> Iterator[tuple[Segment, Segment | None]]:
    """A segment as it runs, each run with the one after it; the last with the next segment's first."""
    runs = list(schedule.runs(segment))
    after = [next(schedule.runs(behind[0]))] if behind else [None]
    return zip(runs, [*runs[1:], *after], strict=True)


def _step_counter(request: Request) -> Callable[[Segment], Callable[[], None] | None]:
    """Makes each segment's after-step function: counts steps through the schedule and tells the callback, if any."""
    done, callback = 0, request.callback

    def for_segment(segment: Segment) -> Callable[[], None] | None:
        def after_step() -> None:
            nonlocal done
            done += 1
            assert callback is not None
            callback(Progress(done, request.schedule.steps, segment.mode))

        return after_step if callback else None

    return for_segment
