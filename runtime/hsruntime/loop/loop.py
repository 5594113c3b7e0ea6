"""The denoising loop: each mode is one replay, launched once a step; a CUDA graph where the device has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from time import perf_counter

import numpy as np

from hsengines.backend import Binding, Engine
from hsengines.device import Device, Enqueue, Replay, Tensor, Tensors
from hsengines.errors import DeviceError
from hsruntime.bundle.manifest import Manifest
from hsruntime.loop.buffers import Buffers, LoopShape
from hsruntime.loop.program import SIGNALS, Row, reads
from hsruntime.loop.region import Region
from hsruntime.loop.solvers import extrapolation, first_order
from hsruntime.request import SegmentTime
from hsruntime.schedule.schedule import MODES, Schedule, Segment, Settled

Load = Callable[[str], Engine]
"""Opens an engine by its name."""
CONDITIONING = ("condition_large", "condition_small")
"""Engines that run once before the steps, and may be closed while these run."""


class Loop:
    """Buffers, bindings and replays for one LoopShape; made once, run for many pictures."""

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        device: Device,
        shape: LoopShape,
        conditioning: Mapping[str, Tensor],
        load: Load | None = None,
    ) -> None:
        """`load` opens conditioning networks for as long as they run, where they are not among `engines`."""
        self.shape = shape
        self._load = load
        self._conditioning = conditioning
        self._conditioned: list[object] = []
        self._engines = engines
        self._device = device
        self._buffers = Buffers(manifest, device, shape, conditioning)
        self._bindings: list[Binding] = []
        self._replays: dict[str, Replay] = {}
        self._conditions: list[str] = []
        self._coefficients = np.zeros((0, 5), np.float32)
        self._extrapolation = np.zeros((0, 3), np.float32)
        self._solver, self._order, self._remembers = "euler", 1, False
        self._known: list[float] = []  # noise levels that velocities were computed at, by the model that goes on
        self._keeps = False
        self._taken = 0
        self._steps = 0
        self._scores, self._magnitudes = map(self._buffers.tensor, ("scores", "magnitudes"))
        self.picture = self._buffers.tensor("picture" if shape.references else "latents")
        """(B, I, P) once `take_picture` was called."""

    def close(self) -> None:
        """Frees replays, then bindings: a graph goes before the contexts it was captured from."""
        while self._replays:
            self._replays.popitem()[1].close()
        while self._bindings:
            self._bindings.pop().close()

    def ready(self, schedule: Schedule, *, keeps: bool = False) -> None:
        """Makes every replay that a schedule needs. To be called before `begin`: warming up overwrites the latents.

        `keeps`: whether part of the picture stays what it was.
        """
        needed = [*self._needed(schedule), *(["keep"] if keeps else [])]
        needed += ["picture"] if self.shape.references else []
        self._keeps = keeps
        self._solver, self._order, self._remembers = schedule.solver, schedule.order, "remember" in needed
        self._conditions = [name for name in needed if name.startswith("condition")]
        for name in needed:
            if self._load and name in self._conditions:
                list(self._rows(name))  # `begin` writes only into what is there
            elif name not in self._replays:
                sequence = self.bound(name)
                self._buffers.write("step", 0)  # a warm-up counts on, and must not run off the noise levels
                self._replays[name] = self._device.replay(sequence)

    def begin(self, tokens: np.ndarray, timesteps: np.ndarray, coefficients: np.ndarray, guidance: float) -> None:
        """Puts the first latents (B, N, P), the steps' timesteps (steps,) and coefficients (steps, 5) in place."""
        room = self.shape.steps - len(timesteps)
        self._taken, self._steps = 0, len(timesteps)
        self._known.clear()
        self._extrapolation = np.zeros((self.shape.steps, 3), np.float32)
        self._coefficients = np.pad(coefficients, ((0, room), (0, 0)))
        values: dict[str, np.ndarray | float] = {
            "latents": tokens,
            "timesteps": np.pad(timesteps, (0, room)),
            "coefficients": self._coefficients,
            "guidance": guidance,
            "excess": guidance - 1,
            "step": 0,
            # A first step weighs what was there with 0, and 0 times nan is nan.
            "guided": 0,
            "previous": 0,
            "clean": 0,
            "difference": 0,
            "last": 0,
            "second": 0,
            "third": 0,
        }
        for buffer, value in values.items():
            self._buffers.write(buffer, value)

    def keep(self, original: np.ndarray, noise: np.ndarray, drawn: np.ndarray, reached: np.ndarray) -> None:
        """What stays of an original, all of (B, N, P) or of one picture for all; `reached` (steps,) by each step."""
        values = {"original": original, "noise": noise, "drawn": drawn}
        for buffer, value in values.items():
            self._buffers.write(buffer, value)
        self._buffers.write("reached", np.pad(reached, (0, self.shape.steps - len(reached))))

    def restart_solver(self) -> None:
        """Has the next step be one of first order, as after a change of the model: a slope across it is none."""
        self._known.clear()
        if self._solver != "euler":
            sigmas = np.append(self._coefficients[:, 4], 0)
            self._coefficients[self._taken] = first_order(sigmas, self._taken)
            self._buffers.write("coefficients", self._coefficients)

    def _foresee(self, steps: int) -> None:
        """Weights for as many skipped steps to come, from the noise levels that velocities are known of."""
        for step in range(self._taken, self._taken + steps):
            sigma = float(self._coefficients[step, 4])
            self._extrapolation[step] = extrapolation(self._known[::-1], sigma, self._order)
        self._buffers.write("extrapolation", self._extrapolation)

    def condition(self) -> None:
        """What the transformers take of prompts and noise levels, for all steps at once; after `begin`.

        Where their networks are to be opened first, nothing is done for what was given last. Raises EngineLoadError.
        """
        self._buffers.share("*", "small_*")
        if self._load is None:
            for name in self._conditions:
                self._replays[name].launch()
            return
        read = [self._buffers.tensor("timesteps"), *self._conditioning.values()]
        given: list[object] = [self._conditions, *(tensor.read().tobytes() for tensor in read)]
        if given != self._conditioned:
            self._conditioned = []  # half of it may be overwritten when an engine cannot be opened
            for name in self._conditions:
                self._run_once(name, self._load)
            self._conditioned = given

    def _run_once(self, name: str, load: Load) -> None:
        for row, inputs, outputs in self._rows(name):
            with closing(load(row.engine)) as engine, closing(engine.bind(inputs, outputs)) as bound:
                bound.enqueue()
                self._device.synchronize()  # an engine must not be closed while it runs

    def run(self, segment: Segment, after_step: Callable[[], None] | None, *, compare: str = "") -> SegmentTime:
        """Runs a segment, or as much of it as its `until` leaves; `after_step`'s own seconds are not counted.

        `compare` names who is asked for its velocity at the last step's latents, for the gap signal. Without
        `after_step` and `until` the host runs one step ahead of the device, never more: an error is told at its step or
        the next. Raises DeviceError.
        """
        step, settling = self._replays[self._name(segment.mode, segment)], Settling(segment.until)
        start, elsewhere, pending, steps = perf_counter(), 0.0, None, 0
        computes = any(segment.parts)
        if not computes:
            self._foresee(segment.steps)
        with self._errors_placed(segment):
            while steps < segment.steps and not settling.done:
                steps, self._taken = steps + 1, self._taken + 1
                if compare and steps == segment.steps:
                    self._replays[f"gap {compare}"].launch()
                step.launch()
                if self._keeps:
                    self._replays["keep"].launch()
                if computes and self._remembers:
                    self._known.append(float(self._coefficients[self._taken - 1, 4]))
                    self._replays["remember"].launch()
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
            if segment.large == "full" and segment.guidance == "full":
                self._buffers.share("residual_*")
            if pending:
                pending.wait()
        return SegmentTime(segment.mode, steps, perf_counter() - start - elsewhere)

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
        drawn = slice(self.shape.drawn)
        return float(self._scores.read()[:, drawn].mean()), float(self._magnitudes.read()[:, drawn].mean())

    def scores(self, signal: str) -> np.ndarray:
        """Scores (B, I) of the step just taken; one copy to the host."""
        self._replays[f"score {signal}"].launch()
        return self._scores.read()[:, : self.shape.drawn]

    def take_picture(self) -> None:
        """Fills `picture` with what was denoised, where that is not all of the latents."""
        if self.shape.references:
            self._replays["picture"].launch()

    def set_region(self, region: Region, segment: Segment) -> None:
        """Fixes the active tokens for `segment` and gathers the cached tokens' keys and values.

        They come from the last full step of large, and from what `take_back` renewed since.
        """
        self._buffers.write_region(region)
        self._replays[self._name("gather", segment)].launch()

    def take_back(self) -> None:
        """Renews the whole picture's keys and values by the region step just taken."""
        self._replays["merge"].launch()

    def _needed(self, schedule: Schedule) -> list[str]:
        """The replays of a schedule, largest memory first, so that scratch memory need not grow."""
        order, runs, signal = list(MODES), list(schedule.unrolled()), schedule.region.signal
        names = [self._name(run.mode, run) for run in sorted(runs, key=lambda run: order.index(run.mode))]
        names += [self._name("condition large", run) for run in runs if run.large or run.light]
        names += [self._name("condition small", run) for run in runs if run.small]
        if schedule.has_region:
            if reads(signal, "other"):
                asked = {"light" if run.light else "small" for run in runs if run.large == "region"}
                names += [f"gap {name}" for name in sorted(asked)]
                names += ["condition small"] if "small" in asked else []
            names += [f"score {signal}"] if SIGNALS[signal] else []
            names += ["merge"] if schedule.region.reselect else []
            names += [self._name("gather", run) for run in runs if run.large == "region"]
        if any(run.until for run in runs):
            names.append("settle")
        if any(not any(run.parts) for run in runs):
            names.append("remember")
        return list(dict.fromkeys(names))

    def _name(self, sequence: str, segment: Segment) -> str:
        """What `segment` runs of a sequence; without guidance a picture has but one row, and nothing to leave out."""
        guided = self.shape.rows > self.shape.pictures
        return f"{sequence}+{segment.guidance}" if guided and segment.guidance != "full" else sequence

    def bound(self, name: str) -> list[Enqueue]:
        """The sequence of hsruntime.loop.program called `name`, ready to run.

        Each has bindings of its own: a TensorRT context may be captured into one CUDA graph only.
        """
        sequence: list[Enqueue] = []
        for row, inputs, outputs in self._rows(name):
            if row.beside:
                sequence[-1:] = [self._device.fork(sequence[-1:], self._bound_row(row, inputs, outputs))]
            else:
                sequence += self._bound_row(row, inputs, outputs)
        return sequence

    def _bound_row(self, row: Row, inputs: Tensors, outputs: Tensors) -> list[Enqueue]:
        """The row, ready to run; nothing where it would fill nothing, or a buffer from itself."""
        if all(0 in tensor.shape or any(tensor is other for other in inputs.values()) for tensor in outputs.values()):
            return []
        if row.engine == "copy":
            source, target = inputs["source"], outputs["target"]
            return [lambda: target.copy_from(source)]
        binding = self._engines[row.engine].bind(inputs, outputs, beside=row.beside)
        self._bindings.append(binding)
        return [binding.enqueue]

    def _rows(self, name: str) -> Iterator[tuple[Row, Tensors, Tensors]]:
        """A sequence's rows, and what each reads and writes."""
        rows = self.shape.pictures if "+" in name else self.shape.rows
        for row in self._buffers.layout.rows([name]):
            inputs, outputs = (
                {tensor: self._buffers.tensor(buffer, rows) for tensor, buffer in each.items()}
                for each in (row.inputs, row.outputs)
            )
            yield row, inputs, outputs


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
