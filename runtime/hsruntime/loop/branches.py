"""The rows of a picture that a step runs: both under guidance, or the prompt's alone; each branch has its buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsengines.backend import Device, Tensor
from hsruntime.bundle.manifest import Manifest
from hsruntime.loop.buffers import Cache, Conditioning, LoopShape, TokenBuffers
from hsruntime.loop.region import Region, cache_index, row_index


@dataclass(frozen=True)
class Active:
    """What large reads and writes of the region in one branch."""

    tokens: TokenBuffers
    guided: Tensor  # (B, M, P): its velocity after guidance
    index: Tensor  # (rows, H, R) int32: the cached tokens among the whole picture's
    text_index: Tensor | None  # (rows, H, T) int32: the branch's text, where it is a part of the whole cache's
    past: Cache  # of the cached tokens
    unread: Cache  # keys and values of the active tokens

    @classmethod
    def empty(cls, device: Device, manifest: Manifest, shape: LoopShape, rows: int, presents: Cache) -> Active:
        """Uninitialised but for the text's index; a branch of all rows reads a cached text where `presents` has it."""
        heads, width = manifest.facts.large.heads, manifest.facts.latent.token_width
        text = presents.text[0].shape[2]
        past = Cache.empty(device, manifest, rows, shape.cached, 0)
        text_index = None
        if shape.text_cached and rows == shape.rows:
            past = Cache(past.image, presents.text)
        elif shape.text_cached:
            past = Cache(past.image, Cache.empty(device, manifest, rows, 0, text).text)
            everything = np.tile(np.arange(text, dtype=np.int32), (shape.pictures, 1))
            text_index = device.upload(cache_index(everything, rows, heads, text, shape.rows - rows))
        return cls(
            TokenBuffers.empty(device, rows, shape.active, width),
            device.empty((shape.pictures, shape.active, width), "float32"),
            device.empty((rows, heads, shape.cached), "int32"),
            text_index,
            past,
            Cache.empty(device, manifest, rows, shape.active, 0 if shape.text_cached else text),
        )


@dataclass
class Branch:
    """Buffers of some rows; `active` is made when a region step is first asked for."""

    shape: LoopShape
    rows: int  # G, or B: the prompts' rows, which stand last among G
    heads: int
    text: Conditioning
    whole: TokenBuffers
    small_positions: Tensor  # (rows, N) int32
    small_velocity: Tensor  # (rows, N, P)
    active: Active | None = None
    _unread: Cache | None = None

    @classmethod
    def empty(cls, device: Device, manifest: Manifest, shape: LoopShape, rows: int, text: Conditioning) -> Branch:
        """Uninitialised."""
        width = manifest.facts.latent.token_width
        return cls(
            shape,
            rows,
            manifest.facts.large.heads,
            text,
            TokenBuffers.empty(device, rows, shape.tokens, width),
            device.empty((rows, shape.tokens), "int32"),
            device.empty((rows, shape.tokens, width), "float32"),
        )

    def unread(self, device: Device, manifest: Manifest) -> Cache:
        """Where large's keys and values go that no region will be gathered from."""
        if self._unread is None:
            self._unread = Cache.empty(device, manifest, self.rows, self.shape.tokens, self.text.text.shape[1])
        return self._unread

    def inputs(self, target: TokenBuffers, timestep: Tensor) -> dict[str, Tensor]:
        """What both transformers take."""
        return {
            "tokens": target.tokens,
            "positions": target.positions,
            "timestep": timestep,
            "text": self.text.text,
            "pooled": self.text.pooled,
        }

    def write_whole_picture(self, large: np.ndarray, small: np.ndarray) -> None:
        """Positions (N,) of either model, and rows, of the whole picture: they never change."""
        shape = self.shape
        everything = np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.pictures, 1))
        self.whole.positions.write(np.tile(large, (self.rows, 1)))
        self.small_positions.write(np.tile(small, (self.rows, 1)))
        self.whole.index.write(self._by_row(row_index(shape.tokens, everything)))

    def write_region(self, region: Region, positions: np.ndarray) -> None:
        """Where the active and the cached tokens lie; `positions` (N,) of large."""
        if self.active is None:
            return
        tokens, shape = self.active.tokens, self.shape
        tokens.positions.write(positions[self._by_row(region.active)])
        tokens.index.write(self._by_row(row_index(shape.tokens, region.active)))
        first = shape.rows - self.rows
        self.active.index.write(cache_index(region.cached, self.rows, self.heads, shape.tokens, first))

    def _by_row(self, by_picture: np.ndarray) -> np.ndarray:
        return np.tile(by_picture, (self.rows // self.shape.pictures, 1))
