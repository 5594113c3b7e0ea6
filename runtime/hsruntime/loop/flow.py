"""Noise levels of a flow-matching model, and its noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hsruntime.facts import Positions, Sigmas


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Moves noise levels towards 1 (Esser et al. 2024, section 5.3.2)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas_for(sigmas: Sigmas, steps: int) -> np.ndarray:
    """Noise levels (steps + 1,) float32, from 1 down to 0, as the rule spaces them."""
    return np.append(RULES[sigmas.rule](sigmas, steps), 0).astype(np.float32)


def _flow_match_euler(sigmas: Sigmas, steps: int) -> np.ndarray:
    """As FlowMatchEulerDiscreteScheduler.set_timesteps has them: evenly spaced between the shifted extremes of the
    training levels, then shifted once more.
    """
    count = sigmas.levels
    trained = shifted(np.array([count, 1], np.float32) / np.float32(count), sigmas.shift)
    spaced = np.linspace(trained[0] * count, trained[1] * count, steps) / count
    return shifted(spaced.astype(np.float32), sigmas.shift)


def _trailing(sigmas: Sigmas, steps: int) -> np.ndarray:
    """1, 1 - 1/steps, ..., 1/steps, shifted once: what FluxPipeline passes as `sigmas`."""
    return shifted(np.linspace(1, 1 / steps, steps, dtype=np.float32), sigmas.shift)


RULES = {"flow-match-euler": _flow_match_euler, "trailing": _trailing}


def solver_coefficients(sigmas: np.ndarray, solver: str) -> np.ndarray:
    """What each step takes of its velocity and of the one before: (steps, 2) float32 for noise levels (steps + 1,).

    "euler": h and 0, h being the step in sigma. "ab2": the second-order Adams-Bashforth step over unequal steps,
    h (1 + h / 2h') and -h (h / 2h') with h' the step before; its first step is Euler's.
    """
    h = np.diff(sigmas.astype(np.float64))
    ratio = np.zeros_like(h)
    if solver == "ab2":
        ratio[1:] = h[1:] / (2 * h[:-1])
    return np.stack([h * (1 + ratio), -h * ratio], axis=1).astype(np.float32)


def seeded_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> np.ndarray:
    """Standard normal latents (B, C, h, w) float32 for `shape` (C, h, w), one for each seed."""
    draws = [np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32) for seed in seeds]
    return np.stack(draws)


def tokens_from_latents(latents: np.ndarray, patch: int) -> np.ndarray:
    """Latents (B, C, h*p, w*p) as tokens (B, h*w, p*p*C), numbers laid out (p, q, C)."""
    b, c, height, width = latents.shape
    h, w = height // patch, width // patch
    grid = latents.reshape(b, c, h, patch, w, patch).transpose(0, 2, 4, 3, 5, 1)
    return np.ascontiguousarray(grid.reshape(b, h * w, patch * patch * c))


def latents_from_tokens(tokens: np.ndarray, patch: int, grid: tuple[int, int]) -> np.ndarray:
    """The reverse of `tokens_from_latents`; `grid` is (h, w) in tokens."""
    h, w = grid
    c = tokens.shape[-1] // patch**2
    split = tokens.reshape(len(tokens), h, w, patch, patch, c).transpose(0, 5, 1, 3, 2, 4)
    return np.ascontiguousarray(split.reshape(len(tokens), c, h * patch, w * patch))


def grid_positions(kept: Positions, grid: tuple[int, int]) -> np.ndarray:
    """Rows (h*w,) int32 of the kept position table for a picture of (h, w) tokens."""
    (h, w), size, top, left = grid, kept.table_size, 0, 0
    if kept.origin == "centre":
        top, left = (size - h) // 2 - (size - kept.rows) // 2, (size - w) // 2 - (size - kept.columns) // 2
    return ((np.arange(h)[:, None] + top) * kept.columns + np.arange(w) + left).ravel().astype(np.int32)
