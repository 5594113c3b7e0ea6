"""Schedules as data: segments of steps in one mode, the solver, and the region policy; and which of them can run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hsengines.errors import HSError
from hsruntime.facts import SHIFTS, Strict
from hsruntime.loop.program import MARKED, SIGNALS, reads

Signal = Annotated[str, Meta(pattern=rf"\A({'|'.join(SIGNALS)})\Z")]
Solver = Literal["euler", "ab2", "dpmpp_2m"]
Grid = Literal["diffusers", "trailing", "karras", "exponential", "beta"]
Level = Annotated[float, Meta(gt=0, le=1)]
Guidance = Literal["full", "held", "off"]

MODES = {
    "large": ("full", None, None),
    "hybrid": ("region", "full", None),
    "refined": ("region", None, "full"),
    "region": ("region", None, None),
    "small": (None, "full", None),
    "light": (None, None, "full"),
    "skip": (None, None, None),
}
"""The short form's names, as what large, small and light do in such a segment."""


NETWORKS = ("large", "small", "light")
"""What a segment's steps may run, in the order of MODES."""

MAX_STEPS = 10_000
"""No schedule is longer; how many steps a bundle takes depends on its scheduler."""

Steps = Annotated[int, Meta(ge=1, le=MAX_STEPS)]


class ScheduleError(HSError):
    """A schedule that cannot be read or cannot be run."""


class Settled(Strict, frozen=True, omit_defaults=True):
    """Ends a segment early, once its model's velocity changes less and less; the next one takes the steps left.

    SRDiffusion's rule (arXiv 2505.19151): with o_t the guided velocity of step t and
    d_t = tanh(mean|o_t - o_(t-1)| / mean|o_(t-1)|), the segment ends after the first step, from `least` on, at which
    d_(t-1) - d_t lies between 0 and `below`. The means run over the whole batch.
    """

    least: Steps = 5
    below: Annotated[float, Meta(gt=0)] = 0.01


class Segment(Strict, frozen=True, omit_defaults=True):
    """A run of steps in one mode; with `until` as many steps at most.

    `guidance`: "full" computes both rows of every picture. "held" computes the prompt's row alone and takes the
    difference to the other from the last step in which both ran on the whole picture; "off" takes none.
    """

    steps: Steps
    large: Literal["full", "region"] | None = None
    small: Literal["full"] | None = None
    light: Literal["full"] | None = None
    guidance: Guidance = "full"
    until: Settled | None = None

    @property
    def mode(self) -> str:
        """The short form's name of what this segment does."""
        return next(name for name, parts in MODES.items() if parts == self.parts)

    @property
    def parts(self) -> tuple[str | None, str | None, str | None]:
        """What large, small and light do."""
        return self.large, self.small, self.light

    @property
    def model(self) -> str:
        """Whose velocities its steps take: large's own, on a region or by its outer blocks, go on as one.

        "" for skipped steps, which go on with those before.
        """
        if not any(self.parts):
            return ""
        return "large" if self.small is None else self.mode

    @property
    def is_whole(self) -> bool:
        """Whether a network runs over the whole picture, with both rows under guidance."""
        return self.guidance == "full" and self.large != "region" and any(self.parts)

    def __str__(self) -> str:
        guidance = "" if self.guidance == "full" else f"+{self.guidance}"
        steps = f"{self.until.least}-{self.steps}" if self.until else str(self.steps)
        return f"{self.mode}{guidance}:{steps}"


class RegionPolicy(Strict, frozen=True, omit_defaults=True):
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


