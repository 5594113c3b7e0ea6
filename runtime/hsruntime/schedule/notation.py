"""Schedules from text: JSON, or the short form `large:10,hybrid:10,small:8;signal=gap,ratio=0.3`."""

from __future__ import annotations

from typing import get_args

import msgspec

from hsruntime.loop.program import SIGNALS
from hsruntime.schedule.schedule import (
    MAX_STEPS,
    MODES,
    RegionPolicy,
    Schedule,
    ScheduleError,
    Segment,
    Settled,
    Solver,
    check_schedule,
    printable,
)

GUIDANCES = ("held", "off")


def schedule_from_json(text: str | bytes) -> Schedule:
    """Parses the JSON spelling. Raises ScheduleError naming the field."""
    try:
        return check_schedule(msgspec.json.decode(text, type=Schedule))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as err:
        raise ScheduleError(
            f"schedule: {printable(err)}", 'for example {"steps": 8, "segments": [{"steps": 8, "large": "full"}]}'
        ) from err


def schedule_from_text(text: str) -> Schedule:
    """Parses either spelling. Raises ScheduleError naming the part.

    A segment is `mode[+guidance]:steps`, guidance being held or off; `large:5-23` may end early from step 5 on.
    """
    text = text.strip()
    if text.startswith("{"):
        return schedule_from_json(text)
    modes, _, policy = text.partition(";")
    segments = [_segment_from_text(number, part) for number, part in enumerate(modes.split(","), start=1)]
    fields = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in policy.split(","))}
    solver = _solver_from_text(fields.pop("solver", "euler"))
    region = _region_from_fields(policy, fields) if any(fields) else RegionPolicy()
    return check_schedule(Schedule(sum(s.steps for s in segments), segments, region, solver))


def quoted(text: str) -> str:
    """What the user wrote, fit for one line of a message: shortened, and escaped where it cannot be printed."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _segment_from_text(number: int, text: str) -> Segment:
    subject = f"segment {number} {quoted(text.strip())}"
    name, _, count = text.strip().partition(":")
    mode, plus, guidance = name.partition("+")
    if mode not in MODES:
        raise ScheduleError(f"{subject}: there is no mode {quoted(mode)}", f"allowed: {', '.join(MODES)}")
    if plus and guidance not in GUIDANCES:
        raise ScheduleError(f"{subject}: there is no guidance {quoted(guidance)}", f"allowed: {', '.join(GUIDANCES)}")
    least, dash, most = count.partition("-")
    steps = _steps_from_text(subject, most if dash else count)
    until = Settled(_steps_from_text(subject, least)) if dash else None
    large, small = MODES[mode]
    fields = {"steps": steps, "large": large, "small": small, "guidance": guidance or "full", "until": until}
    return msgspec.convert(fields, Segment)


def _steps_from_text(subject: str, count: str) -> int:
    if count.isdecimal() and (len(count) > len(str(MAX_STEPS)) or int(count) > MAX_STEPS):
        raise ScheduleError(f"{subject}: that is more than {MAX_STEPS} steps", f"ask for {MAX_STEPS} or fewer")
    if not count.isdecimal() or int(count) < 1:
        raise ScheduleError(f"{subject}: {quoted(count)} is not a number of steps", "write mode:steps, steps from 1")
    return int(count)


def _solver_from_text(text: str) -> Solver:
    try:
        return msgspec.convert(text, Solver)
    except msgspec.ValidationError as err:
        raise ScheduleError(f"there is no solver {quoted(text)}", f"allowed: {', '.join(get_args(Solver))}") from err


def _region_from_fields(text: str, fields: dict[str, str]) -> RegionPolicy:
    try:
        return msgspec.convert(fields, RegionPolicy, strict=False)
    except (msgspec.ValidationError, ValueError) as err:
        raise ScheduleError(
            f"region policy {quoted(text)}: {printable(err)}",
            f"allowed: solver=euler|ab2, signal={'|'.join(SIGNALS)}, ratio above 0 up to 1, refresh and "
            "reselect from 0, starvation, text=live|cached",
        ) from err
