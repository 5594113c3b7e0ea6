"""What each mode of the denoising loop runs, in order: engines bound to the loop's buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hsengines.backend import Binding, Device, Engine, Enqueue, Tensor
from hsruntime.buffers import Cache, Conditioning, LoopShape, StepBuffers, TokenBuffers, write_all
from hsruntime.flow import grid_positions
from hsruntime.manifest import Manifest
from hsruntime.region import Region, blend_index, cache_index, row_index


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
            Cache.empty(device, manifest, rows, shape.cached),
            Cache.empty(device, manifest, rows, shape.active),
        )


def _named(prefix: str, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Cache tensors under the engine's names: past_k_0, past_v_0, past_k_1, ..."""
    return {f"{prefix}_{'kv'[i % 2]}_{i // 2}": tensor for i, tensor in enumerate(tensors)}


class Sequences:
    """Buffers for one LoopShape, and the sequences over them.

    Every sequence has bindings of its own: a TensorRT context may be captured into one CUDA graph only.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device, shape: LoopShape, text: Conditioning
    ) -> None:
        self.shape = shape
        self._manifest = manifest
        self._engines = engines
        self._device = device
        self._text = text
        self._bindings: list[Binding] = []
        width = manifest.latent.token_width
        self.step = StepBuffers.empty(device, shape, width)
        self._whole = TokenBuffers.empty(device, shape.rows, shape.tokens, width)
        self._small_positions = device.empty((shape.rows, shape.tokens), "int32")
        self._small_velocity = device.empty((shape.rows, shape.tokens, width), "float32")
        self._write_whole_picture()
        if shape.active:
            self._region = _RegionBuffers.empty(device, shape, manifest)
            self.write_region(_first_tokens(shape))

    def close(self) -> None:
        """Frees the bindings; replays of them must be closed before."""
        while self._bindings:
            self._bindings.pop().close()

    def of(self, name: str) -> list[Enqueue]:
        """A new binding of the sequence called `name`: a mode ("large", "hybrid", "small"), or part of a region choice.

        "gap" asks small for its guided velocity at the latents of the step about to be taken, "change" keeps the last
        step's, "score" compares with it, "gather" fills the cache.
        """
        made: dict[str, Callable[[], list[Enqueue]]] = {
            "large": lambda: [*self._large_whole(), *self._advance(self._whole.velocity)],
            "small": lambda: [*self._small(), *self._advance(self._small_velocity)],
            "hybrid": self._hybrid,
            "gap": self._gap,
            "change": lambda: [lambda: self.step.other.copy_from(self.step.guided)],
            "score": self._score,
            "gather": self._gather,
        }
        return made[name]()

    def write_region(self, region: Region) -> None:
        """Where the active and the cached tokens lie, for every engine that gathers by it."""
        shape, buffers = self.shape, self._region
        repeats = shape.rows // shape.pictures
        buffers.active.positions.write(self._positions("large")[np.tile(region.active, (repeats, 1))])
        buffers.active.index.write(np.tile(row_index(shape.tokens, region.active), (repeats, 1)))
        buffers.blend.write(blend_index(region))
        buffers.cache_index.write(cache_index(region.cached, shape.rows, self._manifest.large.heads, shape.tokens))

    def _bind(self, engine: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Enqueue:
        binding = self._engines[engine].bind(inputs, outputs)
        self._bindings.append(binding)
        return binding.enqueue

    @cached_property
    def _presents(self) -> Cache:
        return Cache.empty(self._device, self._manifest, self.shape.rows, self.shape.tokens)

    def _large_whole(self) -> list[Enqueue]:
        nothing = Cache.empty(self._device, self._manifest, self.shape.rows, 0)
        return [self._prepared(self._whole), self._large(self._whole, nothing, self._presents)]

    def _small(self) -> list[Enqueue]:
        return [self._prepared(self._whole), self._small_whole()]

    def _small_whole(self) -> Enqueue:
        inputs = self._transformer_inputs(self._whole) | {"positions": self._small_positions}
        return self._bind("small", inputs, {"velocity": self._small_velocity})

    def _large(self, target: TokenBuffers, past: Cache, presents: Cache) -> Enqueue:
        inputs = self._transformer_inputs(target) | _named("past", past.tensors)
        return self._bind("large", inputs, {"velocity": target.velocity} | _named("present", presents.tensors))

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

    def _hybrid(self) -> list[Enqueue]:
        """Large on the region and small on everything read the same latents and nothing of each other."""
        buffers = self._region
        velocities = {
            "velocity_large": buffers.active.velocity,
            "velocity_small": self._small_velocity,
            "blend": buffers.blend,
        }
        with self._device.beside():
            small = self._small_whole()
        return [
            self._prepared(self._whole),
            self._prepared(buffers.active),
            self._device.fork([self._large(buffers.active, buffers.past, buffers.unread)], [small]),
            self._bind("advance_blended", velocities | self._euler_inputs(), self._euler_outputs()),
            *self._moved_on(),
        ]

    def _gap(self) -> list[Enqueue]:
        scratch = self._device.empty(self.step.latents.shape, "float32")
        step = self._device.empty((1,), "int32")
        outputs = {"next_latents": scratch, "guided": self.step.other, "next_step": step}
        guide = self._bind("advance", {"velocity": self._small_velocity} | self._euler_inputs(), outputs)
        return [*self._small(), guide]

    def _score(self) -> list[Enqueue]:
        compared = {"first": self.step.guided, "second": self.step.other}
        return [self._bind("score", compared, {"scores": self.step.scores})]

    def _gather(self) -> list[Enqueue]:
        index, past = self._region.cache_index, self._region.past
        return [
            self._bind("select_cache", {"everything": whole, "index": index}, {"selected": part})
            for whole, part in zip(self._presents.tensors, past.tensors, strict=True)
        ]

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


def _first_tokens(shape: LoopShape) -> Region:
    """A region to warm engines up with, before one is chosen: gathers must never meet rows that are not there."""
    tokens = np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.pictures, 1))
    return Region(tokens[:, : shape.active], tokens[:, shape.active :])
