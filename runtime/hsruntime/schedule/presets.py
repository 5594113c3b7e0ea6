"""Schedules from words: what a method is called, the short form `large:10,hybrid:10,small:8;ratio=0.3`, or JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import cycle as it_cycle
from itertools import groupby, islice
from typing import Any, Literal, get_args

import msgspec

from hsruntime.loop.program import MARKED, SIGNALS
from hsruntime.schedule.schedule import (
    MAX_STEPS,
    MODES,
    Grid,
    Level,
    RegionPolicy,
    Schedule,
    ScheduleError,
    Segment,
    Settled,
    Solver,
    check_schedule,
    printable,
)


def _segment(mode: str, steps: int, until: Settled | None = None, guidance: str = "full") -> Segment:
    return Segment(steps, *MODES[mode], guidance, until)  # type: ignore[arg-type]


def _split(name: str, steps: int, *parts: tuple[str, float]) -> list[Segment]:
    """Segments of (mode, share) as near to their shares as whole steps are; each gets one at least."""
    if steps < len(parts):
        raise ScheduleError(
            f"preset '{name}' has {len(parts)} segments, {steps} steps are too few", f"ask for {len(parts)} or more"
        )
    segments, left = [], steps
    for number, (mode, share) in enumerate(parts, start=1):
        behind = len(parts) - number
        count = left if behind == 0 else max(1, min(left - behind, round(steps * share)))
        segments.append(_segment(mode, count))
        left -= count
    return segments


def large(steps: int) -> Schedule:
    """Large alone: the reference."""
    return Schedule(steps, [_segment("large", steps)])


def small(steps: int) -> Schedule:
    """Small alone: the ceiling of speed."""
    return Schedule(steps, [_segment("small", steps)])


def fewer_steps(steps: int) -> Schedule:
    """Large alone in half the steps: the control that any mixture has to beat."""
    return large(max(1, round(steps / 2)))


def hybridstitch(steps: int) -> Schedule:
    """HybridStitch (arXiv 2603.07815): large; large on the hard region while small sketches the whole; small.

    The paper's split is not public. Ours follows from measurement on the demo pair (docs/schedules.md).
    """
    parts = ("large", 8 / 28), ("hybrid", 7 / 28), ("small", 1.0)
    return Schedule(steps, _split("hybridstitch", steps, *parts), RegionPolicy())


def tstitch(steps: int) -> Schedule:
    """T-Stitch (arXiv 2402.14167): small for the first share of the steps, then large; 1.4 times as fast here."""
    return Schedule(steps, _split("tstitch", steps, ("small", 12 / 28), ("large", 1.0)))


def srdiffusion(steps: int) -> Schedule:
    """SRDiffusion (arXiv 2505.19151) with a fixed switch: large first, then small; 1.55 times as fast here."""
    return Schedule(steps, _split("srdiffusion", steps, ("large", 0.5), ("small", 1.0)))


def srdiffusion_adaptive(steps: int) -> Schedule:
    """SRDiffusion with its own switch: large until its velocity settles, from step 5 on, then small."""
    if steps < 6:
        raise ScheduleError(f"preset 'srdiffusion_adaptive' switches after step 5, {steps} are too few", "ask for 6")
    return Schedule(steps, [_segment("large", steps - 1, Settled()), _segment("small", 1)])


def ras(steps: int) -> Schedule:
    """RAS (arXiv 2502.10389): after four whole steps large on half the tokens, chosen anew at every step.

    Whole steps at 12 and 22 of 28 reset the error; tokens left out keep their last velocity, keys and values.
    """
    parts = ("large", 4 / 28), ("region", 8 / 28), ("large", 1 / 28), ("region", 9 / 28), ("large", 1 / 28)
    segments = _split("ras", steps, *parts, ("region", 1.0))
    return Schedule(steps, segments, RegionPolicy(signal="std", ratio=0.5, reselect=1, starvation=0.1))


def flowblending(steps: int) -> Schedule:
    """FlowBlending (arXiv 2512.24724): large early and late, small between."""
    return Schedule(steps, _split("flowblending", steps, ("large", 7 / 28), ("small", 15 / 28), ("large", 1.0)))


def regionstitch(steps: int) -> Schedule:
    """Ours: large; then large on the region alone, what lies outside moving on at its last velocity.

    The text's keys and values are cached with the others, and the solver is of second order.
    """
    segments = _split("regionstitch", steps, ("large", 8 / 28), ("region", 1.0))
    return Schedule(steps, segments, RegionPolicy(text="cached"), "ab2")


def _cycles(steps: int, first: int, cycle: str, *, last: str = "large") -> list[Segment]:
    """`first` steps of large, then modes in turn, the last step whole."""
    modes = ["large"] * first + list(islice(it_cycle(cycle.split()), max(0, steps - first)))
    modes = [*modes[: steps - 1], last][:steps]
    return [_segment(mode, len(list(run))) for mode, run in groupby(modes)]


def taylorseer(steps: int) -> Schedule:
    """TaylorSeer's output form (arXiv 2503.06923): after two whole steps every third, its velocity foretold between."""
    return Schedule(steps, _cycles(steps, 2, "skip skip large"), order=1)


