"""Learning rate and seeding: both depend on the step alone, so that a resumed run is the same run."""

from __future__ import annotations

import torch

WARMUP_STEPS = 100
DECAY_SHARE = 0.3


def learning_rate_scale(step: int, steps: int, decay_share: float = DECAY_SHARE) -> float:
    """Warm-up, a plateau, then linear decay to zero over the last share of the steps."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, (steps - step) / (decay_share * steps))


def generator_at(seed: int, step: int) -> torch.Generator:
    """The noise source of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def batch_at(seed: int, step: int, size: int, count: int) -> torch.Tensor:
    """Indices of one batch: consecutive slices of a fresh permutation per pass over the corpus."""
    first = step * size
    picks: list[int] = []
    while len(picks) < size:
        at, offset = divmod(first + len(picks), count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + at))
        picks += order[offset : offset + size - len(picks)].tolist()
    return torch.tensor(picks)
