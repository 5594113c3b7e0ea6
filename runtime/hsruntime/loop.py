"""The denoising loop: each mode is one replay, launched once a step; a CUDA graph where the device has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from hsengines.backend import Device, Engine, Replay
from hsengines.errors import DeviceError
from hsruntime.buffers import Conditioning, LoopShape, write_all
from hsruntime.manifest import Manifest
from hsruntime.region import Region
from hsruntime.schedule import Schedule, Segment
from hsruntime.sequences import Sequences

COMPARED = ("change", "gap")
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
        self.step = self._sequences.step

    def close(self) -> None:
        """Frees replays, then bindings: a graph goes before the contexts it was captured from."""
        while self._replays:
            self._replays.popitem()[1].close()
        self._sequences.close()

    def ready(self, schedule: Schedule) -> None:
        """Makes every replay that a schedule needs. To be called before `begin`: warming up overwrites the latents."""
        for name in _needed(schedule):
            if name not in self._replays:
                write_all(self.step.step, 0)  # a warm-up counts on, and must not run off the noise levels
                self._replays[name] = self._device.replay(self._sequences.of(name))

    def begin(self, tokens: np.ndarray, sigmas: np.ndarray, timesteps: np.ndarray, guidance: float) -> None:
        """Puts the first latents (B, N, P) and the noise levels in place."""
        self.step.latents.write(tokens)
        self.step.sigmas.write(sigmas)
        self.step.timesteps.write(timesteps)
        write_all(self.step.guidance, guidance)
        write_all(self.step.step, 0)
        self._taken = 0

    def run(self, segment: Segment, after_step: Callable[[], None] | None, *, compare: str | None = None) -> float:
        """Runs a segment; returns its seconds, `after_step`'s own not counted.

        `compare` prepares a region choice after the last step: "change" keeps the velocity before the last one,
        "gap" asks small for its velocity at the last step's latents. Without `after_step` the host runs one step
        ahead of the device, never more: an error is told at its step or the next. Raises DeviceError.
        """
        step, before = self._replays[segment.mode], self._replays[compare] if compare else None
        start, elsewhere, pending = perf_counter(), 0.0, None
        with self._errors_placed(segment):
            for left in range(segment.steps, 0, -1):
                self._taken += 1
                if before and left == 1:
                    before.launch()
                step.launch()
                mark = self._device.mark()
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
        return perf_counter() - start - elsewhere

    @contextmanager
    def _errors_placed(self, segment: Segment) -> Iterator[None]:
        try:
            yield
        except DeviceError as err:
            where = f"step {self._taken} of {self.shape.steps}, {segment.mode}"
            raise DeviceError(f"{err.message} ({where})", err.hint) from err

    def scores(self) -> np.ndarray:
        """Scores (B, N) of the comparison that the last `run` prepared; one copy to the host."""
        self._replays["score"].launch()
        return self.step.scores.read()

    def set_region(self, region: Region) -> None:
        """Fixes the active tokens and gathers the cached tokens' keys and values from the last full step of large."""
        self._sequences.write_region(region)
        self._replays["gather"].launch()


def _needed(schedule: Schedule) -> list[str]:
    """The replays of a schedule, largest memory first, so that scratch memory need not grow."""
    modes = {segment.mode for segment in schedule.unrolled()}
    names: list[str] = [mode for mode in ("large", "hybrid", "small") if mode in modes]
    if schedule.has_region:
        signal = schedule.region.signal
        names += [signal, "score"] if signal in COMPARED else []
        names.append("gather")
    return names
