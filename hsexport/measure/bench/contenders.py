"""Which schedules are set beside each other, and what each of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from hsruntime.facts import Defaults
from hsruntime.schedule.presets import PRESETS, hybridstitch, resolve_schedule
from hsruntime.schedule.schedule import Schedule, ScheduleError, Segment, Signal

Kind = Literal["large", "solver", "small", "mixture", "random", "center"]
"""How plots mark a schedule: large alone (`solver`: with another solver or guidance), small alone, both models or a
region of one, and a region chosen by chance or in the middle."""

LARGE, CONVERGED = "large", "large:100"
"""The references: large alone at the bundle's default steps, and where more steps change next to nothing."""
FEWER_STEPS = (8, 10, 12, 14, 16, 20, 24)
CONTROLS: tuple[Signal, ...] = ("random", "center")


@dataclass(frozen=True)
class Contender:
    """A schedule under the name that reports give it."""

    name: str
    schedule: Schedule

    @property
    def kind(self) -> Kind:
        """What the schedule is, from what it runs."""
        modes = {segment.mode for segment in self.schedule.segments}
        if modes == {"large"}:
            plain = [Segment(self.schedule.steps, large="full")]
            return "large" if self.schedule.segments == plain and self.schedule.solver == "euler" else "solver"
        if modes == {"small"}:
            return "small"
        if self.schedule.has_region and self.schedule.region.signal in CONTROLS:
            return "random" if self.schedule.region.signal == "random" else "center"
        return "mixture"


def contenders_for(defaults: Defaults, wanted: Sequence[str]) -> tuple[list[Contender], list[str]]:
    """The references, then the schedules `wanted`, or the default choice if there are none; and what it leaves out.

    Raises ScheduleError.
    """
    steps = defaults.steps
    found = {name: resolve_schedule(name, None, steps) for name in (LARGE, CONVERGED, *wanted)}
    left_out: list[str] = []
    if not wanted:
        found |= {f"large:{n}": resolve_schedule(f"large:{n}", None, steps) for n in FEWER_STEPS}
        for preset in PRESETS:
            try:
                found[preset] = resolve_schedule(preset, None, steps)
            except ScheduleError as err:
                left_out.append(f"{preset} is left out: {err.message}")
        found |= _controls(defaults)
    return _without_twins(found), left_out


def _controls(defaults: Defaults) -> dict[str, Schedule]:
    """The default schedule if it has a region, else HybridStitch's, with regions that look at nothing."""
    default = resolve_schedule(defaults.schedule, None, defaults.steps)
    name = defaults.schedule if defaults.schedule in PRESETS else "default"
    if not default.has_region:
        name, default = "hybridstitch", hybridstitch(max(defaults.steps, 3))
    policy, replace = default.region, msgspec.structs.replace
    return {f"{name}, {s} region": replace(default, region=replace(policy, signal=s)) for s in CONTROLS}


def _without_twins(found: dict[str, Schedule]) -> list[Contender]:
    """One contender per schedule, under its first name; both references stay, even where they are one schedule."""
    kept: list[Contender] = []
    for name, schedule in found.items():
        if name in (LARGE, CONVERGED) or all(str(schedule) != str(c.schedule) for c in kept):
            kept.append(Contender(name, schedule))
    return kept