def dbcache(steps: int) -> Schedule:
    """DBCache's and Delta-DiT's idea (arXiv 2406.01125): after two whole steps every second without middle blocks.

    What they added in the last whole step is added again. The bundle must have been built with --light.
    """
    return Schedule(steps, _cycles(steps, 2, "light large"))


def lightstitch(steps: int) -> Schedule:
    """Ours: large; then its outer blocks sketch the whole picture, and all of them refine the region.

    Every third step is a whole one, for what the middle blocks add grows old sooner than a region's cache. The bundle
    must have been built with --light.
    """
    segments = _split("lightstitch", steps, ("large", 4 / 28), ("refined", 1.0))
    return Schedule(steps, segments, RegionPolicy(signal="std", refresh=2))


def edit(steps: int) -> Schedule:
    """Ours: of a picture with a mask, large on its tokens alone; what lies outside follows the original.

    Every third step is a whole one, and renews keys, values and the guidance that the steps between hold: cheaper and
    nearer than steps with guidance of their own and fewer whole ones. The request must have a mask.
    """
    segments = [_segment("large", 1)]
    segments += [_segment("region", steps - 1, guidance="held")] if steps > 1 else []
    return Schedule(steps, segments, RegionPolicy(signal=MARKED, refresh=2, text="cached"))


PRESETS: dict[str, Callable[[int], Schedule]] = {
    preset.__name__: preset
    for preset in (
        hybridstitch, regionstitch, lightstitch, tstitch, srdiffusion, srdiffusion_adaptive, ras, flowblending,
        taylorseer, dbcache, edit, fewer_steps, large, small,
    )
}  # fmt: skip


def resolve_schedule(wanted: str | Schedule, steps: int | None, default_steps: int) -> Schedule:
    """A schedule from a preset's name, either spelling, or itself.

    `steps` scales a preset; for written-out segments it must equal their sum. Raises ScheduleError.
    """
    if steps is not None and steps < 1:
        raise ScheduleError(f"{steps} steps are too few", "ask for 1 or more")
    if (steps or default_steps) > MAX_STEPS:
        raise ScheduleError(f"more than {MAX_STEPS} steps were asked for", f"ask for {MAX_STEPS} or fewer")
    if isinstance(wanted, str) and (name := wanted.partition(";")[0].strip()) in PRESETS:
        return _preset(name, wanted.partition(";")[2], steps or default_steps)
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


def _preset(name: str, own: str, steps: int) -> Schedule:
    """A preset with another solver, grid or shift."""
    fields = _fields(own)
    if foreign := [key for key in fields if key not in OWN]:
        raise ScheduleError(
            f"preset '{name}' does not take {quoted(foreign[0])}",
            f"allowed behind a preset: {', '.join(OWN)}; write its segments out for more",
        )
    return check_schedule(msgspec.structs.replace(PRESETS[name](steps), **_own_from_fields(fields)))


