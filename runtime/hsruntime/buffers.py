"""The denoising loop's memory: allocated once per shape, shared by every segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsengines.backend import Device, Tensor
from hsengines.dtypes import numpy_dtype
from hsruntime.manifest import Manifest, tensor_record


@dataclass(frozen=True)
class LoopShape:
    """Everything the loop's shapes depend on."""

    pictures: int  # B
    rows: int  # G: B, or 2B under guidance
    grid: tuple[int, int]  # (h, w) in tokens
    active: int  # M; 0 if the schedule has no region
    steps: int

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def cached(self) -> int:
        """R."""
        return self.tokens - self.active


@dataclass(frozen=True)
class Cache:
    """Keys and values of every attention layer, in order key 0, value 0, key 1, ..."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def empty(cls, device: Device, manifest: Manifest, rows: int, tokens: int) -> Cache:
        """Uninitialised slots (G, H, tokens, D) of the dtype that large takes."""
        model, dtype = manifest.large, cache_dtype(manifest)
        shape = (rows, model.heads, tokens, model.head_size)
        return cls(tuple(device.empty(shape, dtype) for _ in range(2 * model.attention_layers)))


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
    other: Tensor  # (B, N, P): the velocity it is compared with to choose a region
    scores: Tensor  # (B, N)
    step: Tensor  # (1,) int32
    next_step: Tensor
    timestep: Tensor  # (1,)
    timesteps: Tensor  # (S,)
    sigmas: Tensor  # (S + 1,)
    guidance: Tensor  # (1,)
    told: Tensor  # (B,) int32
    untold: Tensor

    @classmethod
    def empty(cls, device: Device, shape: LoopShape, width: int) -> StepBuffers:
        """Uninitialised."""
        b, n, s = shape.pictures, shape.tokens, shape.steps
        floats = {
            "latents": (b, n, width), "next_latents": (b, n, width), "guided": (b, n, width), "other": (b, n, width),
            "scores": (b, n), "timestep": (1,), "timesteps": (s,), "sigmas": (s + 1,), "guidance": (1,),
        }  # fmt: skip
        ints = {"step": (1,), "next_step": (1,), "told": (b,), "untold": (b,)}
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
        large, length = manifest.large, text_tokens(manifest)
        text, pooled = (tensor_record(manifest, "join_text", name).dtype for name in ("text", "pooled"))
        return cls(
            device.empty((rows, length, large.text_width), text), device.empty((rows, large.pooled_width), pooled)
        )


def text_tokens(manifest: Manifest) -> int:
    """T: one CLIP's length and T5's; the two CLIPs stand side by side."""
    length = tensor_record(manifest, "join_text", "text").shape[1]
    assert isinstance(length, int)  # a bundle does not open otherwise
    return length


def cache_dtype(manifest: Manifest) -> str:
    """What keys and values are kept in: the transformer's own precision."""
    return tensor_record(manifest, "select_cache", "selected").dtype


def loop_bytes(manifest: Manifest, shape: LoopShape) -> int:
    """What a loop's tensors take, but for a few that hold one number each.

    The cache is nearly all of it: every layer's keys and values of the whole picture, and with a region once more
    for cached and active tokens.
    """
    large, width = manifest.large, manifest.latent.token_width
    slot = 2 * large.attention_layers * large.width * numpy_dtype(cache_dtype(manifest)).itemsize
    tokens = shape.tokens * (2 if shape.active else 1)
    index = shape.rows * large.heads * shape.cached * 4 if shape.active else 0
    floats = shape.pictures * shape.tokens * width * 4 + shape.rows * (shape.tokens * 2 + shape.active) * width * 2
    return shape.rows * tokens * slot + index + 4 * floats


def write_all(tensor: Tensor, value: np.ndarray | float | int) -> None:
    """Fills a tensor from a host value, broadcast to its shape."""
    tensor.write(np.ascontiguousarray(np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)))
