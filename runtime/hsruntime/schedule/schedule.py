"""Schedules as data: segments of steps in one mode, the solver, and the region policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from hsengines.errors import HSError

Signal = Literal["change", "gap", "std", "random", "center"]
Solver = Literal["euler", "ab2"]
Guidance = Literal["full", "held", "off"]

MODES = {"large": ("full", None), "hybrid": ("region", "full"), "region": ("region", None), "small": (None, "full")}
"""The short form's names, as what large and small do in such a segment."""


MAX_STEPS = 10_000
"""No schedule is longer; how many steps a bundle takes depends on its scheduler."""

Steps = Annotated[int, Meta(ge=1, le=MAX_STEPS)]


class ScheduleError(HSError):
    """A schedule that cannot be read or cannot be run."""


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record that knows all of its fields, and writes only those that say something."""


class Settled(_Strict, frozen=True):
    """Ends a segment early, once its model's velocity changes less and less; the next one takes the steps left.

    SRDiffusion's rule (arXiv 2505.19151): with o_t the guided velocity of step t and
    d_t = tanh(mean|o_t - o_(t-1)| / mean|o_(t-1)|), the segment ends after the first step, from `least` on, at which
    d_(t-1) - d_t lies between 0 and `below`. The means run over the whole batch.
    """

    least: Steps = 5
    below: Annotated[float, Meta(gt=0)] = 0.01


class Segment(_Strict, frozen=True):
    """A run of steps in one mode; with `until` as many steps at most.

    `guidance`: "full" computes both rows of every picture. "held" computes the prompt's row alone and takes the
    difference to the other from the last step in which both ran on the whole picture; "off" takes none.
    """

    steps: Steps
    large: Literal["full", "region"] | None = None
    small: Literal["full"] | None = None
    guidance: Guidance = "full"
    until: Settled | None = None

    @property
    def mode(self) -> str:
        """The short form's name of what this segment does."""
        return next(name for name, parts in MODES.items() if parts == (self.large, self.small))

    def __str__(self) -> str:
        guidance = "" if self.guidance == "full" else f"+{self.guidance}"
        steps = f"{self.until.least}-{self.steps}" if self.until else str(self.steps)
        return f"{self.mode}{guidance}:{steps}"


class RegionPolicy(_Strict, frozen=True):
    """How the active tokens are chosen, how often anew, and what stands still beside them."""

    signal: Signal = "gap"
    """A token's score; runtime/hsruntime/loop says how each is computed."""
    ratio: Annotated[float, Meta(gt=0, le=1)] = 0.3
    """The share of tokens that are active."""
    refresh: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0
    """One step of large on the whole picture, and a new choice, after this many region steps; 0: never."""
    reselect: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0
    """A new choice after this many region steps, keys and values renewed where large ran; 0: never."""
    starvation: Annotated[float, Meta(ge=0, le=10)] = 0
    """RAS: a score grows by exp(starvation) for each step that its token was left out."""
    text: Literal["live", "cached"] = "live"
    """Whether the text's keys and values are computed in region steps, or kept from the last whole one."""


class Schedule(_Strict, frozen=True):
    """Segments in order; `steps` is their sum."""

    steps: Steps
    segments: list[Segment]
    region: RegionPolicy = RegionPolicy()
    solver: Solver = "euler"
    """"euler", or "ab2": the second-order Adams-Bashforth step over steps of any length, Euler first."""

    def __str__(self) -> str:
        """The short form; JSON where that cannot say when a segment ends."""
        if any(s.until and s.until.below != Settled().below for s in self.segments):
            return schedule_json(self)
        return ";".join(filter(None, [",".join(map(str, self.segments)), ",".join(self._policy())]))

    def _policy(self) -> list[str]:
        """The short form's second half: signal and ratio where there is a region, else what differs from a default."""
        stated = [f"solver={self.solver}"] if self.solver != "euler" else []
        if not self.has_region:
            return stated
        defaults = RegionPolicy()
        for name in RegionPolicy.__struct_fields__:
            value = getattr(self.region, name)
            if name in ("signal", "ratio") or value != getattr(defaults, name):
                stated.append(f"{name}={value}")
        return stated

    @property
    def has_region(self) -> bool:
        """Whether any segment runs large on a region."""
        return any(s.large == "region" for s in self.segments)

    def runs(self, segment: Segment) -> Iterator[Segment]:
        """A segment as it runs.

        A refresh puts one step of large on the whole picture between region steps; a new choice parts them.
        """
        refresh, reselect = self.region.refresh, self.region.reselect
        if segment.large != "region" or refresh == reselect == 0:
            yield segment
            return
        every, left = refresh or reselect, segment.steps
        # A refresh with no region step behind it would be wasted: the last run takes its step instead.
        spare = 1 if refresh else 0
        while left > 0:
            run = left if left <= every + spare else every
            yield msgspec.structs.replace(segment, steps=run)
            left -= run
            if refresh and left > 0:
                yield Segment(1, "full", None)
                left -= 1

    def unrolled(self) -> Iterator[Segment]:
        """All segments as they run if none ends early."""
        for segment in self.segments:
            yield from self.runs(segment)


def schedule_json(schedule: Schedule) -> str:
    """The JSON spelling, on one line."""
    return msgspec.json.encode(schedule).decode()
