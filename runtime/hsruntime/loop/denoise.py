"""A schedule, run: its segments in order, the region chosen where they need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from time import perf_counter

import numpy as np
from msgspec import structs

from hsruntime.loop.loop import Loop
from hsruntime.loop.program import SIGNALS, reads
from hsruntime.loop.region import CONTROLS, Region, marked_scores, region_from_scores
from hsruntime.request import Progress, Request, SegmentTime
from hsruntime.schedule.schedule import Schedule, Segment


def denoise(loop: Loop, request: Request) -> tuple[Schedule, list[SegmentTime], Region | None]:
    """Runs the segments; the steps that an early end leaves go to the next one.

    The schedule as it ran, its times, and the last region.
    """
    schedule, done = request.schedule, count(1)
    chooser = Chooser(loop, schedule, request)
    left, ran, times = list(schedule.segments), [], []
    model = ""
    begun: float | None = perf_counter()  # the first segment's time has what comes before it, too
    loop.condition()
    while left:
        segment, spare = left.pop(0), 0
        for run, following in _with_following(schedule, segment, left):
            start, begun = begun or perf_counter(), None
            if model and run.model not in ("", model):
                loop.restart_solver()
            model = run.model or model
            chooser.before(run)
            spent = perf_counter() - start
            asked = chooser.compares(run, following) if following else ""
            took = loop.run(run, _after_step(request, done, run.mode), compare=asked)
            chooser.after(run, took.steps)
            times.append(replace(took, seconds=took.seconds + spent))
            spare = run.steps - took.steps
        ran.append(structs.replace(segment, steps=segment.steps - spare))
        if spare:
            left[0] = structs.replace(left[0], steps=left[0].steps + spare)
    loop.take_picture()
    return structs.replace(schedule, segments=ran), times, chooser.region


def _with_following(
    schedule: Schedule, segment: Segment, behind: list[Segment]
) -> Iterator[tuple[Segment, Segment | None]]:
    """A segment as it runs, each run with the one after it; the last with the next segment's first."""
    runs = list(schedule.runs(segment))
    after = [next(schedule.runs(behind[0]))] if behind else [None]
    return zip(runs, [*runs[1:], *after], strict=True)


def _after_step(request: Request, done: Iterator[int], mode: str) -> Callable[[], None] | None:
    """Tells the callback, if there is one, of another step of the schedule `done`."""
    callback = request.callback
    return (lambda: callback(Progress(next(done), request.schedule.steps, mode))) if callback else None


class Chooser:
    """Chooses the region before the first region step after a whole one, and anew where the policy says so."""

    def __init__(self, loop: Loop, schedule: Schedule, request: Request) -> None:
        self.region: Region | None = None
        self._loop = loop
        self._policy = schedule.region
        self._seeds = request.seeds
        self._marked = request.marked
        self._draws = 0
        self._whole = True  # whether the last step of large ran on the whole picture
        self._gathered: str | None = None  # the guidance whose rows hold the region's cache
        self._idle = np.zeros((loop.shape.pictures, loop.shape.drawn), np.float32)

    def compares(self, run: Segment, following: Segment) -> str:
        """Whom the last step of `run` must ask what it would have done, if anyone."""
        if not (reads(self._policy.signal, "other") and run.large == "full" and following.large == "region"):
            return ""
        return "light" if following.light else "small"

    def before(self, run: Segment) -> None:
        """Chooses if `run` needs a region that is not there; gathers its keys and values."""
        if run.large != "region":
            return
        if not self._whole and self._policy.reselect and self.region:
            self._loop.take_back()
        if self._whole or self._policy.reselect:
            self.region = self._chosen()
            self._gathered = None
        if self._gathered != run.guidance and self.region:
            self._loop.set_region(self.region, run)
            self._gathered = run.guidance
        self._whole = False

    def after(self, run: Segment, steps: int) -> None:
        """Counts how long each token has been left out."""
        if run.large == "region" and self.region:
            self._idle = np.where(self.region.mask[:, : self._idle.shape[1]], 0, self._idle + steps)
        else:
            self._idle[:] = 0
        self._whole = self._whole or run.large == "full"

    def _chosen(self) -> Region:
        scores = self._scores()
        if self._policy.starvation:
            scores = scores * np.exp(np.float32(self._policy.starvation) * self._idle)
        # What the picture is drawn after is never drawn: its keys and values stay in the cache.
        behind = self._loop.shape.tokens - scores.shape[1]
        scores = np.pad(scores, ((0, 0), (0, behind)), constant_values=-np.inf)
        return region_from_scores(scores, self._loop.shape.active)

    def _scores(self) -> np.ndarray:
        signal = self._policy.signal
        if self._marked is not None:
            return np.tile(marked_scores(self._marked), (len(self._seeds), 1))
        if SIGNALS[signal]:
            return self._loop.scores(signal)
        self._draws += 1
        return CONTROLS[signal](self._loop.shape.grid, self._seeds, self._draws - 1)
