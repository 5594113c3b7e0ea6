"""Noise levels of a flow-matching model, and its noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import structs

from hsruntime.facts import Positions, Sigmas
from hsruntime.schedule.schedule import Schedule


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Moves noise levels towards 1 (Esser et al. 2024, section 5.3.2)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def noise_levels(sigmas: Sigmas, schedule: Schedule, tokens: int) -> np.ndarray:
    """A schedule's (steps + 1,) float32, from 1 or so down to 0: those that it states, or as its grid spaces them.

    Of a schedule with a start, those behind it. `tokens`: of the picture, by which some pairs' are shifted.
    """
    if schedule.sigmas:
        levels = np.array(schedule.sigmas)
    else:
        steps = schedule.start + schedule.steps
        shift = shift_of(sigmas, tokens, steps) if schedule.shift is None else schedule.shift
        levels = GRIDS[schedule.grid](structs.replace(sigmas, shift=shift), steps)[schedule.start :]
    return np.append(levels, 0).astype(np.float32)


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


RULES = {"flow-match-euler": _flow_match_euler, "trailing": _trailing, "empirical-mu": _trailing}


def shift_of(sigmas: Sigmas, tokens: int, steps: int) -> float:
    """The pair's own: one for all pictures, or by how many tokens and steps they have.

    Source of the latter: Flux2KleinPipeline's compute_empirical_mu, of which this is the exponential.
    """
    if sigmas.rule != "empirical-mu":
        return sigmas.shift
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return float(np.exp(at_200))
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return float(np.exp(at_200 + (at_200 - at_10) / 190 * (steps - 200)))


def _own(sigmas: Sigmas, steps: int) -> np.ndarray:
    """As diffusers has them for the pair by default."""
    return RULES[sigmas.rule](sigmas, steps)


def _between(space: Callable[[np.ndarray, float, float], np.ndarray]) -> Callable[[Sigmas, int], np.ndarray]:
    """Another spacing between the first and the last of diffusers' own levels, as its schedulers do it."""

    def grid(sigmas: Sigmas, steps: int) -> np.ndarray:
        own = _own(sigmas, steps).astype(np.float64)
        return space(np.linspace(0, 1, steps), own[0], own[-1])

    return grid


def _karras(ramp: np.ndarray, first: float, last: float) -> np.ndarray:
    """Even in the seventh root (Karras et al. 2022, equation 5)."""
    return (first ** (1 / 7) + ramp * (last ** (1 / 7) - first ** (1 / 7))) ** 7


def _exponential(ramp: np.ndarray, first: float, last: float) -> np.ndarray:
    """Even in the logarithm."""
    return first ** (1 - ramp) * last**ramp


def _beta(ramp: np.ndarray, first: float, last: float) -> np.ndarray:
    """Quantiles of the beta distribution with 0.6 and 0.6 (arXiv 2407.12173): dense at both ends.

    Over x = sin^2(angle) its density is smooth, and trapezoids are exact to six digits.
    """
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = (np.sin(angles) * np.cos(angles)) ** (2 * 0.6 - 1)
    mass = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
    quantiles = np.sin(np.interp(1 - ramp, mass / mass[-1], angles)) ** 2
    return last + quantiles * (first - last)


GRIDS: dict[str, Callable[[Sigmas, int], np.ndarray]] = {
    "diffusers": _own,
    "trailing": _trailing,
    "karras": _between(_karras),
    "exponential": _between(_exponential),
    "beta": _between(_beta),
}
"""Noise levels (steps,) of a schedule's grid, from the pair's own numbers."""


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


def grid_positions(kept: Positions, grid: tuple[int, int], picture: int = 0) -> np.ndarray:
    """Rows (h*w,) int32 of the kept position table for a picture of (h, w) tokens.

    `picture`: 0 for what is drawn, then those that it is drawn after, each in a table of its own behind the last.
    """
    (h, w), size, top, left = grid, kept.table_size, 0, 0
    if kept.origin == "centre":
        top, left = (size - h) // 2 - (size - kept.rows) // 2, (size - w) // 2 - (size - kept.columns) // 2
    places = (np.arange(h)[:, None] + top) * kept.columns + np.arange(w) + left
    return (picture * kept.rows * kept.columns + places).ravel().astype(np.int32)
