"""Schedules as data: segments of steps in one mode, and the region policy. Two spellings, JSON and a short one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from hsengines.errors import HSError

Signal = Literal["change", "gap", "random", "center"]

MODES = {"large": ("full", None), "hybrid": ("region", "full"), "small": (None, "full")}
"""The short form's names, as what large and small do in such a segment."""


MAX_STEPS = 10_000
"""No schedule is longer; how many steps a bundle takes depends on its scheduler."""

Steps = Annotated[int, Meta(ge=1, le=MAX_STEPS)]


class ScheduleError(HSError):
    """A schedule that cannot be read or cannot be run."""


class Segment(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run of steps in one mode."""

    steps: Steps
    large: Literal["full", "region"] | None = None
    small: Literal["full"] | None = None

    @property
    def mode(self) -> str:
        """The short form's name of what this segment does."""
        return next(name for name, parts in MODES.items() if parts == (self.large, self.small))


class RegionPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """How the active tokens are chosen: by which signal, how many, and how often anew (0: never)."""

    signal: Signal = "gap"
    ratio: Annotated[float, Meta(gt=0, le=1)] = 0.3
    refresh: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """Segments in order; `steps` is their sum."""

    steps: Steps
    segments: list[Segment]
    region: RegionPolicy = RegionPolicy()

    def __str__(self) -> str:
        text = ",".join(f"{s.mode}:{s.steps}" for s in self.segments)
        if not self.has_region:
            return text
        return f"{text};signal={self.region.signal},ratio={self.region.ratio},refresh={self.region.refresh}"

    @property
    def has_region(self) -> bool:
        """Whether any segment runs large on a region."""
        return any(s.large == "region" for s in self.segments)

    def unrolled(self) -> Iterator[Segment]:
        """The segments as they run: a refresh puts one step of large on the whole picture between hybrid steps."""
        for segment in self.segments:
            every = self.region.refresh
            if segment.large != "region" or every == 0:
                yield segment
                continue
            left = segment.steps
            while left > 0:
                run = left if left <= every + 1 else every  # a refresh with no hybrid step behind it would be wasted
                yield Segment(run, segment.large, segment.small)
                left -= run
                if left > 0:
                    yield Segment(1, "full", None)
                    left -= 1


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
        if segment.large == "region" and (number == 1 or schedule.segments[number - 2].large != "full"):
            raise ScheduleError(
                f"segment {number} ({segment.mode}:{segment.steps}) needs keys and values of a large step before it",
                "put a large segment directly in front of it",
            )
        if segment.large == "region" and schedule.region.signal == "change":
            _check_change(schedule, number)
    return schedule


def _check_fields(schedule: Schedule) -> None:
    """Structs made in Python are not checked by msgspec as parsed ones are."""
    try:
        msgspec.convert(msgspec.to_builtins(schedule), Schedule)
    except msgspec.ValidationError as err:
        raise ScheduleError(f"schedule: {_printable(err)}") from err


def _check_change(schedule: Schedule, number: int) -> None:
    """Raises ScheduleError unless large ran on the whole picture in both steps that the signal compares."""
    if schedule.region.refresh > 0:
        raise ScheduleError(
            "signal 'change' compares two steps of large in a row, a refresh has one", "use signal=gap or refresh=0"
        )
    before = takewhile(lambda s: s.large == "full", reversed(schedule.segments[: number - 1]))
    if sum(s.steps for s in before) < 2:
        raise ScheduleError(
            f"segment {number}: signal 'change' compares two steps of large directly before it, there is one",
            "give the large segment 2 steps or more, or use signal=gap",
        )


def _printable(err: Exception) -> str:
    """The error on one line that any terminal can show; it may quote what the user wrote."""
    return str(err).encode("ascii", "backslashreplace").decode().replace("\n", "\\n")


def schedule_from_json(text: str | bytes) -> Schedule:
    """Parses the JSON spelling. Raises ScheduleError naming the field."""
    try:
        return check_schedule(msgspec.json.decode(text, type=Schedule))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as err:
        raise ScheduleError(
            f"schedule: {_printable(err)}", 'for example {"steps": 8, "segments": [{"steps": 8, "large": "full"}]}'
        ) from err


def schedule_from_text(text: str) -> Schedule:
    """Parses JSON or the short form `large:10,hybrid:10,small:8[;signal=gap,ratio=0.3,refresh=0]`."""
    text = text.strip()
    if text.startswith("{"):
        return schedule_from_json(text)
    modes, _, policy = text.partition(";")
    segments = [_segment_from_text(number, part) for number, part in enumerate(modes.split(","), start=1)]
    region = _region_from_text(policy) if policy else RegionPolicy()
    return check_schedule(Schedule(sum(s.steps for s in segments), segments, region))


def schedule_json(schedule: Schedule) -> str:
    """The JSON spelling, on one line."""
    return msgspec.json.encode(schedule).decode()


def quoted(text: str) -> str:
    """What the user wrote, fit for one line of a message: shortened, and escaped where it cannot be printed."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _segment_from_text(number: int, text: str) -> Segment:
    subject = f"segment {number} {quoted(text.strip())}"
    mode, _, count = text.strip().partition(":")
    if mode not in MODES:
        raise ScheduleError(f"{subject}: there is no mode {quoted(mode)}", f"allowed: {', '.join(MODES)}")
    if count.isdecimal() and (len(count) > len(str(MAX_STEPS)) or int(count) > MAX_STEPS):
        raise ScheduleError(f"{subject}: that is more than {MAX_STEPS} steps", f"ask for {MAX_STEPS} or fewer")
    if not count.isdecimal() or int(count) < 1:
        raise ScheduleError(f"{subject}: {quoted(count)} is not a number of steps", "write mode:steps, steps from 1")
    large, small = MODES[mode]
    return msgspec.convert({"steps": int(count), "large": large, "small": small}, Segment)


def _region_from_text(text: str) -> RegionPolicy:
    fields = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in text.split(","))}
    try:
        return msgspec.convert(fields, RegionPolicy, strict=False)
    except (msgspec.ValidationError, ValueError) as err:
        raise ScheduleError(
            f"region policy {quoted(text)}: {_printable(err)}",
            "allowed: signal=change|gap|random|center, ratio above 0 up to 1, refresh from 0",
        ) from err
