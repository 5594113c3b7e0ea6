"""Which schedules are set beside each other, and what each of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from hsruntime.bundle.manifest import Manifest
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
    kind: Kind


@dataclass(frozen=True)
class Plan:
    """The references first, then what is measured against them; `left_out` says what this bundle cannot run."""

    contenders: tuple[Contender, ...]
    left_out: tuple[str, ...] = ()


def plan_for(manifest: Manifest, wanted: Sequence[str]) -> Plan:
    """The schedules `wanted`, or the default choice if there are none. Raises ScheduleError."""
    steps = manifest.facts.defaults.steps
    found = {name: resolve_schedule(name, None, steps) for name in (LARGE, CONVERGED, *wanted)}
    left_out: list[str] = []
    if not wanted:
        found |= {f"large:{n}": resolve_schedule(f"large:{n}", None, steps) for n in FEWER_STEPS}
        for preset in PRESETS:
            try:
                found[preset] = resolve_schedule(preset, None, steps)
            except ScheduleError as err:
                left_out.append(f"{preset} is left out: {err.message}")
        found |= _controls(manifest)
    return Plan(tuple(_without_twins(found)), tuple(left_out))


def kind_of(schedule: Schedule) -> Kind:
    """What the schedule is, from what it runs."""
    modes = {segment.mode for segment in schedule.segments}
    if modes == {"large"}:
        plain = [Segment(schedule.steps, large="full")]
        return "large" if schedule.segments == plain and schedule.solver == "euler" else "solver"
    if modes == {"small"}:
        return "small"
    if schedule.has_region and schedule.region.signal in CONTROLS:
        return "random" if schedule.region.signal == "random" else "center"
    return "mixture"


def _controls(manifest: Manifest) -> dict[str, Schedule]:
    """The default schedule if it has a region, else HybridStitch's, with regions that look at nothing."""
    steps = manifest.facts.defaults.steps
    default = resolve_schedule(manifest.facts.defaults.schedule, None, steps)
    name = manifest.facts.defaults.schedule if manifest.facts.defaults.schedule in PRESETS else "default"
    if not default.has_region:
        name, default = "hybridstitch", hybridstitch(max(steps, 3))
    policy, replace = default.region, msgspec.structs.replace
    return {f"{name}, {s} region": replace(default, region=replace(policy, signal=s)) for s in CONTROLS}


def _without_twins(found: dict[str, Schedule]) -> list[Contender]:
    """One contender per schedule, under its first name; both references stay, even where they are one schedule."""
    kept: list[Contender] = []
    for name, schedule in found.items():
        if name in (LARGE, CONVERGED) or all(str(schedule) != str(c.schedule) for c in kept):
            kept.append(Contender(name, schedule, kind_of(schedule)))
    return kept
