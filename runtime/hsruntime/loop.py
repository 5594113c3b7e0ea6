"""The denoising loop: each mode is a fixed sequence of bound engines, run once a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np

from hsengines.backend import Device, Engine, Tensor
from hsruntime.buffers import Cache, Conditioning, LoopShape, StepBuffers, TokenBuffers, write_all
from hsruntime.flow import grid_positions
from hsruntime.manifest import Manifest
from hsruntime.region import Region, blend_index, cache_index, row_index
from hsruntime.schedule import Segment

Enqueue = Callable[[], None]


def _named(prefix: str, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Cache tensors under the engine's names: past_k_0, past_v_0, past_k_1, ..."""
    return {f"{prefix}_{'kv'[i % 2]}_{i // 2}": tensor for i, tensor in enumerate(tensors)}


class Loop:
    """Buffers and bindings for one LoopShape; made once, run for many pictures."""

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device, shape: LoopShape, text: Conditioning
    ) -> None:
        self.shape = shape
        self._manifest = manifest
        self._engines = engines
        self._device = device
        self._text = text
        width = manifest.latent.token_width
        self.step = StepBuffers.empty(device, shape, width)
        self._whole = TokenBuffers.empty(device, shape.rows, shape.tokens, width)
        self._small_positions = device.empty((shape.rows, shape.tokens), "int32")
        self._small_velocity = device.empty((shape.rows, shape.tokens, width), "float32")
        self._prepare = self._prepared(self._whole)
        self._write_whole_picture()
        if shape.active:
            self._region = _RegionBuffers.empty(device, shape, manifest)

    def begin(self, tokens: np.ndarray, sigmas: np.ndarray, timesteps: np.ndarray, guidance: float) -> None:
        """Puts the first latents (B, N, P) and the noise levels in place."""
        self.step.latents.write(tokens)
        self.step.sigmas.write(sigmas)
        self.step.timesteps.write(timesteps)
        write_all(self.step.guidance, guidance)
        write_all(self.step.step, 0)

    def run(self, segment: Segment, after_step: Callable[[], None], *, compare: str | None = None) -> float:
        """Runs a segment; returns its seconds, `after_step`'s own not counted.

        `compare` prepares a region choice after the last step: "change" keeps the velocity before the last one,
        "gap" asks small for its velocity at the last step's latents.
        """
        sequence, spent = self._sequence(segment.mode), 0.0
        for left in range(segment.steps, 0, -1):
            steps = self._with_comparison(sequence, compare) if compare and left == 1 else sequence
            start = perf_counter()
            for enqueue in steps:
                enqueue()
            spent += perf_counter() - start
            after_step()
        return spent

    def scores(self) -> np.ndarray:
        """Scores (B, N) of the comparison that the last `run` prepared; one copy to the host."""
        self._score()
        return self.step.scores.read()

    def set_region(self, region: Region) -> None:
        """Fixes the active tokens and gathers the cached tokens' keys and values from the last full step of large."""
        shape, buffers = self.shape, self._region
        repeats = shape.rows // shape.pictures
        buffers.active.positions.write(self._positions("large")[np.tile(region.active, (repeats, 1))])
        buffers.active.index.write(np.tile(row_index(shape.tokens, region.active), (repeats, 1)))
        buffers.blend.write(blend_index(region))
        buffers.cache_index.write(cache_index(region.cached, shape.rows, self._manifest.large.heads, shape.tokens))
        for enqueue in self._gather:
            enqueue()

    def _sequence(self, mode: str) -> list[Enqueue]:
        """A mode's engines in order, bound on first use: a schedule pays only for the modes it has."""
        if mode == "large":
            return self._large_steps
        return self._small_steps if mode == "small" else self._hybrid_steps

    @cached_property
    def _presents(self) -> Cache:
        return Cache.empty(self._device, self._manifest.large, self.shape.rows, self.shape.tokens)

    @cached_property
    def _score(self) -> Enqueue:
        compared = {"first": self.step.guided, "second": self.step.other}
        return self._bind("score", compared, {"scores": self.step.scores})

    @cached_property
    def _gather(self) -> list[Enqueue]:
        index, past = self._region.cache_index, self._region.past
        return [
            self._bind("select_cache", {"everything": whole, "index": index}, {"selected": part})
            for whole, part in zip(self._presents.tensors, past.tensors, strict=True)
        ]

    def _bind(self, engine: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Enqueue:
        return self._engines[engine].bind(inputs, outputs).enqueue

    def _prepared(self, target: TokenBuffers) -> Enqueue:
        step = self.step
        inputs = {"latents": step.latents, "index": target.index, "timesteps": step.timesteps, "step": step.step}
        return self._bind("prepare", inputs, {"tokens": target.tokens, "timestep": step.timestep})

    def _transformer_inputs(self, target: TokenBuffers) -> dict[str, Tensor]:
        return {
            "tokens": target.tokens,
            "positions": target.positions,
            "timestep": self.step.timestep,
            "text": self._text.text,
            "pooled": self._text.pooled,
        }

    def _large(self, target: TokenBuffers, past: Cache, presents: Cache) -> Enqueue:
        inputs = self._transformer_inputs(target) | _named("past", past.tensors)
        return self._bind("large", inputs, {"velocity": target.velocity} | _named("present", presents.tensors))

    def _small(self) -> Enqueue:
        inputs = self._transformer_inputs(self._whole) | {"positions": self._small_positions}
        return self._bind("small", inputs, {"velocity": self._small_velocity})

    def _euler_inputs(self) -> dict[str, Tensor]:
        step = self.step
        return {
            "latents": step.latents,
            "told": step.told,
            "untold": step.untold,
            "guidance": step.guidance,
            "sigmas": step.sigmas,
            "step": step.step,
        }

    def _euler_outputs(self) -> dict[str, Tensor]:
        return {"next_latents": self.step.next_latents, "guided": self.step.guided, "next_step": self.step.next_step}

    def _moved_on(self) -> list[Enqueue]:
        step = self.step
        return [lambda: step.latents.copy_from(step.next_latents), lambda: step.step.copy_from(step.next_step)]

    def _advance(self, velocity: Tensor) -> list[Enqueue]:
        engine = self._bind("advance", {"velocity": velocity} | self._euler_inputs(), self._euler_outputs())
        return [engine, *self._moved_on()]

    @cached_property
    def _large_steps(self) -> list[Enqueue]:
        nothing = Cache.empty(self._device, self._manifest.large, self.shape.rows, 0)
        large = self._large(self._whole, nothing, self._presents)
        return [self._prepare, large, *self._advance(self._whole.velocity)]

    @cached_property
    def _small_steps(self) -> list[Enqueue]:
        return [self._prepare, self._small(), *self._advance(self._small_velocity)]

    @cached_property
    def _hybrid_steps(self) -> list[Enqueue]:
        buffers = self._region
        velocities = {
            "velocity_large": buffers.active.velocity,
            "velocity_small": self._small_velocity,
            "blend": buffers.blend,
        }
        return [
            self._prepare,
            self._small(),
            self._prepared(buffers.active),
            self._large(buffers.active, buffers.past, buffers.unread),
            self._bind("advance_blended", velocities | self._euler_inputs(), self._euler_outputs()),
            *self._moved_on(),
        ]

    @cached_property
    def _gap_steps(self) -> list[Enqueue]:
        """Small at the latents of the step about to be taken; leaves its guided velocity in `other`."""
        scratch = self._device.empty(self.step.latents.shape, "float32")
        step = self._device.empty((1,), "int32")
        outputs = {"next_latents": scratch, "guided": self.step.other, "next_step": step}
        guide = self._bind("advance", {"velocity": self._small_velocity} | self._euler_inputs(), outputs)
        return [self._prepare, self._small(), guide]

    def _with_comparison(self, sequence: list[Enqueue], compare: str) -> list[Enqueue]:
        if compare == "gap":
            return [*self._gap_steps, *sequence]
        step = self.step
        return [lambda: step.other.copy_from(step.guided), *sequence]

    def _positions(self, model: str) -> np.ndarray:
        table = self._manifest.positions[model]
        return grid_positions((table.table_size, table.rows, table.columns), self.shape.grid)

    def _write_whole_picture(self) -> None:
        """Positions, rows and guidance rows of the whole picture: they never change."""
        shape = self.shape
        write_all(self._whole.positions, self._positions("large"))
        write_all(self._small_positions, self._positions("small"))
        everything = np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.pictures, 1))
        self._whole.index.write(np.tile(row_index(shape.tokens, everything), (shape.rows // shape.pictures, 1)))
        pictures = np.arange(shape.pictures, dtype=np.int32)
        self.step.untold.write(pictures)
        self.step.told.write(pictures + np.int32(shape.rows - shape.pictures))


@dataclass(frozen=True)
class _RegionBuffers:
    """What only the hybrid mode needs."""

    active: TokenBuffers
    blend: Tensor  # (B, N) int32
    cache_index: Tensor  # (G, H, R) int32
    past: Cache  # of the cached tokens
    unread: Cache  # keys and values of the active tokens: outputs of the engine that nothing reads

    @classmethod
    def empty(cls, device: Device, shape: LoopShape, manifest: Manifest) -> _RegionBuffers:
        large, rows = manifest.large, shape.rows
        return cls(
            TokenBuffers.empty(device, rows, shape.active, manifest.latent.token_width),
            device.empty((shape.pictures, shape.tokens), "int32"),
            device.empty((rows, large.heads, shape.cached), "int32"),
            Cache.empty(device, large, rows, shape.cached),
            Cache.empty(device, large, rows, shape.active),
        )
