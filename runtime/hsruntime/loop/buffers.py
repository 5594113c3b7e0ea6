"""The denoising loop's memory: allocated once per shape, shared by every segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsengines.backend import Device, Tensor
from hsengines.dtypes import numpy_dtype
from hsruntime.bundle.manifest import Manifest, tensor_spec
from hsruntime.facts import Facts, Size
from hsruntime.loop.region import active_count
from hsruntime.schedule.schedule import Schedule
from hsruntime.text.embeddings import TextEmbeddings


@dataclass(frozen=True)
class LoopShape:
    """Everything the loop's shapes depend on."""

    pictures: int  # B
    rows: int  # G: B, or 2B under guidance
    grid: tuple[int, int]  # (h, w) in tokens
    active: int  # M; 0 if the schedule has no region
    steps: int  # S: room for as many, see `steps_room`
    text_cached: bool = False  # whether region steps take the text's keys and values from the cache

    @classmethod
    def of(cls, facts: Facts, schedule: Schedule, size: Size, pictures: int, *, guided: bool) -> LoopShape:
        """What a schedule needs for as many pictures of `size` (width, height) pixels at once."""
        side = facts.latent.pixels_per_token
        grid = (size[1] // side, size[0] // side)
        active = active_count(schedule.region.ratio, grid[0] * grid[1]) if schedule.has_region else 0
        room = steps_room(schedule.steps, facts.sigmas.levels)
        cached_text = schedule.has_region and schedule.region.text == "cached"
        return cls(pictures, pictures * (2 if guided else 1), grid, active, room, cached_text)

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def cached(self) -> int:
        """R."""
        return self.tokens - self.active


def steps_room(steps: int, levels: int) -> int:
    """Room for a schedule's steps, rounded up, so that schedules of about one length share their buffers.

    `levels`: how many noise levels the bundle's engines take at the most.
    """
    return min(levels, -(-steps // 32) * 32)


@dataclass(frozen=True)
class Cache:
    """Keys and values, in order key 0, value 0, key 1, ...: of image tokens by attention layer, of text by block."""

    image: tuple[Tensor, ...]
    text: tuple[Tensor, ...]

    @classmethod
    def empty(cls, device: Device, manifest: Manifest, rows: int, tokens: int, text: int) -> Cache:
        """Uninitialised slots (rows, H, tokens, D) and (rows, H, text, D) of the dtype that large takes."""
        model, dtype = manifest.facts.large, cache_dtype(manifest)

        def slots(layers: int, count: int) -> tuple[Tensor, ...]:
            shape = (rows, model.heads, count, model.head_size)
            return tuple(device.empty(shape, dtype) for _ in range(2 * layers))

        return cls(slots(model.image_slots, tokens), slots(model.text_slots, text))

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Under the engine's names: past_k_0, past_v_0, past_k_1, ..., past_text_k_0, ..."""
        parts = {prefix: self.image, f"{prefix}_text": self.text}
        return {f"{name}_{'kv'[i % 2]}_{i // 2}": t for name, part in parts.items() for i, t in enumerate(part)}


@dataclass(frozen=True)
class TokenBuffers:
    """A transformer's view of some of a picture's tokens."""

    tokens: Tensor  # (G, M, P)
    positions: Tensor  # (G, M) int32
    index: Tensor  # (G, M) int32, flat rows of the latents
    velocity: Tensor  # (G, M, P)

    @classmethod
    def empty(cls, device: Device, rows: int, count: int, width: int) -> TokenBuffers:
        """Uninitialised, for `count` tokens a row."""
        wide, narrow = (rows, count, width), (rows, count)
        return cls(
            device.empty(wide, "float32"),
            device.empty(narrow, "int32"),
            device.empty(narrow, "int32"),
            device.empty(wide, "float32"),
        )


@dataclass(frozen=True)
class StepBuffers:
    """What every step reads and writes."""

    latents: Tensor  # (B, N, P)
    next_latents: Tensor
    guided: Tensor  # (B, N, P): the guided velocity of the step just taken
    previous: Tensor  # (B, N, P): the one before
    other: Tensor  # (B, N, P): small's, in a hybrid step or for the gap signal
    difference: Tensor  # (B, N, P): between a picture's two rows, in the last step that ran both on all of it
    zero: Tensor  # (B, N, P)
    scores: Tensor  # (B, N)
    magnitudes: Tensor  # (B, N)
    step: Tensor  # (1,) int32
    next_step: Tensor
    timestep: Tensor  # (1,)
    timesteps: Tensor  # (S,)
    coefficients: Tensor  # (S, 2): the solver's, of this velocity and the one before
    guidance: Tensor  # (1,)
    excess: Tensor  # (1,): guidance less 1
    no_excess: Tensor  # (1,): 0
    cond: Tensor  # (B,) int32: each picture's rows
    uncond: Tensor

    @classmethod
    def empty(cls, device: Device, shape: LoopShape, width: int) -> StepBuffers:
        """Uninitialised."""
        b, n, s = shape.pictures, shape.tokens, shape.steps
        wide = ("latents", "next_latents", "guided", "previous", "other", "difference", "zero")
        floats: dict[str, tuple[int, ...]] = dict.fromkeys(wide, (b, n, width))
        floats |= {"scores": (b, n), "magnitudes": (b, n), "timesteps": (s,), "coefficients": (s, 2)}
        floats |= dict.fromkeys(("timestep", "guidance", "excess", "no_excess"), (1,))
        ints = {"step": (1,), "next_step": (1,), "cond": (b,), "uncond": (b,)}
        tensors = {name: device.empty(extents, "float32") for name, extents in floats.items()}
        tensors |= {name: device.empty(extents, "int32") for name, extents in ints.items()}
        return cls(**tensors)


@dataclass(frozen=True)
class Conditioning:
    """What the prompts became: rows of negative prompts, then rows of prompts; without guidance prompts only."""

    text: Tensor  # (G, T, Dt)
    pooled: Tensor  # (G, Dp)

    @classmethod
    def empty(cls, device: Device, manifest: Manifest, rows: int) -> Conditioning:
        """Uninitialised."""
        specs = (tensor_spec(manifest, "join_text", name) for name in ("text", "pooled"))
        return cls(*(device.empty(spec.resolve({"B": rows}), spec.dtype) for spec in specs))

    @property
    def named(self) -> dict[str, Tensor]:
        """Under the names of `join_text`'s outputs."""
        return {"text": self.text, "pooled": self.pooled}

    def write(self, given: TextEmbeddings) -> None:
        """Takes over all rows from the host, in the engines' own type."""
        self.text.write(np.ascontiguousarray(given.text, self.text.dtype))
        self.pooled.write(np.ascontiguousarray(given.pooled, self.pooled.dtype))

    def read(self) -> TextEmbeddings:
        """All rows on the host."""
        return TextEmbeddings(self.text.read().astype(np.float32), self.pooled.read().astype(np.float32))

    def copy_from(self, other: Conditioning) -> None:
        """Takes over all rows of `other`, on the device."""
        self.text.copy_from(other.text)
        self.pooled.copy_from(other.pooled)

    def write_rows(self, other: Conditioning, first: int) -> None:
        """Takes over the rows of `other` from `first` on; by way of the host, once a picture."""
        self.text.write(np.ascontiguousarray(other.text.read()[first:]))
        self.pooled.write(np.ascontiguousarray(other.pooled.read()[first:]))


def cache_dtype(manifest: Manifest) -> str:
    """What keys and values are kept in: the transformer's own precision."""
    return tensor_spec(manifest, "select_cache", "selected").dtype


def cache_item_bytes(manifest: Manifest) -> int:
    """What one number of a key or value takes."""
    return numpy_dtype(cache_dtype(manifest)).itemsize


def cache_bytes(facts: Facts, shape: LoopShape, item_bytes: int) -> int:
    """What keys and values take: of the whole picture and the text, and with a region of cached and active tokens."""
    large = facts.large
    image = shape.tokens * (2 if shape.active else 1) * large.image_slots
    live = shape.active and not shape.text_cached
    text = facts.text_tokens * (2 if live else 1) * large.text_slots
    return shape.rows * (image + text) * 2 * large.width * item_bytes


def loop_bytes(facts: Facts, shape: LoopShape, item_bytes: int) -> int:
    """What a loop's tensors take, but for a few that hold one number each; steps of the prompts' rows alone add theirs.

    `item_bytes` is what a key's or value's number takes; the cache is nearly all of it.
    """
    width = facts.latent.token_width
    index = shape.rows * facts.large.heads * shape.cached * 4 if shape.active else 0
    floats = 7 * shape.pictures * shape.tokens * width + shape.rows * (shape.tokens * 2 + shape.active) * width
    blended = shape.pictures * 2 * shape.active * width if shape.active else 0
    return cache_bytes(facts, shape, item_bytes) + index + 4 * (floats + blended)


def write_all(tensor: Tensor, value: np.ndarray | float | int) -> None:
    """Fills a tensor from a host value, broadcast to its shape."""
    tensor.write(np.ascontiguousarray(np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)))
