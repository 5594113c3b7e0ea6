"""Matrices in 8 or 4 bits: which numbers stand for them, and the scales that make numbers of those again.

Rows are output channels, columns what is summed over. Rounding is to the nearest; what shares a 4-bit scale gets the
one with the least squared error, found by turns of rounding and fitting (as in iterative least-squares quantisation,
each column weighted by the mean square of what it is multiplied with, where that is known).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import torch

LARGEST = {"int8": 127, "int8-full": 127, "int4": 7, "fp8": 448, "nvfp4": 6}
"""What the largest weight of a scale is mapped to."""
TYPES = {
    "int8": np.dtype(np.int8),
    "int8-full": np.dtype(np.int8),
    "int4": np.dtype(ml_dtypes.int4),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
    "nvfp4": np.dtype(ml_dtypes.float4_e2m1fn),
}
SCALE_TYPE = np.dtype(ml_dtypes.float8_e4m3fn)
"""Of nvfp4's blocks, which a scale for the whole matrix multiplies."""
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
BETWEEN = (E2M1[1:] + E2M1[:-1]) / 2
"""The numbers of nvfp4, and where one ends and the next begins."""
NUMBERS = 2**20
"""Looked at together, in whole rows: what is computed on the way is several times as large."""
STARTS = (1.0, 0.85)
"""Shares of the largest weight that the search for a scale begins with: the rest is cut off."""
TURNS = 1
TINY = 1e-12


@dataclass(frozen=True)
class Form:
    """How a matrix is to be stored: the format, weights to a scale (0: a whole row), the type that scales fit into.

    `bits` below 8 leave integers room to be summed in; `importance` (columns,) weighs squared errors.
    """

    format: str
    block: int = 0
    scale_type: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    bits: int = 8
    importance: np.ndarray | None = None


@dataclass(frozen=True)
class Quantised:
    """Numbers (rows, columns), their scales (rows, columns / block) as float32, and for nvfp4 the scale of these."""

    values: np.ndarray
    scales: np.ndarray
    scale_of_scales: np.ndarray | None = None

    def numbers(self) -> np.ndarray:
        """What they stand for: (rows, columns) float32."""
        scales = self.scales.astype(np.float32)
        if self.scale_of_scales is not None:
            scales = scales * self.scale_of_scales
        return self.values.astype(np.float32) * np.repeat(scales, self.values.shape[1] // scales.shape[1], axis=1)


def quantised(matrix: np.ndarray, form: Form) -> Quantised:
    """A float32 matrix (rows, columns) in that form; numbers that are not finite are for the caller to have refused."""
    weight = None if form.importance is None else torch.from_numpy(form.importance.astype(np.float32))
    if form.format == "nvfp4":
        return _nvfp4(matrix, form, weight)
    values, scales = np.empty(matrix.shape, TYPES[form.format]), []
    for rows in _parts(matrix):
        blocks, importance = _blocks(matrix[rows], form, weight)
        scale = _fitted(blocks, form, importance) if form.block else _widest(blocks, form)
        found = _rounded(blocks / scale, form).reshape(len(blocks), -1).numpy()
        values[rows] = found.astype(values.dtype)
        scales.append(scale[..., 0].numpy())
    return Quantised(values, np.concatenate(scales))


def _parts(matrix: np.ndarray) -> Iterator[slice]:
    """Rows that are looked at together."""
    step = max(1, NUMBERS // max(1, matrix.shape[1]))
    return (slice(start, start + step) for start in range(0, len(matrix), step))


def _blocks(rows: np.ndarray, form: Form, weight: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows as (rows, blocks, weights to a scale), and the importance of each beside them."""
    size = form.block or rows.shape[1]
    blocks = torch.from_numpy(np.array(rows, np.float32, order="C")).reshape(len(rows), -1, size)
    return blocks, None if weight is None else weight.reshape(1, -1, size)


def _largest(form: Form) -> int:
    return 2 ** (form.bits - 1) - 1 if form.bits < 8 else LARGEST[form.format]


def _widest(blocks: torch.Tensor, form: Form) -> torch.Tensor:
    """The scale that cuts nothing off, in the type that it will have."""
    return _in_type(blocks.abs().amax(-1, keepdim=True) / _largest(form), form)


def _in_type(scale: torch.Tensor, form: Form) -> torch.Tensor:
    """What is left of a scale in its type: numbers are rounded for this one, so that its own error is none."""
    rounded = scale.clamp_min(TINY).numpy().astype(form.scale_type).astype(np.float32)
    return torch.from_numpy(np.maximum(rounded, np.float32(TINY)))


def _fitted(blocks: torch.Tensor, form: Form, importance: torch.Tensor | None) -> torch.Tensor:
    """For each block the scale with the least squared error, of those that `TURNS` turns from each start lead to."""
    widest = blocks.abs().amax(-1, keepdim=True) / _largest(form)
    best, least = _widest(blocks, form), torch.full_like(widest, torch.inf)
    for start in STARTS:
        scale = _in_type(widest * start, form)
        for turn in range(TURNS + 1):
            found = _rounded(blocks / scale, form)
            error = _sum((blocks - found * scale).square(), importance)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
            if turn < TURNS:
                fit = _sum(blocks * found, importance) / _sum(found.square(), importance).clamp_min(TINY)
                scale = _in_type(fit, form)
    return best


def _sum(values: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    return (values if importance is None else values * importance).sum(-1, keepdim=True)


def _rounded(scaled: torch.Tensor, form: Form) -> torch.Tensor:
    """The nearest numbers that the format has, as float32."""
    if form.format == "nvfp4":  # many times as fast as a cast to it, and these are looked for in turns
        return E2M1[torch.bucketize(scaled.abs(), BETWEEN)].copysign(scaled)
    if form.format == "fp8":
        limit = LARGEST["fp8"]
        return torch.from_numpy(scaled.clamp(-limit, limit).numpy().astype(TYPES["fp8"]).astype(np.float32))
    limit = _largest(form)
    return scaled.round().clamp(-limit - (form.format == "int4"), limit)


def _nvfp4(matrix: np.ndarray, form: Form, weight: torch.Tensor | None) -> Quantised:
    """E2M1 in blocks whose scales are E4M3 times one number for all."""
    whole = scale_of_scales(matrix, form)
    inner = Form("nvfp4", form.block, SCALE_TYPE)
    values, scales = np.empty(matrix.shape, TYPES["nvfp4"]), []
    for rows in _parts(matrix):
        blocks, importance = _blocks(matrix[rows] / whole, form, weight)
        scale = _fitted(blocks, inner, importance)
        values[rows] = _rounded(blocks / scale, inner).reshape(len(blocks), -1).numpy().astype(TYPES["nvfp4"])
        scales.append(scale[..., 0].numpy().astype(SCALE_TYPE))
    return Quantised(values, np.concatenate(scales), whole)


def scale_of_scales(matrix: np.ndarray, form: Form) -> np.ndarray:
    """The number that a matrix's blocks' scales are multiplied with, so that the largest of them is E4M3's."""
    whole = np.float32(np.abs(matrix).max(initial=0) / LARGEST["nvfp4"] / LARGEST["fp8"])
    return np.maximum(np.asarray(whole, form.scale_type).astype(np.float32), np.float32(TINY))
