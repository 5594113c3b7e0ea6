"""What is checked, and everything that is measured as the JSON file holds it.

Times are medians; a number that could not be had is None, one that is not finite is so in JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct, field

from hsexport.measure.turns import ScheduleTime


class Target(Struct, frozen=True):
    """One bundle to build and measure."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class Asked(Struct, frozen=True):
    """The same for every target."""

    large: str
    small: str
    out: Path
    cache: Path
    size: tuple[int, int] | None = None  # in pixels; None is what large was trained at
    max_batch: int = 1
    steps: int = 28
    ratio: float = 0.3
    rounds: int = 5
    threads: int = 0  # of the CPU, 0 for all

    @property
    def region(self) -> str:
        """The region policy in a schedule's short form."""
        return f"signal=gap,ratio={self.ratio}"


class BackendState(Struct):
    """Whether a backend works here, and if not, why."""

    backend: str
    version: str
    why_not: str


class Problem(Struct):
    """A part of the check that ended early, in one line."""

    part: str
    message: str


class Build(Struct):
    """How a bundle was built; `seconds` says little where its cache held the products already."""

    seconds: float
    size_mb: float
    builder: str
    target: str
    kept: int  # products that an earlier build had left
    made: int


class EngineParity(Struct):
    """One engine on the device beside the fp32 reference on the CPU."""

    engine: str
    precision: str
    size_mb: float
    reference: str
    max_relative: float | None  # largest error over the output's largest value
    tolerance: float
    passed: bool


class GraphEquality(Struct):
    """The same picture with and without CUDA graphs."""

    schedule: str
    latents_equal: bool  # bit by bit
    pictures_equal: bool
    max_difference: float | None  # of the latents


class StepTime(Struct):
    """One step in milliseconds: in the loop, and as the device takes it when work is always waiting for it."""

    step: str
    loop_ms: float
    plain_ms: float | None  # in the loop without CUDA graphs; None on a CPU, which has none
    device_ms: float
    device_over_full: float
    flops_over_full: float
    over_arithmetic: float  # measured ratio to a full step over the one that counting operations gives


class Gap(Struct):
    """Share of the loop's time in which the device has nothing to do, with CUDA graphs and without."""

    step: str
    graphs: float
    plain: float | None


class Memory(Struct):
    """Peaks after every schedule has run, in MiB."""

    device: str
    total_mb: float | None  # the device's own
    used_mb: float | None  # what the session took of it, engines included
    tensors_mb: float


class FirstPicture(Struct):
    """Seconds; the process starts with files in the system's cache."""

    process_s: float  # `hsexport run` from its start to its end: one picture by the default schedule
    process_mib: float | None  # the most host memory that this process held; None where the system does not tell
    open_s: float
    warm_up_s: float
    first_s: float  # the first picture after the warm-up
    next_s: float


class TargetResult(Struct):
    """One bundle, as far as it came."""

    backend: str
    precision: str
    device: str = ""
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    build: Build | None = None
    parity: list[EngineParity] = field(default_factory=list)
    equality: list[GraphEquality] = field(default_factory=list)
    steps: list[StepTime] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    outside: Gap | None = None  # the stitched loop with engines that do nothing, over the loop
    schedules: list[ScheduleTime] = field(default_factory=list)
    memory: Memory | None = None
    first: FirstPicture | None = None


class TorchTime(Struct):
    """Large alone in torch, eager or compiled: whole pictures over the same steps."""

    way: str
    precision: str
    device: str
    seconds: float | None = None
    problem: str = ""


class Report(Struct):
    """All of it."""

    date: str
    hardware: dict[str, Any]
    plan: dict[str, Any]
    backends: list[BackendState]
    targets: list[TargetResult] = field(default_factory=list)
    torch: list[TorchTime] = field(default_factory=list)
