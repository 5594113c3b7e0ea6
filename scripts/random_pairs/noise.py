"""Random parameters: how large each is drawn, and noise enough for any of them out of one block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from zlib import crc32

import torch

BLOCK = 4_194_301
"""Numbers in the block: a prime, so that no width divides it and a matrix never repeats a row."""
SEED = 0


def spread_of(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(standard deviation, mean): matrices keep a signal's size, norms lie around 1, biases off 0."""
    if len(shape) > 1:
        return math.prod(shape[1:]) ** -0.5, 0.0
    return 0.1, float("norm" in name and name.endswith("weight"))


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws every parameter, in order, from one generator; returns the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        deviation, mean = spread_of(name, tuple(parameter.shape))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation + mean)
    return module.eval()


def pieces_of(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """A tensor's numbers in pieces of a block at the most; they follow from its name and shape alone."""
    deviation, mean = _checkpoint_spread(name, shape)
    start, left = crc32(f"{name}{shape}".encode()) % BLOCK, math.prod(shape)
    noise = torch.cat([_block()[start:], _block()[:start]]) if start + left > BLOCK else _block()[start : start + left]
    drawn = (noise * deviation + mean).to(dtype)
    while left > 0:
        yield drawn[:left]
        left -= BLOCK


@cache
def _block() -> torch.Tensor:
    """Normal noise, fp32: drawing billions of numbers would take longer than writing them."""
    return torch.randn(BLOCK, generator=torch.Generator().manual_seed(SEED))


def _checkpoint_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """As `spread_of`, but for what real checkpoints hold otherwise."""
    if name == "pos_embed.pos_embed":  # sines and cosines
        return 0.5**0.5, 0.0
    if name.endswith("SelfAttention.q.weight"):  # T5 scales its queries here, and not in its attention
        return (shape[1] * 64) ** -0.5, 0.0
    if name.endswith("running_var"):  # no square is below zero
        return 0.1, 1.0
    return spread_of(name, shape)
