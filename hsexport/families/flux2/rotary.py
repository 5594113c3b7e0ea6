"""Where a token is, as angles that its queries and keys are turned by: Flux2PosEmbed over the pipeline's ids.

A token's id has four numbers: which picture, row, column, and place in the text; each turns a part of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsruntime.facts import Positions


def turns(ids: Tensor, axes: tuple[int, ...], theta: float) -> Tensor:
    """Cosines and sines (tokens, D) of ids (tokens, 4), D / 2 of each; in double precision until the end."""
    angles = []
    for axis, size in enumerate(axes):
        frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles.append(torch.outer(ids[:, axis].double(), frequencies))
    whole = torch.cat(angles, dim=-1)
    return torch.cat([whole.cos(), whole.sin()], dim=-1).float()


BETWEEN = 10
"""How far apart the pipeline puts what is drawn and each picture that it is drawn after."""


def image_turns(kept: Positions, references: int, axes: tuple[int, ...], theta: float) -> Tensor:
    """Of a picture's tokens, row by row, and of as many others: ((1 + references) * rows * columns, D)."""
    first, rows, columns = map(torch.arange, (1, kept.rows, kept.columns))
    pictures = torch.arange(1 + references) * BETWEEN
    return turns(torch.cartesian_prod(pictures, rows, columns, first), axes, theta)


def text_turns(tokens: int, axes: tuple[int, ...], theta: float) -> Tensor:
    """Of as many text tokens: (tokens, D)."""
    first = torch.arange(1)
    return turns(torch.cartesian_prod(first, first, first, torch.arange(tokens)), axes, theta)


class Turned(nn.Module):
    """Heads (G, M, H, D) turned by (G, M, D) of `turns`, neighbouring numbers together, as apply_rotary_emb does.

    A module, so that its nodes can be told from others.
    """

    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        """(G, M, H, D)."""
        cos, sin = by[:, :, None].chunk(2, dim=-1)
        real, imaginary = x.unflatten(-1, (x.shape[-1] // 2, 2)).unbind(-1)
        return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)