class Schedule(Strict, frozen=True, omit_defaults=True):
    """Segments in order; `steps` is their sum."""

    steps: Steps
    segments: list[Segment]
    region: RegionPolicy = RegionPolicy()
    solver: Solver = "euler"
    """"euler", or of second order "ab2", Adams-Bashforth, or "dpmpp_2m", DPM-Solver++ (hsruntime.loop.solvers)."""
    grid: Grid = "diffusers"
    """How noise levels are spaced: as diffusers has them for the pair, or as hsruntime.loop.flow says."""
    shift: Annotated[float, Meta(ge=SHIFTS[0], le=SHIFTS[1])] | None = None
    """In place of the pair's own shift of noise levels."""
    sigmas: tuple[Level, ...] = ()
    """The noise levels themselves, one for each step, falling; none for those of the grid."""
    start: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0
    """Of the grid's steps, how many lie before the first: a picture that begins from another takes the later ones."""
    guidance: tuple[Annotated[float, Meta(ge=0, le=1)], Level] | None = None
    """Noise levels between which there is guidance (Kynkaanniemi et al., arXiv 2404.07724): above the first, up to the
    second. Elsewhere the prompts' rows run alone."""
    order: Literal[0, 1, 2] = 1
    """Of the polynomial that skipped steps follow, as far as velocities are there (hsruntime.loop.solvers)."""

    def __str__(self) -> str:
        """The short form; JSON where that cannot say when a segment ends."""
        if any(s.until and s.until.below != Settled().below for s in self.segments):
            return schedule_json(self)
        return ";".join(filter(None, [",".join(folded(list(map(str, self.segments)))), ",".join(self._policy())]))

    def _policy(self) -> list[str]:
        """The short form's second half: signal and ratio where there is a region, else what differs from a default."""
        stated = [f"solver={self.solver}"] if self.solver != "euler" else []
        stated += [f"grid={self.grid}"] if self.grid != "diffusers" else []
        stated += [f"shift={self.shift:g}"] if self.shift is not None else []
        stated += [f"sigmas={'/'.join(f'{sigma:g}' for sigma in self.sigmas)}"] if self.sigmas else []
        stated += [f"start={self.start}"] if self.start else []
        stated += [f"guidance={'/'.join(f'{sigma:g}' for sigma in self.guidance)}"] if self.guidance else []
        stated += [f"order={self.order}"] if self.order != 1 else []
        if not self.has_region:
            return stated
        defaults = RegionPolicy()
        for name in RegionPolicy.__struct_fields__:
            value = getattr(self.region, name)
            if name == "ratio" and self.region.signal == MARKED:
                continue  # the mark says how large it is
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
                yield Segment(1, "full")
                left -= 1

    def unrolled(self) -> Iterator[Segment]:
        """All segments as they run if none ends early."""
        for segment in self.segments:
            yield from self.runs(segment)


def folded(parts: list[str]) -> Iterator[str]:
    """Segments with two that take turns written once: `(skip:2,large:1)*8`."""
    while parts:
        pair = parts[:2]
        times = next((n for n in range(1, len(parts)) if parts[2 * n : 2 * n + 2] != pair), 1)
        if times > 1 and len(pair) == 2:
            yield f"({','.join(pair)})*{times}"
            del parts[: 2 * times]
        else:
            yield parts.pop(0)


def schedule_json(schedule: Schedule) -> str:
    """The JSON spelling, on one line."""
    return msgspec.json.encode(schedule).decode()


def check_schedule(schedule: Schedule) -> Schedule:
    """Returns `schedule`. Raises ScheduleError naming the first segment that cannot run and why."""
    _check_fields(schedule)
    total = sum(s.steps for s in schedule.segments)
    if not schedule.segments:
        raise ScheduleError("a schedule needs at least one segment", "for example large:10,hybrid:10,small:8")
    if total != schedule.steps:
        raise ScheduleError(f"the segments have {total} steps together, the schedule says {schedule.steps}")
    for number, segment in enumerate(schedule.segments, start=1):
        if segment.parts not in MODES.values():
            found = ", ".join(f"{name} {part or 'off'}" for name, part in zip(NETWORKS, segment.parts, strict=True))
            raise ScheduleError(f"segment {number}: {found} is not a mode", f"allowed: {', '.join(MODES)}")
        _check_until(schedule, number, segment)
        _check_held(schedule, number, segment)
        _check_skip(number, segment)
        if segment.light:
            _check_light(schedule, number, segment)
        if segment.large == "region":
            _check_cache(schedule, number, segment)
            if reads(schedule.region.signal, "previous"):
                _check_change(schedule, number)
    _check_choices(schedule)
    _check_levels(schedule)
    _check_interval(schedule)
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


def _check_skip(number: int, segment: Segment) -> None:
    """Raises ScheduleError for a skipped step that no velocity lies behind, or that is to have guidance of its own."""
    if any(segment.parts):
        return
    if number == 1:
        raise ScheduleError(f"segment 1 ({segment}) goes on with a velocity of a step before it", "put large in front")
    if segment.guidance != "full":
        raise ScheduleError(f"segment {number} ({segment}) runs no network, and no guidance", "leave it out")


