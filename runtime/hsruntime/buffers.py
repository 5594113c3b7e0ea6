"""The denoising loop's memory: allocated once per shape, shared by every segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsengines.backend import Device, Tensor
from hsruntime.manifest import Manifest, Transformer


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
    def empty(cls, device: Device, model: Transformer, rows: int, tokens: int) -> Cache:
        """Uninitialised slots (G, H, tokens, D)."""
        shape = (rows, model.heads, tokens, model.head_size)
        return cls(tuple(device.empty(shape, "float32") for _ in range(2 * model.attention_layers)))


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
        length = text_tokens(manifest)
        return cls(
            device.empty((rows, length, manifest.large.text_width), "float32"),
            device.empty((rows, manifest.large.pooled_width), "float32"),
        )


def text_tokens(manifest: Manifest) -> int:
    """T: one CLIP's length and T5's; the two CLIPs stand side by side."""
    shape = next(t.shape for t in manifest.engines["join_text"].outputs if t.name == "text")
    assert isinstance(shape[1], int)  # a bundle does not open otherwise
    return shape[1]


def write_all(tensor: Tensor, value: np.ndarray | float | int) -> None:
    """Fills a tensor from a host value, broadcast to its shape."""
    tensor.write(np.ascontiguousarray(np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)))
