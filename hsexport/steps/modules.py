"""The step's own arithmetic in torch: gathering, guidance, blending, Euler.

Gathers take flat row numbers (row = picture * N + token): one index_select over int32 serves every backend, where
batched gathers each have a backend that refuses them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (K, W) picked by index (any shape), as (*index.shape, W)."""
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape)


def guided(velocity: Tensor, told: Tensor, untold: Tensor, guidance: Tensor) -> Tensor:
    """Classifier-free guidance (B, N, P) over rows of velocity (G, N, P).

    `told` and `untold` (B,) name each picture's rows; without guidance both name the same row and drop out.
    """
    plain = velocity.index_select(0, untold)
    return plain + guidance * (velocity.index_select(0, told) - plain)


def euler(latents: Tensor, velocity: Tensor, sigmas: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """X + (sigma_next - sigma) v, and the next step's number."""
    after = step + 1
    return latents + (sigmas.index_select(0, after) - sigmas.index_select(0, step)) * velocity, after


class Prepare(nn.Module):
    """Latents (B, N, P) to a transformer's tokens (G, M, P), and its timestep (1,)."""

    def forward(self, latents: Tensor, index: Tensor, timesteps: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """`index` (G, M) holds flat row numbers into B * N."""
        return take_rows(latents.flatten(0, 1), index), timesteps.index_select(0, step)


class Advance(nn.Module):
    """One Euler step from one model's velocity."""

    def forward(
        self,
        velocity: Tensor,
        latents: Tensor,
        told: Tensor,
        untold: Tensor,
        guidance: Tensor,
        sigmas: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next latents, the guided velocity, the next step's number."""
        v = guided(velocity, told, untold, guidance)
        after, next_step = euler(latents, v, sigmas, step)
        return after, v, next_step


class AdvanceBlended(nn.Module):
    """One Euler step: small's velocity everywhere, large's on the active tokens."""

    def forward(
        self,
        velocity_large: Tensor,
        velocity_small: Tensor,
        blend: Tensor,
        latents: Tensor,
        told: Tensor,
        untold: Tensor,
        guidance: Tensor,
        sigmas: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`blend` (B, N) holds flat row numbers into large's B * M rows followed by small's B * N."""
        large = guided(velocity_large, told, untold, guidance)
        small = guided(velocity_small, told, untold, guidance)
        v = take_rows(torch.cat([large.flatten(0, 1), small.flatten(0, 1)]), blend)
        after, next_step = euler(latents, v, sigmas, step)
        return after, v, next_step


class Score(nn.Module):
    """How much two velocities (B, N, P) differ, token by token: mean absolute difference (B, N)."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor]:
        """Zero where they agree."""
        return ((first - second).abs().mean(dim=-1),)


class SelectCache(nn.Module):
    """The cached tokens' part (G, H, R, D) of one layer's keys or values (G, H, N, D)."""

    def forward(self, everything: Tensor, index: Tensor) -> tuple[Tensor]:
        """`index` (G, H, R) holds flat row numbers into G * H * N."""
        return (take_rows(everything.flatten(0, 2), index),)


class Unpatchify(nn.Module):
    """Tokens (B, N, P) to latents (B, C, h, w)."""

    def forward(self, tokens: Tensor, order: Tensor) -> tuple[Tensor]:
        """`order` (C, h, w) says where each number of the latents lies among a picture's N * P."""
        numbers = tokens.flatten(1).index_select(1, order.flatten())
        return (numbers.unflatten(1, order.shape),)
