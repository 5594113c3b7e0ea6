"""Everything that is measured, as the JSON file holds it. Times are medians; a number that could not be had is None."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


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
    kept: int
    """Products that an earlier build had left."""
    made: int


class EngineParity(Struct):
    """One engine on the device beside the fp32 reference on the CPU."""

    engine: str
    precision: str
    size_mb: float
    reference: str
    max_relative: float | None
    """Largest error over the output's largest value; None if something was not finite."""
    tolerance: float
    passed: bool


class GraphEquality(Struct):
    """The same picture with and without CUDA graphs."""

    schedule: str
    latents_equal: bool
    """Bit by bit."""
    pictures_equal: bool
    max_difference: float | None
    """Of the latents."""


class StepTime(Struct):
    """One step in milliseconds: in the loop, and as the device takes it when work is always waiting for it."""

    step: str
    loop_ms: float
    plain_ms: float | None
    """In the loop without CUDA graphs; None on a CPU, which has none."""
    device_ms: float
    device_over_full: float
    flops_over_full: float

    @property
    def over_arithmetic(self) -> float:
        """Measured ratio to a full step over the one that counting operations gives."""
        return self.device_over_full / self.flops_over_full


class Gap(Struct):
    """Share of the loop's time in which a GPU has nothing to do, with CUDA graphs and without."""

    step: str
    graphs: float
    plain: float


class OutsideEngines(Struct):
    """The stitched loop with engines that do nothing, over the loop: how much is not the engines'."""

    share: float
    milliseconds_per_step: float


class ScheduleTime(Struct):
    """One whole schedule."""

    name: str
    schedule: str
    picture_s: float
    """From the prompt to the picture."""
    loop_s: float
    speedup: float
    """Of the loop over large alone's, in the same rounds."""
    predicted: float
    """The same by counting operations."""


class Memory(Struct):
    """Peaks after every schedule has run, in MiB."""

    device: str
    total_mb: float | None
    """The device's own."""
    used_mb: float | None
    """What the session took of it, engines included."""
    tensors_mb: float


class FirstPicture(Struct):
    """Seconds; the process starts with files in the system's cache."""

    process_s: float
    """`hsexport run` from its start to its end: one picture by the default schedule."""
    process_mib: float | None
    """The most host memory that this process held, a CPU's engines included; None where the system does not tell."""
    open_s: float
    warm_up_s: float
    first_s: float
    """The first picture after the warm-up."""
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
    outside: OutsideEngines | None = None
    schedules: list[ScheduleTime] = field(default_factory=list)
    memory: Memory | None = None
    first: FirstPicture | None = None


class TorchTime(Struct):
    """Large alone in torch, over the same steps."""

    way: str
    """eager or compiled."""
    precision: str
    device: str
    covers: str
    """Whole pictures, or the loop alone."""
    seconds: float | None
    problem: str = ""


class Report(Struct):
    """All of it."""

    date: str
    hardware: dict[str, Any]
    plan: dict[str, Any]
    backends: list[BackendState]
    targets: list[TargetResult] = field(default_factory=list)
    torch: list[TorchTime] = field(default_factory=list)
