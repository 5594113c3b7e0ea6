"""The step's own arithmetic in torch: gathering, guidance, blending, the solver's step.

Gathers take flat row numbers (row = picture * N + token): one index_select over int32 serves every backend, where
batched gathers each have a backend that refuses them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (K, ...) picked by index (any shape), as (*index.shape, ...)."""
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape)


class Prepare(nn.Module):
    """Latents (B, N, P) to a transformer's tokens (G, M, P)."""

    def forward(self, latents: Tensor, index: Tensor) -> tuple[Tensor]:
        """`index` (G, M) holds flat row numbers into B * N."""
        return (take_rows(latents.flatten(0, 1), index),)


class Guide(nn.Module):
    """Classifier-free guidance over the rows of a velocity."""

    def forward(self, velocity: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """The guided velocity (B, M, P) of rows (G, M, P), and how far the cond row lies from the uncond one.

        `cond` and `uncond` (B,) name each picture's rows; without guidance both name the same row and drop out.
        """
        plain = velocity.index_select(0, uncond)
        difference = velocity.index_select(0, cond) - plain
        return plain + guidance * difference, difference


class GuideHeld(nn.Module):
    """Guidance from the cond rows alone: the difference to the uncond ones is an earlier step's."""

    def forward(self, velocity: Tensor, difference: Tensor, index: Tensor, excess: Tensor) -> tuple[Tensor]:
        """`velocity` (B, M, P), `difference` (B, N, P); `index` (B, M) holds flat row numbers into B * N.

        `excess` (1,) is the guidance scale less 1, since v_u + g (v_c - v_u) = v_c + (g - 1) (v_c - v_u); 0 is none.
        """
        return (velocity + excess * take_rows(difference.flatten(0, 1), index),)


class Advance(nn.Module):
    """One step of a linear two-step solver."""

    def forward(
        self, velocity: Tensor, previous: Tensor, clean: Tensor, latents: Tensor, coefficients: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next latents a x + b v + c v' + d x', the clean picture x - sigma v, and the next step's number.

        v' is the velocity of the step before, x' (`clean`) what it foresaw; `coefficients` (S, 5) are a, b, c, d and
        sigma. Euler has 1, sigma_next - sigma, 0 and 0.
        """
        now = coefficients.index_select(0, step)
        following = now[:, 0] * latents + now[:, 1] * velocity + now[:, 2] * previous + now[:, 3] * clean
        return following, latents - now[:, 4] * velocity, step + 1


class Extrapolate(nn.Module):
    """A step's velocity without a network: earlier ones, weighed."""

    def forward(self, last: Tensor, second: Tensor, third: Tensor, weights: Tensor, step: Tensor) -> tuple[Tensor]:
        """Velocities (B, N, P), the latest first; `weights` (S, 3) by step."""
        now = weights.index_select(0, step)
        return (now[:, 0] * last + now[:, 1] * second + now[:, 2] * third,)


class Keep(nn.Module):
    """Inpainting as diffusers' pipeline does it: after a step, the original where nothing is drawn."""

    def forward(
        self, latents: Tensor, original: Tensor, noise: Tensor, drawn: Tensor, reached: Tensor, step: Tensor
    ) -> tuple[Tensor]:
        """All (B, N, P); `reached` (S,) is the noise level after each step, `step` the number of the next one."""
        sigma = reached.index_select(0, (step - 1).clamp(min=0))
        noised = sigma * noise + (1 - sigma) * original
        return (noised + drawn * (latents - noised),)


class Score(nn.Module):
    """How much two velocities (B, N, P) differ, token by token: mean absolute difference (B, N)."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor]:
        """Zero where they agree."""
        return ((first - second).abs().mean(dim=-1),)


class Spread(nn.Module):
    """How uneven a velocity (B, N, P) is inside each token: RAS's score (arXiv 2502.10389)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, velocity: Tensor) -> tuple[Tensor]:
        """Deviation over the channels of each latent, mean over the token's latents: (B, N)."""
        latents = velocity.unflatten(-1, (-1, self.channels))
        centred = latents - latents.mean(dim=-1, keepdim=True)
        return (centred.square().mean(dim=-1).sqrt().mean(dim=-1),)


class SelectCache(nn.Module):
    """The cached tokens' part (G, R, H, D) of one layer's keys or values (G, N, H, D)."""

    def forward(self, everything: Tensor, index: Tensor) -> tuple[Tensor]:
        """`index` (G, R) holds flat row numbers into G * N."""
        return (take_rows(everything.flatten(0, 1), index),)


class Merge(nn.Module):
    """One layer's keys or values with some tokens' renewed."""

    def forward(self, fresh: Tensor, everything: Tensor, index: Tensor) -> tuple[Tensor]:
        """`fresh` (G, M, ...) over `everything` (G, N, ...).

        `index` (G, N) holds flat row numbers into all rows of `fresh` followed by all of `everything`.
        """
        return (take_rows(torch.cat([fresh.flatten(0, 1), everything.flatten(0, 1)]), index),)


class Blend(Merge):
    """Large's velocity on the active tokens, another one elsewhere."""

    def forward(self, active: Tensor, elsewhere: Tensor, index: Tensor) -> tuple[Tensor]:
        """As Merge has it, by way of a difference: one rounding more, with which pictures keep their bytes."""
        (chosen,) = super().forward(active, elsewhere, index)
        return (elsewhere + (chosen - elsewhere),)


class Unpatchify(nn.Module):
    """Tokens (B, N, P) to latents (B, C, h, w)."""

    def forward(self, tokens: Tensor, order: Tensor) -> tuple[Tensor]:
        """`order` (C, h, w) says where each number of the latents lies among a picture's N * P."""
        numbers = tokens.flatten(1).index_select(1, order.flatten())
        return (numbers.unflatten(1, order.shape),)
