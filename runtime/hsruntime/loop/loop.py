"""The denoising loop: each mode is one replay, launched once a step; a CUDA graph where the device has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from hsengines.backend import Device, Engine, Replay
from hsengines.errors import DeviceError
from hsruntime.bundle.manifest import Manifest
from hsruntime.loop.buffers import Conditioning, LoopShape, write_all
from hsruntime.loop.region import Region
from hsruntime.loop.sequences import Sequences
from hsruntime.schedule.schedule import MODES, Schedule, Segment, Settled

SCORED = ("change", "gap", "std")
"""The signals that look at velocities; the others need no scores."""


class Loop:
    """Buffers, bindings and replays for one LoopShape; made once, run for many pictures."""

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device, shape: LoopShape, text: Conditioning
    ) -> None:
        self.shape = shape
        self._device = device
        self._sequences = Sequences(manifest, engines, device, shape, text)
        self._replays: dict[str, Replay] = {}
        self._taken = 0
        self._steps = 0
        self.step = self._sequences.step

    def close(self) -> None:
        """Frees replays, then bindings: a graph goes before the contexts it was captured from."""
        while self._replays:
            self._replays.popitem()[1].close()
        self._sequences.close()

    def ready(self, schedule: Schedule) -> None:
        """Makes every replay that a schedule needs. To be called before `begin`: warming up overwrites the latents."""
        for name in self._needed(schedule):
            if name not in self._replays:
                write_all(self.step.step, 0)  # a warm-up counts on, and must not run off the noise levels
                self._replays[name] = self._device.replay(self._sequences.of(name))

    def begin(self, tokens: np.ndarray, timesteps: np.ndarray, coefficients: np.ndarray, guidance: float) -> None:
        """Puts the first latents (B, N, P), the steps' timesteps (steps,) and coefficients (steps, 2) in place."""
        room = self.shape.steps - len(timesteps)
        self._taken, self._steps = 0, len(timesteps)
        self.step.latents.write(tokens)
        self.step.timesteps.write(np.pad(timesteps, (0, room)))
        self.step.coefficients.write(np.pad(coefficients, ((0, room), (0, 0))))
        write_all(self.step.guidance, guidance)
        write_all(self.step.excess, guidance - 1)
        write_all(self.step.no_excess, 0)
        write_all(self.step.step, 0)
        for velocity in (self.step.guided, self.step.previous, self.step.difference):
            write_all(velocity, 0)  # a first step weighs what was there with 0, and 0 times nan is nan
        self._sequences.write_text()

    def run(self, segment: Segment, after_step: Callable[[], None] | None, *, compare: bool = False) -> RunTime:
        """Runs a segment, or as much of it as its `until` leaves; `after_step`'s own seconds are not counted.

        `compare` asks small for its velocity at the last step's latents, for the gap signal. Without `after_step` and
        `until` the host runs one step ahead of the device, never more: an error is told at its step or the next.
        Raises DeviceError.
        """
        step, settling = self._replays[self._sequences.name_of(segment)], Settling(segment.until)
        start, elsewhere, pending, steps = perf_counter(), 0.0, None, 0
        with self._errors_placed(segment):
            while steps < segment.steps and not settling.done:
                steps, self._taken = steps + 1, self._taken + 1
                if compare and steps == segment.steps:
                    self._replays["gap"].launch()
                step.launch()
                mark = self._device.mark()
                if segment.until:
                    settling.after(steps, *self._changes())
                if after_step:
                    mark.wait()
                    paused = perf_counter()
                    after_step()
                    elsewhere += perf_counter() - paused
                    continue
                if pending:
                    pending.wait()
                pending = mark
            if pending:
                pending.wait()
        return RunTime(steps, perf_counter() - start - elsewhere)

    @contextmanager
    def _errors_placed(self, segment: Segment) -> Iterator[None]:
        try:
            yield
        except DeviceError as err:
            where = f"step {self._taken} of {self._steps}, {segment.mode}"
            raise DeviceError(f"{err.message} ({where})", err.hint) from err

    def _changes(self) -> tuple[float, float]:
        """Mean absolute change of the guided velocity in the last step, and its mean magnitude before it."""
        self._replays["settle"].launch()
        return float(self.step.scores.read().mean()), float(self.step.magnitudes.read().mean())

    def scores(self, signal: str) -> np.ndarray:
        """Scores (B, N) of the step just taken; one copy to the host."""
        self._replays[f"score {signal}"].launch()
        return self.step.scores.read()

    def set_region(self, region: Region, segment: Segment) -> None:
        """Fixes the active tokens for `segment` and gathers the cached tokens' keys and values.

        They come from the last full step of large, and from what `take_back` renewed since.
        """
        self._sequences.write_region(region)
        self._replays[self._sequences.gather_of(segment)].launch()

    def take_back(self, region: Region) -> None:
        """Renews the whole picture's keys and values by the region step just taken."""
        self._sequences.write_merge(region)
        self._replays["merge"].launch()

    def _needed(self, schedule: Schedule) -> list[str]:
        """The replays of a schedule, largest memory first, so that scratch memory need not grow."""
        order, runs, signal = list(MODES), list(schedule.unrolled()), schedule.region.signal
        names = [self._sequences.name_of(run) for run in sorted(runs, key=lambda run: order.index(run.mode))]
        if schedule.has_region:
            names += ["gap"] if signal == "gap" else []
            names += [f"score {signal}"] if signal in SCORED else []
            names += ["merge"] if schedule.region.reselect else []
            names += [self._sequences.gather_of(run) for run in runs if run.large == "region"]
        if any(run.until for run in runs):
            names.append("settle")
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class RunTime:
    """How much of a segment ran, and for how long."""

    steps: int
    seconds: float


class Settling:
    """SRDiffusion's switch (`hsruntime.schedule.schedule.Settled`), told of one step after another."""

    def __init__(self, rule: Settled | None) -> None:
        self._rule = rule
        self._before: float | None = None
        self.done = False

    def after(self, steps: int, change: float, magnitude: float) -> None:
        """The step's mean change, and the mean magnitude before it; the first step has nothing to compare with."""
        if self._rule is None or steps < 2:
            return
        now = math.tanh(change / magnitude) if magnitude else 0.0
        if self._before is not None and steps >= self._rule.least:
            self.done = 0 < self._before - now < self._rule.below
        self._before = now
