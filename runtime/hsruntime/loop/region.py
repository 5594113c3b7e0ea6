"""Choosing the region: which tokens large goes on refining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """Active and cached tokens of each picture, in ascending order."""

    active: np.ndarray  # (B, M) int32
    cached: np.ndarray  # (B, R) int32

    @property
    def mask(self) -> np.ndarray:
        """(B, N) bool, true on active tokens."""
        mask = np.zeros((len(self.active), self.active.shape[1] + self.cached.shape[1]), bool)
        np.put_along_axis(mask, self.active.astype(np.int64), True, axis=1)
        return mask


def active_count(ratio: float, tokens: int) -> int:
    """M for a ratio: rounded to a 64th of the picture (64 tokens at 4096), so that few shapes ever occur; 1 is all."""
    if ratio == 1:
        return tokens
    multiple = max(1, tokens // 64)
    return min(tokens, max(multiple, round(ratio * tokens / multiple) * multiple))


def region_from_scores(scores: np.ndarray, active: int) -> Region:
    """The `active` highest-scoring tokens of each picture; scores (B, N). Ties go to the earlier token."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return Region(
        np.sort(order[:, :active], axis=1).astype(np.int32), np.sort(order[:, active:], axis=1).astype(np.int32)
    )


def random_scores(grid: tuple[int, int], seeds: Sequence[int], draw: int) -> np.ndarray:
    """The first control: any tokens, one row for each picture's seed, others at each `draw`."""
    tokens = grid[0] * grid[1]
    return np.stack([np.random.default_rng((seed, 1 + draw)).random(tokens, np.float32) for seed in seeds])


def center_scores(grid: tuple[int, int], seeds: Sequence[int], draw: int) -> np.ndarray:
    """The second control: the middle of the picture, a box, whatever the seeds and the `draw`."""
    del draw
    h, w = grid
    rows, columns = np.abs(np.arange(h) - (h - 1) / 2) / h, np.abs(np.arange(w) - (w - 1) / 2) / w
    distance = np.maximum(rows[:, None], columns[None, :]).ravel()
    return np.tile(-distance.astype(np.float32), (len(seeds), 1))


CONTROLS = {"random": random_scores, "center": center_scores}
"""Scores (B, N) over a grid (h, w) of tokens, for the signals that look at no velocity."""


def marked_tokens(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Tokens (h, w) bool of which any pixel is marked in `mask` (H, W)."""
    h, w = grid
    return np.asarray(mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w).any(axis=(1, 3)))


def grown(tokens: np.ndarray) -> np.ndarray:
    """Marked tokens (h, w) with all their neighbours."""
    h, w = tokens.shape
    padded = np.pad(tokens, 1)
    return np.logical_or.reduce([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)])


def marked_scores(tokens: np.ndarray) -> np.ndarray:
    """Scores (N,) of marked tokens (h, w), of which there is one: 0, and less with every token farther away."""
    scores = np.zeros(tokens.shape, np.float32)
    while not tokens.all():
        scores -= ~tokens
        tokens = grown(tokens)
    return scores.ravel()


def marked_count(tokens: np.ndarray) -> int:
    """M for marked tokens: rounded up to a 64th of the picture, so that few shapes ever occur."""
    multiple = max(1, tokens.size // 64)
    return min(tokens.size, -(-int(tokens.sum()) // multiple) * multiple)


def row_index(tokens_per_row: int, columns: np.ndarray) -> np.ndarray:
    """Flat row numbers of `columns` (rows, ...): row * tokens_per_row + column, int32."""
    offsets = np.arange(len(columns), dtype=np.int32) * tokens_per_row
    return columns + offsets.reshape(-1, *([1] * (columns.ndim - 1)))


def cache_index(cached: np.ndarray, rows: int, tokens: int, first: int = 0) -> np.ndarray:
    """Flat row numbers (rows, R) of the cached tokens into a cache of (row, token).

    Guidance rows share their picture's region; `first` is where the rows wanted start in the cache.
    """
    return row_index(tokens, np.tile(cached, (rows // len(cached), 1))) + np.int32(first * tokens)


def merge_index(region: Region, rows: int) -> np.ndarray:
    """Flat row numbers (G, N) into G * M fresh tokens, then G * N kept ones: fresh where active."""
    pictures, active = region.active.shape
    tokens = active + region.cached.shape[1]
    index = rows * active + np.arange(rows * tokens, dtype=np.int32).reshape(rows, tokens)
    fresh = np.arange(rows * active, dtype=np.int32).reshape(rows, active)
    np.put_along_axis(index, np.tile(region.active, (rows // pictures, 1)).astype(np.int64), fresh, axis=1)
    return index