def _check_light(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError unless large ran on the whole picture before, in all rows that light runs in."""
    before = [s for s in schedule.segments[: number - 1] if s.large == "full"]
    if not before:
        raise ScheduleError(
            f"segment {number} ({segment}) takes what large's middle blocks did in a step before it, and there is none",
            "put a large segment in front of it",
        )
    if segment.guidance == "full" and before[-1].guidance != "full":
        raise ScheduleError(
            f"segment {number} ({segment}) has full guidance, and {before[-1]} before it leaves some out",
            "put a large segment with full guidance between them",
        )
    if segment.large and reads(schedule.region.signal, "other") and before[-1].steps < 2:
        raise ScheduleError(
            f"segment {number} ({segment}): signal '{schedule.region.signal}' has light try large's last step by the "
            "one before it, and there is one",
            "give the large segment 2 steps or more, or use signal=std",
        )


def _check_interval(schedule: Schedule) -> None:
    """Raises ScheduleError for an interval of noise levels that is none, or that steps of unknown number fall into."""
    if schedule.guidance is None:
        return
    low, high = schedule.guidance
    if low >= high:
        raise ScheduleError(f"guidance {low:g}/{high:g}: the first is not below the second", "for example 0.2/0.9")
    if any(s.until for s in schedule.segments):
        raise ScheduleError(
            "guidance is for noise levels, and a segment that ends early may end at any", "fix its steps"
        )


def _check_choices(schedule: Schedule) -> None:
    """Raises ScheduleError for a policy of choosing anew that contradicts itself."""
    policy = schedule.region
    if policy.refresh and policy.reselect:
        raise ScheduleError("refresh and reselect both choose the region anew", "leave one of the two out")
    if policy.reselect and reads(policy.signal, "other"):
        raise ScheduleError(
            f"signal '{policy.signal}' compares whole pictures, between region steps there are none",
            "use signal=std with reselect",
        )
    if policy.reselect and any(s.large == "region" and s.guidance != "full" for s in schedule.segments):
        raise ScheduleError("reselect renews keys and values of all rows, which wants full guidance", "use refresh")


def _check_levels(schedule: Schedule) -> None:
    """Raises ScheduleError for noise levels that do not fall, or are not as many as the steps."""
    levels = schedule.sigmas
    if not levels:
        return
    if schedule.start:
        raise ScheduleError("sigmas are those of the steps, and start leaves steps of a grid out", "leave one out")
    if schedule.grid != "diffusers" or schedule.shift is not None:
        raise ScheduleError("sigmas are noise levels, and grid and shift make others", "leave one of the two out")
    if len(levels) != schedule.steps:
        raise ScheduleError(f"there are {len(levels)} sigmas for {schedule.steps} steps", "give one for each step")
    if any(later >= earlier for earlier, later in pairwise(levels)):
        raise ScheduleError("sigmas do not fall from each to the next", "begin with 1, and end above 0")


def _check_until(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError where nothing could take the steps that an early end leaves."""
    signal = schedule.region.signal
    if segment.until is None:
        return
    if segment.until.least > segment.steps:
        raise ScheduleError(f"segment {number} ({segment}): at least {segment.until.least} of {segment.steps} steps")
    if segment.large == "region" or not any(segment.parts):
        raise ScheduleError(f"segment {number} ({segment}): an early end is for a network on the whole picture")
    if number == len(schedule.segments):
        raise ScheduleError(
            f"segment {number} ({segment}) may end early, and no segment follows", "let the next one take what is left"
        )
    if schedule.segments[number].large == "region" and reads(signal, "other"):
        raise ScheduleError(
            f"segment {number} ({segment}): signal '{signal}' must know the last step before it is taken",
            "use signal=change",
        )


def _check_held(schedule: Schedule, number: int, segment: Segment) -> None:
    """Raises ScheduleError where no step left a guidance difference to hold."""
    if segment.guidance != "held":
        return
    whole = (s for s in schedule.segments[: number - 1] if s.is_whole)
    if next(whole, None) is None:
        raise ScheduleError(
            f"segment {number} ({segment}) holds the guidance of a step before it, and there is none",
            "put a large or small segment with full guidance in front of it",
        )


def _check_change(schedule: Schedule, number: int) -> None:
    """Raises ScheduleError unless large ran on the whole picture in both steps that the signal compares."""
    signal = schedule.region.signal
    if schedule.region.refresh > 0:
        raise ScheduleError(
            f"signal '{schedule.region.signal}' compares two steps of large in a row, a refresh has one",
            "use signal=gap or refresh=0",
        )
    if schedule.segments[number - 2].large == "region":
        return  # the choice stands
    before = takewhile(lambda s: s.large == "full", reversed(schedule.segments[: number - 1]))
    if sum(s.until.least if s.until else s.steps for s in before) < 2:
        raise ScheduleError(
            f"segment {number}: signal '{signal}' compares two steps of large directly before it, there is one",
            "give the large segment 2 steps or more, or use signal=gap",
        )


def printable(err: Exception) -> str:
    """The error on one line that any terminal can show; it may quote what the user wrote."""
    return str(err).encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