def _fields(policy: str) -> dict[str, str]:
    """What stands behind the semicolon."""
    parts = (part.partition("=") for part in policy.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in parts}


LONGEST = 100 * MAX_STEPS
"""Characters of a schedule that is written out."""
GUIDANCES = ("held", "off")
OWN: dict[str, tuple[Any, str]] = {
    "solver": (Solver, ", ".join(get_args(Solver))),
    "grid": (Grid, ", ".join(get_args(Grid))),
    "shift": (float, "a number above 0, as 2.5"),
    "sigmas": (tuple[Level, ...], "numbers above 0 up to 1, as 1/0.8/0.5/0.2"),
    "guidance": (tuple[float, Level], "two noise levels from 0 to 1, as 0.2/0.9"),
    "order": (Literal[0, 1, 2], "0, 1, 2"),
    "start": (int, "steps that are left out, as 11"),
}
"""What follows the semicolon and is no region policy: its type, and what is allowed, in words."""


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

    A segment is `mode[+guidance]:steps`, guidance being held or off; `large:5-23` may end early from step 5 on, and
    `(skip:2,large:1)*8` stands for eight times what is in brackets.
    """
    text = text.strip()
    if text.startswith("{"):
        return schedule_from_json(text)
    modes, _, policy = text.partition(";")
    parts = TURNS.sub(_written_out, modes).split(",")
    segments = [_segment_from_text(number, part) for number, part in enumerate(parts, start=1)]
    fields = _fields(policy)
    own = _own_from_fields({name: fields.pop(name) for name in OWN if name in fields})
    region = _region_from_fields(policy, fields) if fields else RegionPolicy()
    return check_schedule(Schedule(sum(s.steps for s in segments), segments, region, **own))


TURNS = re.compile(r"\(([^()]*)\)\*(\d{1,5})(?!\d)")


def _written_out(turns: re.Match[str]) -> str:
    """Segments as often as they are asked for. Raises ScheduleError before that fills the memory."""
    times = int(turns[2])
    if not 1 <= times <= MAX_STEPS or times * len(turns[1]) > LONGEST:
        raise ScheduleError(f"{quoted(turns[0])}: {times} times cannot be run", f"at most {MAX_STEPS} steps can")
    return ",".join([turns[1]] * times)


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
    return _segment(mode, steps, until, guidance or "full")


def _steps_from_text(subject: str, count: str) -> int:
    if count.isdecimal() and (len(count) > len(str(MAX_STEPS)) or int(count) > MAX_STEPS):
        raise ScheduleError(f"{subject}: that is more than {MAX_STEPS} steps", f"ask for {MAX_STEPS} or fewer")
    if not count.isdecimal() or int(count) < 1:
        raise ScheduleError(f"{subject}: {quoted(count)} is not a number of steps", "write mode:steps, steps from 1")
    return int(count)


def _own_from_fields(fields: dict[str, str]) -> dict[str, Any]:
    """What a schedule has beside its region policy."""
    made: dict[str, Any] = {}
    for name, text in fields.items():
        kind, allowed = OWN[name]
        given: object = text.split("/") if name in ("sigmas", "guidance") else text
        given = int(text) if name == "order" and text.isdecimal() else given
        try:
            made[name] = msgspec.convert(given, kind, strict=False)
        except (msgspec.ValidationError, ValueError) as err:
            raise ScheduleError(f"there is no {name} {quoted(text)}", f"allowed: {allowed}") from err
    return made


def _region_from_fields(text: str, fields: dict[str, str]) -> RegionPolicy:
    try:
        return msgspec.convert(fields, RegionPolicy, strict=False)
    except (msgspec.ValidationError, ValueError) as err:
        raise ScheduleError(
            f"region policy {quoted(text)}: {printable(err)}",
            f"allowed: {', '.join(OWN)}, signal={'|'.join(SIGNALS)}, ratio above 0 up to 1, refresh and "
            "reselect from 0, starvation, text=live|cached",
        ) from err
